#include "base/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace tidegate::text_test {

std::string Times(int count, const std::string& text) {
  std::string all;
  for (int i = 0; i < count; ++i) all += text;
  return all;
}

TEST(IsValidUtf8, TellsBrokenBytesAndSurrogates) {
  EXPECT_TRUE(IsValidUtf8(""));
  EXPECT_TRUE(IsValidUtf8("a\u00e9\u20ac\U0001f600"));
  EXPECT_FALSE(IsValidUtf8("a\xff"));
  EXPECT_FALSE(IsValidUtf8("\xed\xa0\xbd"));  // half of a surrogate pair
  EXPECT_FALSE(IsValidUtf8("\xe2\x82"));      // the beginning of a character
}

TEST(CutAtCharacter, NeverEndsInsideACharacter) {
  const std::string text = "x" + Times(100, "\u00e9");
  EXPECT_EQ(CutAtCharacter(text, 1000), text);
  EXPECT_EQ(CutAtCharacter(text, text.size()), text);
  for (size_t bytes = 0; bytes < text.size(); ++bytes) {
    const std::string_view cut = CutAtCharacter(text, bytes);
    EXPECT_TRUE(IsValidUtf8(cut)) << bytes;
    EXPECT_LE(cut.size(), bytes);
    EXPECT_GE(cut.size() + 1, bytes);
  }
}

TEST(CutAtCharacter, CountsBrokenBytesAsCharacters) {
  EXPECT_EQ(CutAtCharacter("\xff\xff\xff", 2), "\xff\xff");
}

TEST(Printable, LeavesWhatCanBeReadAlone) {
  EXPECT_EQ(Printable("C:\\models \u00e9\U0001f600 'x'"), "C:\\models \u00e9\U0001f600 'x'");
}

TEST(Printable, EscapesWhatTerminalsActUpon) {
  EXPECT_EQ(Printable("a\nb\r\tc"), "a\\nb\\r\\tc");
  EXPECT_EQ(Printable("\x1b[2J"), "\\u{1b}[2J");
  EXPECT_EQ(Printable(std::string_view("a\0b", 3)), "a\\u{0}b");
  EXPECT_EQ(Printable("\u009b31m"), "\\u{9b}31m");  // C1: the short form of ESC [
  EXPECT_EQ(Printable("a\u202eb\u2028"), "a\\u{202e}b\\u{2028}");
  EXPECT_EQ(Printable("a\xff\xe2\x82"), "a\\xff\\xe2\\x82");
}

TEST(Printable, IsBoundedAndSaysWhenItCuts) {
  EXPECT_EQ(Printable(Times(10, "a"), 10), Times(10, "a"));
  EXPECT_EQ(Printable(Times(11, "a"), 10), "aaaaaaa...");
  EXPECT_EQ(Printable("aaaaaa\u00e9\u00e9", 9), "aaaaaa...");
  EXPECT_EQ(Printable(Times(300000, "\n")).size(),
            kShownBytes - 1);  // 98 of two bytes and the dots
  EXPECT_EQ(Printable("abc", 2), "..");
  EXPECT_EQ(Printable("abc", 0), "");
}

TEST(Quoted, PutsTheTextBetweenQuotes) { EXPECT_EQ(Quoted("a\nb"), "'a\\nb'"); }

TEST(Text, LinesStayLines) {
  EXPECT_EQ(PrintableLines("a\n\tb\x1b[2J\r\n", 100), "a\n\tb\\u{1b}[2J\\r\n");
  EXPECT_EQ(PrintableLines("a\xff\nb", 100), "a\\xff\nb");
  EXPECT_EQ(PrintableLines("0123456789", 6), "012...");
  EXPECT_EQ(PrintableLines(std::string(100000, 'x'), std::string::npos).size(), 100000u);
}

}  // namespace tidegate::text_test
