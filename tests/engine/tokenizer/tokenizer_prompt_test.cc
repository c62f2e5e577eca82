// Added tokens, trusted text and white space around them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/tokenizer/tokenizer.h"
#include "tests/engine/tokenizer/tiny_tokenizer.h"

namespace tidegate::tokenizer_prompt_test {

using testing::ElementsAre;

using Parts = std::vector<PromptPart>;

// Token 256 is the control token "<|user|>", 257 is the user-defined "<think>".
store::v1::Tokenizer Chat() {
  store::v1::Tokenizer data = TinyByteLevel({});
  data.add_tokens("<|user|>");
  data.add_types(3);
  data.add_tokens("<think>");
  data.add_types(4);
  return data;
}

std::vector<TokenId> Ids(const std::string& text) { return {text.begin(), text.end()}; }

std::vector<TokenId> Encode(const store::v1::Tokenizer& data, const Parts& parts,
                            bool add_special = false) {
  return MakeTokenizer(data)->EncodePrompt(parts, add_special);
}

TEST(EncodePrompt, FindsControlTokensInTrustedPartsOnly) {
  EXPECT_THAT(Encode(Chat(), {{"<|user|>a", true}}), ElementsAre(256, 'a'));
  EXPECT_EQ(Encode(Chat(), {{"<|user|>", false}}), Ids("<|user|>"));
  EXPECT_EQ(MakeTokenizer(Chat())->Encode("<|user|>", false), Ids("<|user|>"));
  EXPECT_THAT(Encode(Chat(), {{"<think>", false}, {"<think>", true}}), ElementsAre(257, 257));
}

TEST(EncodePrompt, ControlTokensDoNotReachIntoOtherParts) {
  EXPECT_EQ(Encode(Chat(), {{"<|us", true}, {"er|>", false}}), Ids("<|user|>"));
  EXPECT_EQ(Encode(Chat(), {{"<|us", false}, {"er|>", true}}), Ids("<|user|>"));
  EXPECT_EQ(Encode(Chat(), {{"<|us", true}, {"er|>", true}}), Ids("<|user|>"));
  EXPECT_THAT(Encode(Chat(), {{"", true}, {"x", false}, {"", false}, {"<|user|>", true}, {}}),
              ElementsAre('x', 256));
  EXPECT_THAT(Encode(Chat(), {{"<thi", true}, {"nk>", false}}), ElementsAre(257));
  EXPECT_TRUE(Encode(Chat(), {}).empty());
}

TEST(EncodePrompt, WordsReachAcrossParts) {
  auto data = TinyByteLevel({{"a", "b"}});
  EXPECT_THAT(Encode(data, {{"a", true}, {"b", false}}), ElementsAre(256));
}

TEST(EncodePrompt, DoesNotDoubleBos) {
  auto data = Chat();
  data.set_bos_id(256);
  data.set_eos_id(257);
  data.set_add_bos(true);
  data.set_add_eos(true);
  EXPECT_THAT(Encode(data, {{"a", true}}, true), ElementsAre(256, 'a', 257));
  EXPECT_THAT(Encode(data, {{"<|user|>a", true}}, true), ElementsAre(256, 'a', 257));
  EXPECT_THAT(Encode(data, {{"<|user|>", true}}, true), ElementsAre(256, 257));
  EXPECT_THAT(Encode(data, {}, true), ElementsAre(256, 257));
  EXPECT_THAT(Encode(data, {{"a", true}}, false), ElementsAre('a'));
}

TEST(EncodePrompt, TokensSwallowWhiteSpaceWhereTheModelSaysSo) {
  auto data = Chat();
  data.add_strip_right_ids(256);
  data.add_strip_left_ids(257);
  EXPECT_THAT(Encode(data, {{"a <|user|>\n\t b", true}}), ElementsAre('a', ' ', 256, 'b'));
  EXPECT_THAT(Encode(data, {{"<|user|> \n", true}}), ElementsAre(256));
  EXPECT_THAT(Encode(data, {{"a \n<think> b", false}}), ElementsAre('a', 257, ' ', 'b'));
  EXPECT_THAT(Encode(data, {{"  <think>", false}}), ElementsAre(257));
  EXPECT_THAT(Encode(data, {{"<|user|>  <think>", true}}), ElementsAre(256, 257));
}

TEST(EncodePrompt, PutsASpaceAfterEachTokenAsSentencePieceModelsDo) {
  auto data = TinyVocabulary({{"\u2581", -9}, {"\u2581a", -1}});
  const TokenId user = data.tokens_size();
  AddToken(data, "<|user|>", 0, 3);
  const auto tokenizer = MakeTokenizer(data);
  const PromptPart parts[] = {{"<|user|>", true}, {"a<|user|>", false}, {"<|user|>a", true}};
  const std::vector<TokenId> ids = tokenizer->EncodePrompt(parts, true);
  EXPECT_EQ(ids.front(), kTinyBos);
  EXPECT_EQ(ids[1], user);
  EXPECT_EQ(ids[2], kTinyFirstPiece + 1);
  EXPECT_EQ(ids.back(), kTinyFirstPiece + 1);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), user), 2);
  EXPECT_EQ(tokenizer->Decode(ids, true), "<s><|user|>a<|user|><|user|>a");
}

TEST(TokenizerPrompt, EndsAnswersWithEveryEndToken) {
  auto data = Chat();
  data.set_eos_id(1);
  data.set_eot_id(2);
  data.add_end_ids(256);
  const auto tokenizer = MakeTokenizer(data);
  for (const TokenId id : {1, 2, 256}) EXPECT_TRUE(tokenizer->IsEndOfGeneration(id));
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(3));
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(-1));
  EXPECT_TRUE(tokenizer->IsAdded(257));
  EXPECT_FALSE(tokenizer->IsAdded(255));
}

}  // namespace tidegate::tokenizer_prompt_test
