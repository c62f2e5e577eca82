#include "packer/special_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

namespace tidegate::special_tokens_test {

using store::v1::Tokenizer;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr uint32_t kNormal = 1, kUnknown = 2, kControl = 3, kUser = 4, kUnused = 5, kByte = 6;

struct Token {
  std::string text;
  uint32_t type = kNormal;
};

Tokenizer Make(const std::vector<Token>& tokens, const std::string& model = "gpt2") {
  Tokenizer tokenizer;
  tokenizer.set_model(model);
  for (const Token& token : tokens) {
    tokenizer.add_tokens(token.text);
    tokenizer.add_types(token.type);
    if (model == "llama") tokenizer.add_scores(0);
  }
  return tokenizer;
}

// A family of models as a wrong file has it: everything normal. `control` and `ends` are what the
// right file has.
struct Family {
  const char* name;
  std::vector<const char*> words;  // that stay as they are
  std::vector<const char*> control;
  std::vector<const char*> ends;
  std::string chat_template;
  const char* eos = nullptr;
  std::vector<const char*> named_ends = {};
};

std::vector<Family> Families() {
  const std::string composed = "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% endfor %}";
  return {
      {"ChatMl",
       {"user", "assistant", "im_end", "<|", "|>", "<b>"},
       {"<|im_start|>", "<|im_end|>"},
       {"<|im_end|>"},
       "{{ '<|im_start|>' + m.role + '<|im_end|>' }}"},
      {"ChatMlBesideABaseModelsEnd",
       {"user"},
       {"<|im_start|>", "<|im_end|>", "<|endoftext|>"},
       {"<|im_end|>", "<|endoftext|>"},
       "<|im_start|>{{ x }}<|im_end|>",
       "<|endoftext|>"},
      {"Llama2",
       {"user", "[0]", "<<", ">>"},
       {"<s>", "</s>", "[INST]", "[/INST]"},
       {"</s>"},
       "{{ bos_token + '[INST] ' + m[0]['content'] + ' [/INST] <s>' }}"},
      {"Llama3",
       {"assistant"},
       {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
        "<|end_of_text|>"},
       {"<|eot_id|>", "<|end_of_text|>"},
       "<|begin_of_text|>{{ '<|start_header_id|>' + m.role + '<|end_header_id|>' }}<|eot_id|>",
       "<|end_of_text|>"},
      {"Phi3",
       {"system"},
       {"<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"},
       {"<|end|>", "<|endoftext|>"},
       composed + "<|end|>"},
      {"Phi4",
       {"user"},
       {"<|im_start|>", "<|im_sep|>", "<|im_end|>"},
       {"<|im_end|>"},
       "{{ '<|im_start|>user<|im_sep|>' + c + '<|im_end|>' }}"},
      {"Gemma",
       {"model", "user"},
       {"<bos>", "<start_of_turn>", "<end_of_turn>", "<eos>"},
       {"<end_of_turn>", "<eos>"},
       "<bos>{{ '<start_of_turn>' + role }}<end_of_turn>"},
      {"DeepSeek",
       {"User"},
       {"<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"},
       {"<\uff5cend\u2581of\u2581sentence\uff5c>"},
       "{{ '<\uff5cUser\uff5c>' + c + '<\uff5cAssistant\uff5c>' }}"},
      {"CommandR",
       {"USER"},
       {"<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"},
       {"<|END_OF_TURN_TOKEN|>"},
       "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{{ c }}<|END_OF_TURN_TOKEN|>"},
      {"GlmEndsAtTheNextTurn",
       {"user"},
       {"<|user|>", "<|assistant|>", "<|observation|>", "<|endoftext|>", "[gMASK]", "<sop>"},
       {"<|endoftext|>"},
       "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>{% endfor %}",
       "<|endoftext|>",
       {"<|user|>", "<|observation|>"}},
      {"Exaone",
       {"user"},
       {"[|user|]", "[|endofturn|]"},
       {"[|endofturn|]"},
       "{{ '[|user|]' + c + '[|endofturn|]' }}"},
      {"ATurnOfItsOwn", {"turn"}, {"<turn>", "</turn>"}, {}, "<turn>{{ c }}</turn>", "</turn>"},
      {"Gemma4",
       {"turn"},
       {"<|turn>", "<turn|>"},
       {"<turn|>"},
       "{{ '<|turn>' + role + c + '<turn|>' }}"},
      {"NoTemplateAtAll", {"<|fim_prefix|>", "<s>"}, {"<|endoftext|>"}, {"<|endoftext|>"}, ""},
      {"MessagesWithinAnAnswer",
       {},
       {"<|start|>", "<|end|>", "<|return|>", "<|call|>"},
       {"<|return|>", "<|call|>"},
       "<|start|>{{ c }}<|end|>"},
  };
}

class FamilyTest : public testing::TestWithParam<std::tuple<Family, const char*, uint32_t>> {};

TEST_P(FamilyTest, IsAsWithTheRightTypes) {
  const auto& [family, model, type] = GetParam();
  std::vector<Token> tokens;
  for (const char* word : family.words) tokens.push_back({word});
  for (const char* text : family.control) tokens.push_back({text, type});
  Tokenizer tokenizer = Make(tokens, model);
  const auto id_of = [&](const std::string& text) {
    for (int id = 0; id < tokenizer.tokens_size(); ++id) {
      if (tokenizer.tokens(id) == text) return static_cast<uint32_t>(id);
    }
    ADD_FAILURE() << text;
    return 0u;
  };
  if (family.eos != nullptr) tokenizer.set_eos_id(id_of(family.eos));
  for (const char* text : family.named_ends) tokenizer.add_end_ids(id_of(text));
  const size_t named = static_cast<size_t>(tokenizer.end_ids_size());
  MarkSpecialTokens(family.chat_template, tokenizer);
  for (const char* word : family.words) {
    EXPECT_EQ(tokenizer.types(static_cast<int>(id_of(word))), kNormal) << word;
  }
  for (const char* text : family.control) {
    EXPECT_EQ(tokenizer.types(static_cast<int>(id_of(text))), kControl) << text;
  }
  std::vector<uint32_t> ends;
  for (const char* text : family.ends) ends.push_back(id_of(text));
  EXPECT_THAT(std::vector<uint32_t>(tokenizer.end_ids().begin() + static_cast<int>(named),
                                    tokenizer.end_ids().end()),
              testing::UnorderedElementsAreArray(ends));
  EXPECT_EQ(static_cast<size_t>(tokenizer.promoted_ids_size()),
            type == kControl ? 0u : family.control.size());
}

INSTANTIATE_TEST_SUITE_P(All, FamilyTest,
                         testing::Combine(testing::ValuesIn(Families()),
                                          testing::Values("gpt2", "llama"),
                                          testing::Values(kNormal, kControl, kUnused)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param).name) +
                                  std::get<1>(test.param) + std::to_string(std::get<2>(test.param));
                         });

TEST(MarkSpecialTokens, TakesUserDefinedMarkupWhateverTheTemplateWrites) {
  Tokenizer tokenizer =
      Make({{"<|fim_prefix|>", kUser}, {"<think>", kUser}, {"</s>", kUser}, {"  ", kUser}});
  MarkSpecialTokens("<think>", tokenizer);
  EXPECT_THAT(tokenizer.types(), ElementsAre(kControl, kUser, kControl, kUser)) << "no other EOS";
  tokenizer = Make({{"<|x|>", kControl}, {"</s>", kUser}});
  tokenizer.set_eos_id(0);
  MarkSpecialTokens("", tokenizer);
  EXPECT_THAT(tokenizer.types(), ElementsAre(kControl, kUser));
  tokenizer.set_eos_id(1);
  MarkSpecialTokens("", tokenizer);
  EXPECT_THAT(tokenizer.types(), ElementsAre(kControl, kControl)) << "the file names it";
}

// What reasoning and tool calls are framed by is read by clients.
TEST(MarkSpecialTokens, ShowsWhatFramesAPartOfAnAnswer) {
  Tokenizer tokenizer =
      Make({{"<think>"}, {"</think>"}, {"<tool_call>"}, {"</tool_call>"}, {"<sop>"}});
  MarkSpecialTokens("<sop>{{ '<think>' + x }}{{ c.split('</think>') }}<tool_call>", tokenizer);
  EXPECT_THAT(tokenizer.types(), ElementsAre(kUser, kUser, kUser, kNormal, kControl));
}

// A vocabulary of a model of code has such pieces, and templates write them.
TEST(MarkSpecialTokens, LeavesTagsThatMergingGives) {
  Tokenizer tokenizer = Make({{"<"}, {"T>"}, {"<T>"}, {"[i"}, {"]"}, {"[i]"}, {"<U>"}});
  for (const uint32_t id : {0, 1, 3, 4}) tokenizer.add_merges(id);
  const std::string source = "list<T> and x[i] and <U>";
  MarkSpecialTokens(source, tokenizer);
  EXPECT_THAT(tokenizer.promoted_ids(), ElementsAre(6));
  tokenizer = Make({{"<"}, {"T>"}, {"<T>"}, {"<U>"}}, "llama");
  MarkSpecialTokens(source, tokenizer);
  EXPECT_THAT(tokenizer.promoted_ids(), ElementsAre(3));
}

TEST(MarkSpecialTokens, LeavesBytesAndTheUnknownToken) {
  Tokenizer tokenizer = Make(
      {{"<unk>", kUnknown}, {"<0x0A>", kByte}, {"<0x41>", kByte}, {"<|t|>", kUnknown}}, "llama");
  MarkSpecialTokens("<unk><0x0A><|t|>", tokenizer);
  EXPECT_THAT(tokenizer.types(), ElementsAre(kUnknown, kByte, kByte, kControl));
  EXPECT_THAT(tokenizer.end_ids(), IsEmpty());
}

// A byte-level vocabulary may write them in its alphabet.
TEST(MarkSpecialTokens, WritesByteLevelMarkupAsItIs) {
  Tokenizer tokenizer = Make({{"<\u00ef\u00bd\u013eUser\u00ef\u00bd\u013e>"}});
  MarkSpecialTokens("<\uff5cUser\uff5c>", tokenizer);
  EXPECT_EQ(tokenizer.types(0), kControl);
  EXPECT_EQ(tokenizer.tokens(0), "<\uff5cUser\uff5c>");
}

TEST(MarkSpecialTokens, PaddingIsUnused) {
  Tokenizer tokenizer =
      Make({{"[PAD0]", kUser}, {"[PAD1]", kUnknown}, {"[PAD7]", kUser}, {"[PAD3]"}});
  MarkSpecialTokens("", tokenizer);
  EXPECT_THAT(tokenizer.types(), ElementsAre(kUnused, kUnused, kUser, kUnused));
}

// Packs are described with this too, and a damaged one may name anything.
TEST(MarkSpecialTokens, TakesIdsOutsideTheVocabulary) {
  Tokenizer tokenizer = Make({{"<t>"}, {"</t>"}});
  tokenizer.set_eos_id(~0u);
  tokenizer.add_end_ids(7);
  tokenizer.add_merges(~0u);
  tokenizer.add_merges(9);
  MarkSpecialTokens("<t></t>", tokenizer);
  EXPECT_THAT(tokenizer.types(), ElementsAre(kUser, kUser));
  tokenizer.add_promoted_ids(~0u);
  EXPECT_THAT(PromotedText(tokenizer), HasSubstr("<t> (0)"));
}

TEST(PromotedText, IsShortAndPrintable) {
  Tokenizer tokenizer;
  EXPECT_EQ(PromotedText(tokenizer), "");
  for (int id = 0; id < 20; ++id) {
    tokenizer.add_tokens("<|\x1b[31m|>");
    tokenizer.add_promoted_ids(static_cast<uint32_t>(id));
  }
  EXPECT_THAT(PromotedText(tokenizer), HasSubstr(" and 8 more"));
  EXPECT_EQ(PromotedText(tokenizer).find('\x1b'), std::string::npos);
}

TEST(DropTokensBehind, LeavesOutAddedTokensWithoutRows) {
  Tokenizer tokenizer =
      Make({{"a"}, {"b"}, {"<|end|>", kControl}, {"<image>", kControl}, {"<x>", kUser}}, "llama");
  for (const uint32_t id : {2, 3}) {
    tokenizer.add_end_ids(id);
    tokenizer.add_strip_right_ids(id);
  }
  tokenizer.set_eot_id(4);
  ASSERT_TRUE(DropTokensBehind(5, tokenizer).ok());
  EXPECT_EQ(tokenizer.tokens_size(), 5);
  ASSERT_TRUE(DropTokensBehind(3, tokenizer).ok());
  EXPECT_THAT(tokenizer.tokens(), ElementsAre("a", "b", "<|end|>"));
  EXPECT_EQ(tokenizer.types_size(), 3);
  EXPECT_EQ(tokenizer.scores_size(), 3);
  EXPECT_THAT(tokenizer.end_ids(), ElementsAre(2));
  EXPECT_THAT(tokenizer.strip_right_ids(), ElementsAre(2));
  EXPECT_FALSE(tokenizer.has_eot_id());
  EXPECT_EQ(tokenizer.dropped_tokens(), 2u);
}

TEST(DropTokensBehind, RefusesTheTokenizerOfAnotherModel) {
  Tokenizer tokenizer = Make({{"a"}, {"b"}, {"<s>", kControl}});
  EXPECT_THAT(std::string(DropTokensBehind(1, tokenizer).message()),
              HasSubstr("3 tokens, token_embd.weight only 1 rows, and token 1 ('b') is part"));
  tokenizer.set_bos_id(2);
  EXPECT_THAT(std::string(DropTokensBehind(2, tokenizer).message()), HasSubstr("('<s>') is BOS"));
  EXPECT_EQ(tokenizer.tokens_size(), 3);
}

}  // namespace tidegate::special_tokens_test
