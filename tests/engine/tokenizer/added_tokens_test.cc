#include "engine/tokenizer/added_tokens.h"

#include <gtest/gtest.h>

#include <string>

namespace tidegate::added_tokens_test {

TEST(AddedTokens, FindsTheLongest) {
  AddedTokens tokens;
  tokens.Add("<a>", 1, false);
  tokens.Add("<a><b>", 2, false);
  tokens.Add("<a", 3, false);
  EXPECT_EQ(tokens.Longest("<a><b>x", 0).id, 2);
  EXPECT_EQ(tokens.Longest("<a><b>x", 0).bytes, 6u);
  EXPECT_EQ(tokens.Longest("<a><b", 0).id, 1);
  EXPECT_EQ(tokens.Longest("<a", 0).id, 3);
  EXPECT_EQ(tokens.Longest("<", 0).bytes, 0u);
  EXPECT_EQ(tokens.Longest("x<a>", 0).bytes, 0u);
  EXPECT_EQ(tokens.Longest("", 0).bytes, 0u);
  EXPECT_EQ(AddedTokens().Longest("a", 1).bytes, 0u);
}

TEST(AddedTokens, FindsControlTokensOnlyWithinTrustedBytes) {
  AddedTokens tokens;
  tokens.Add("<|", 1, false);
  tokens.Add("<|end|>", 2, true);
  EXPECT_EQ(tokens.Longest("<|end|>", 7).id, 2);
  EXPECT_EQ(tokens.Longest("<|end|>", 6).id, 1) << "its end is not trusted";
  EXPECT_EQ(tokens.Longest("<|end|>", 0).id, 1);
}

TEST(AddedTokens, KeepsTheFirstOfEqualTexts) {
  AddedTokens tokens;
  tokens.Add("ab", 5, false);
  tokens.Add("ab", 4, true);
  EXPECT_EQ(tokens.Longest("ab", 0).id, 5);
}

TEST(AddedTokens, TakesAnyBytes) {
  AddedTokens tokens;
  const std::string text("\xff\0\x80", 3);
  tokens.Add(text, 7, false);
  EXPECT_EQ(tokens.Longest(text + "a", 0).bytes, 3u);
  tokens.Add(std::string(AddedTokens::kMaxBytes, 'a'), 8, false);
  EXPECT_EQ(tokens.Longest(std::string(5000, 'a'), 0).bytes, AddedTokens::kMaxBytes);
}

}  // namespace tidegate::added_tokens_test
