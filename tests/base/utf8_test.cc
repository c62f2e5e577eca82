#include "base/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace tidegate::utf8_test {

void ExpectStep(std::string_view text, Utf8Kind kind, size_t bytes) {
  const Utf8Step step = NextUtf8(text);
  EXPECT_EQ(step.kind, kind) << testing::PrintToString(std::string(text));
  EXPECT_EQ(step.bytes, bytes) << testing::PrintToString(std::string(text));
}

std::string Utf8Of(uint32_t code) {
  const auto low = [code](int shift) { return static_cast<char>(0x80 | ((code >> shift) & 0x3f)); };
  if (code < 0x80) return {static_cast<char>(code)};
  if (code < 0x800) return {static_cast<char>(0xc0 | (code >> 6)), low(0)};
  if (code < 0x10000) return {static_cast<char>(0xe0 | (code >> 12)), low(6), low(0)};
  return {static_cast<char>(0xf0 | (code >> 18)), low(12), low(6), low(0)};
}

TEST(Utf8, AcceptsEveryCharacterAndWaitsForItsRest) {
  for (uint32_t code = 0; code <= 0x10ffff; ++code) {
    if (code >= 0xd800 && code < 0xe000) continue;
    const std::string text = Utf8Of(code);
    const Utf8Step whole = NextUtf8(text + "x");
    ASSERT_EQ(whole.kind, Utf8Kind::kCharacter) << code;
    ASSERT_EQ(whole.bytes, text.size()) << code;
    for (size_t bytes = 1; bytes < text.size(); ++bytes) {
      const Utf8Step part = NextUtf8(std::string_view(text).substr(0, bytes));
      ASSERT_EQ(part.kind, Utf8Kind::kIncomplete) << code;
      ASSERT_EQ(part.bytes, bytes) << code;
    }
  }
}

TEST(Utf8, RefusesSurrogatesAndWhatIsTooLarge) {
  for (uint32_t code = 0xd800; code < 0xe000; ++code) {
    ASSERT_EQ(NextUtf8(Utf8Of(code)).kind, Utf8Kind::kInvalid) << code;
  }
  for (uint32_t code = 0x110000; code < 0x200000; code += 0x1000) {
    ASSERT_EQ(NextUtf8(Utf8Of(code)).kind, Utf8Kind::kInvalid) << code;
  }
}

TEST(Utf8, EndsAnInvalidPartWhereTheNextCharacterMayBegin) {
  ExpectStep("\x80", Utf8Kind::kInvalid, 1);
  ExpectStep("\xc0\xaf", Utf8Kind::kInvalid, 1);  // overlong
  ExpectStep("\xc1\xbf", Utf8Kind::kInvalid, 1);
  ExpectStep("\xe0\x80\x80", Utf8Kind::kInvalid, 1);
  ExpectStep("\xf0\x80\x80\x80", Utf8Kind::kInvalid, 1);
  ExpectStep("\xf5\x80\x80\x80", Utf8Kind::kInvalid, 1);
  ExpectStep("\xff", Utf8Kind::kInvalid, 1);
  ExpectStep("\xc3x", Utf8Kind::kInvalid, 1);
  ExpectStep("\xe2\x82x", Utf8Kind::kInvalid, 2);  // two good bytes of three
  ExpectStep("\xf0\x9f\x98x", Utf8Kind::kInvalid, 3);
  ExpectStep("\xf0\x9f\xc3\xa4", Utf8Kind::kInvalid, 2);
}

}  // namespace tidegate::utf8_test
