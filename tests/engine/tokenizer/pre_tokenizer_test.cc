#include "engine/tokenizer/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/engine/tokenizer/tiny_tokenizer.h"

namespace tidegate::pre_tokenizer_test {

using store::v1::SplitStep;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

using Words = std::vector<std::string>;

struct Pattern {
  std::string pattern;
  SplitStep::Cut cut = SplitStep::CUT_ISOLATED;
  bool invert = false;
};

absl::StatusOr<std::unique_ptr<PreTokenizer>> Create(const std::vector<Pattern>& patterns) {
  store::v1::Tokenizer data;
  for (const Pattern& pattern : patterns) {
    AddPattern(data, pattern.pattern, pattern.cut);
    data.mutable_split_steps()->rbegin()->set_invert(pattern.invert);
  }
  return PreTokenizer::Create(data);
}

Words Split(const std::vector<Pattern>& patterns, std::string_view text) {
  const auto pre_tokenizer = Create(patterns);
  EXPECT_TRUE(pre_tokenizer.ok()) << pre_tokenizer.status();
  Words words;
  (*pre_tokenizer)->Split(text, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

TEST(PreTokenizer, LeavesTextsWholeWithoutPatterns) {
  EXPECT_THAT(Split({}, "a b"), ElementsAre("a b"));
  EXPECT_THAT(Split({}, ""), IsEmpty());
  EXPECT_THAT(Split({{"b"}}, ""), IsEmpty());
}

TEST(PreTokenizer, CutsInEveryWay) {
  const auto cut = [](SplitStep::Cut how, bool invert = false) {
    return Split({{"-", how, invert}}, "-a-b--c");
  };
  EXPECT_THAT(cut(SplitStep::CUT_ISOLATED), ElementsAre("-", "a", "-", "b", "-", "-", "c"));
  EXPECT_THAT(cut(SplitStep::CUT_REMOVED), ElementsAre("a", "b", "c"));
  EXPECT_THAT(cut(SplitStep::CUT_MERGED_WITH_PREVIOUS), ElementsAre("-", "a-", "b-", "-", "c"));
  EXPECT_THAT(cut(SplitStep::CUT_MERGED_WITH_NEXT), ElementsAre("-a", "-b", "-", "-c"));
  EXPECT_THAT(cut(SplitStep::CUT_CONTIGUOUS), ElementsAre("-", "a", "-", "b", "--", "c"));
  EXPECT_THAT(cut(SplitStep::CUT_REMOVED, true), ElementsAre("-", "-", "-", "-"));
  EXPECT_THAT(Split({{"-", SplitStep::CUT_MERGED_WITH_NEXT}}, "a-"), ElementsAre("a", "-"));
}

TEST(PreTokenizer, CutsThePiecesOfTheStepBefore) {
  EXPECT_THAT(Split({{"[0-9]"}, {"b+"}}, "abb1bb"), ElementsAre("a", "bb", "1", "bb"));
  // A look-ahead sees no further than the piece.
  EXPECT_THAT(Split({{"[0-9]"}, {R"(\s+(?!\S))"}}, "a  1"), ElementsAre("a", "  ", "1"));
  EXPECT_THAT(Split({{R"(\s+(?!\S))"}}, "a  1"), ElementsAre("a", " ", " 1"));
}

TEST(PreTokenizer, KnowsUnicode) {
  EXPECT_THAT(Split({{R"(\p{L}+)"}}, "\u00e4\u0416 \u4e2d"),
              ElementsAre("\u00e4\u0416", " ", "\u4e2d"));
  EXPECT_THAT(Split({{R"(\s)"}}, "a\u3000b\u00a0c"),
              ElementsAre("a", "\u3000", "b", "\u00a0", "c"));
  EXPECT_THAT(Split({{"(?i:'s)"}}, "a'S"), ElementsAre("a", "'S"));
}

TEST(PreTokenizer, KeepsWhatIsNotUtf8Apart) {
  EXPECT_THAT(Split({{"a+"}},
                    "a\xff"
                    "a\xe2\x82"),
              ElementsAre("a", "\xff", "a", "\xe2\x82"));
  EXPECT_THAT(Split({}, "\xff\xff"), ElementsAre("\xff", "\xff"));
  EXPECT_THAT(Split({{"b"}}, std::string_view("b\0b", 3)),
              ElementsAre("b", std::string(1, '\0'), "b"));
}

TEST(PreTokenizer, TakesNoNoticeOfEmptyMatches) {
  EXPECT_THAT(Split({{"x*"}}, "ab\u00e4xxc"), ElementsAre("ab\u00e4", "xx", "c"));
  EXPECT_THAT(Split({{"^|$"}}, "ab"), ElementsAre("ab"));
}

TEST(PreTokenizer, KeepsTheRestWholeWhenAPatternTakesTooLong) {
  // Exponential: the limit ends it. A second word is not tried.
  const std::string slow = std::string(40, 'a') + "b";
  EXPECT_THAT(Split({{"(a+)+c"}}, slow + " ac"), ElementsAre(slow + " ac"));
  EXPECT_THAT(Split({{"(?:(?:a|aa)+)+$"}}, slow), ElementsAre(slow));
  // Deep: needs more stack than compiled code has.
  const std::string deep(200'000, 'a');
  size_t bytes = 0;
  for (const std::string& word : Split({{"(?:(a)|b)+"}}, deep)) bytes += word.size();
  EXPECT_EQ(bytes, deep.size());
}

TEST(PreTokenizer, NamesWhatIsWrong) {
  const auto message = [](const std::vector<Pattern>& patterns) {
    const absl::Status status = Create(patterns).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(message({{"a(b"}}), testing::AllOf(HasSubstr("\"a(b\""), HasSubstr("at byte 3")));
  EXPECT_THAT(message({{"\xff"}}), HasSubstr("UTF-8"));
  EXPECT_THAT(message({{""}}), HasSubstr("has 0 bytes"));
  EXPECT_THAT(message({{std::string(9000, 'a')}}), HasSubstr("has 9000 bytes"));
  EXPECT_THAT(message({{"(?:(?:(?:a{9999}){9999}){9999}){99}"}}), HasSubstr("no regular"));
  EXPECT_THAT(message(std::vector<Pattern>(17, {"a"})), HasSubstr("17 patterns"));
  EXPECT_THAT(message({{"a", SplitStep::CUT_UNSPECIFIED}}), HasSubstr("unknown way to cut"));
}

}  // namespace tidegate::pre_tokenizer_test
