#include "packer/hf_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "proto/sentencepiece/model.pb.h"
#include "tests/support/test_support.h"

namespace tidegate::hf_tokenizer_test {

using Json = nlohmann::json;
using store::v1::SplitStep;
using testing::ElementsAre;
using testing::HasSubstr;

// Byte-level, with everything that readers look at.
Json ByteLevel() {
  return Json::parse(R"({
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "\\p{L}+"}, "behavior": "Removed", "invert": true},
      {"type": "Split", "pattern": {"String": "a.b"}, "behavior": "MergedWithNext"},
      {"type": "Digits", "individual_digits": true},
      {"type": "Punctuation"},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}]},
    "post_processor": {"type": "Sequence", "processors": [
      {"type": "ByteLevel"},
      {"type": "TemplateProcessing",
       "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                  {"Sequence": {"id": "A", "type_id": 0}},
                  {"SpecialToken": {"id": "</s>", "type_id": 0}}],
       "special_tokens": {"<s>": {"ids": [4]}, "</s>": {"ids": [5]}}}]},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "</s>": 5, "<unk>": 3},
              "merges": ["a b"], "unk_token": "<unk>"},
    "added_tokens": [
      {"id": 4, "content": "<s>", "special": true},
      {"id": 5, "content": "</s>", "special": true, "lstrip": true},
      {"id": 7, "content": "<go>", "special": false, "rstrip": true},
      {"id": 8, "content": "<|im_end|>", "special": false}]})");
}

TEST(TokenizerFromJson, ReadsEverything) {
  const auto tokenizer = TokenizerFromJson(ByteLevel().dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->model(), "gpt2");
  EXPECT_THAT(tokenizer->tokens(), ElementsAre("a", "b", "ab", "<unk>", "<s>", "</s>", "[UNUSED_6]",
                                               "<go>", "<|im_end|>"));
  EXPECT_THAT(tokenizer->types(), ElementsAre(1, 1, 1, 2, 3, 3, 5, 4, 4));
  EXPECT_THAT(tokenizer->merges(), ElementsAre(0, 1));
  EXPECT_EQ(tokenizer->unknown_id(), 3u);
  EXPECT_EQ(tokenizer->bos_id(), 4u);
  EXPECT_EQ(tokenizer->eos_id(), 5u);
  EXPECT_TRUE(tokenizer->add_bos());
  EXPECT_TRUE(tokenizer->add_eos());
  EXPECT_FALSE(tokenizer->add_space_prefix());
  EXPECT_THAT(tokenizer->strip_left_ids(), ElementsAre(5));
  EXPECT_THAT(tokenizer->strip_right_ids(), ElementsAre(7));
  ASSERT_EQ(tokenizer->split_steps_size(), 5);
  EXPECT_EQ(tokenizer->split_steps(0).pattern(), "\\p{L}+");
  EXPECT_EQ(tokenizer->split_steps(0).cut(), SplitStep::CUT_REMOVED);
  EXPECT_TRUE(tokenizer->split_steps(0).invert());
  EXPECT_EQ(tokenizer->split_steps(1).pattern(), "a\\x{2e}b");
  EXPECT_EQ(tokenizer->split_steps(1).cut(), SplitStep::CUT_MERGED_WITH_NEXT);
  EXPECT_EQ(tokenizer->split_steps(2).pattern(), "\\p{N}");
  EXPECT_THAT(tokenizer->split_steps(4).pattern(), HasSubstr("'s|'t"));
}

TEST(TokenizerFromJson, NamesWhatIsWrong) {
  struct Case {
    const char* message;
    std::function<void(Json&)> spoil;
  };
  const Case cases[] = {
      {"not a JSON object", [](Json& j) { j = 1; }},
      {"model type \"Unigram\"", [](Json& j) { j["model"]["type"] = "Unigram"; }},
      {"model type \"\"", [](Json& j) { j["model"] = nullptr; }},
      {"neither byte-level", [](Json& j) { j["pre_tokenizer"] = nullptr; }},
      {"model.vocab is missing", [](Json& j) { j["model"].erase("vocab"); }},
      {"the id of \"a\"", [](Json& j) { j["model"]["vocab"]["a"] = -1; }},
      {"the id of \"a\"", [](Json& j) { j["model"]["vocab"]["a"] = 1 << 21; }},
      {"both have the id 1", [](Json& j) { j["model"]["vocab"]["a"] = 1; }},
      {"model.merges is missing", [](Json& j) { j["model"]["merges"] = Json::array(); }},
      {"merge 1 is \"a c\"", [](Json& j) { j["model"]["merges"].push_back("a c"); }},
      {"entry 1 is neither", [](Json& j) { j["model"]["merges"].push_back({"a"}); }},
      {"no id or no content", [](Json& j) { j["added_tokens"][0].erase("id"); }},
      {"no id or no content", [](Json& j) { j["added_tokens"] = 3; }},
      {"the id 99999999", [](Json& j) { j["added_tokens"][0]["id"] = 99999999; }},
      {"normalizer step \"Lowercase\"", [](Json& j) { j["normalizer"]["type"] = "Lowercase"; }},
      {"a step without a type", [](Json& j) { j["normalizer"] = "x"; }},
      {"pre_tokenizer step \"BertPreTokenizer\"",
       [](Json& j) { j["pre_tokenizer"]["pretokenizers"][2]["type"] = "BertPreTokenizer"; }},
      {"Split by nothing", [](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"] = 1; }},
      {"behavior step \"Sideways\"",
       [](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Sideways"; }},
      {"other than one token",
       [](Json& j) {
         j["post_processor"]["processors"][1]["special_tokens"]["<s>"]["ids"] = {4, 5};
       }},
      {"other than one token",
       [](Json& j) {
         j["post_processor"]["processors"][1]["special_tokens"]["<s>"]["ids"] = {99};
       }},
      {"post_processor step \"BertProcessing\"",
       [](Json& j) {
         j["post_processor"] = {{"type", "BertProcessing"}};
       }},
  };
  for (const Case& c : cases) {
    Json root = ByteLevel();
    c.spoil(root);
    const absl::Status status = TokenizerFromJson(root.dump()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
  EXPECT_FALSE(TokenizerFromJson("").ok());
  EXPECT_FALSE(TokenizerFromJson(std::string(100'000, '[')).ok());
}

TEST(TokenizerFromJson, ReadsSentencePieceKinds) {
  Json root = ByteLevel();
  root["model"]["byte_fallback"] = true;
  root["model"]["vocab"]["<0x0A>"] = 6;
  root["post_processor"] = nullptr;
  root["pre_tokenizer"] = {{"type", "Metaspace"},
                           {"replacement", "\u2581"},
                           {"prepend_scheme", "first"},
                           {"split", false}};
  auto tokenizer = TokenizerFromJson(root.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->model(), "llama");
  EXPECT_TRUE(tokenizer->add_space_prefix());
  EXPECT_EQ(tokenizer->types(6), 6u);
  root["pre_tokenizer"]["prepend_scheme"] = "never";
  EXPECT_FALSE(TokenizerFromJson(root.dump())->add_space_prefix());
  root["pre_tokenizer"]["split"] = true;
  EXPECT_THAT(std::string(TokenizerFromJson(root.dump()).status().message()),
              HasSubstr("Metaspace that splits"));
}

sentencepiece::Model SmallModel() {
  sentencepiece::Model model;
  for (const char* text : {"<unk>", "<s>", "</s>", "\u2581", "a"}) {
    sentencepiece::Piece& piece = *model.add_pieces();
    piece.set_text(text);
    if (text[0] == '<') piece.set_type(text[1] == 'u' ? 2 : 3);
  }
  model.mutable_trainer_spec()->set_model_type(2);
  return model;
}

TEST(TokenizerFromSentencePiece, ReadsIdsAndDefaults) {
  sentencepiece::Model model = SmallModel();
  auto tokenizer = TokenizerFromSentencePiece(model.SerializeAsString());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(tokenizer->types(), ElementsAre(2, 3, 3, 1, 1));
  EXPECT_TRUE(tokenizer->add_space_prefix());
  model.mutable_normalizer_spec()->set_add_dummy_prefix(false);
  model.mutable_trainer_spec()->set_bos_id(-1);
  model.mutable_trainer_spec()->set_eos_id(99);
  tokenizer = TokenizerFromSentencePiece(model.SerializeAsString());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_FALSE(tokenizer->has_bos_id());
  EXPECT_FALSE(tokenizer->has_eos_id());
  EXPECT_FALSE(tokenizer->add_bos());
  EXPECT_FALSE(tokenizer->add_space_prefix());
}

TEST(TokenizerFromSentencePiece, NamesWhatIsWrong) {
  EXPECT_FALSE(TokenizerFromSentencePiece("").ok());
  EXPECT_FALSE(TokenizerFromSentencePiece("\xff\xff\xff").ok());
  sentencepiece::Model model = SmallModel();
  std::string cut = model.SerializeAsString();
  cut.resize(cut.size() - 1);
  EXPECT_FALSE(TokenizerFromSentencePiece(cut).ok());
  model.mutable_trainer_spec()->clear_model_type();
  EXPECT_THAT(std::string(TokenizerFromSentencePiece(model.SerializeAsString()).status().message()),
              HasSubstr("model type 1 is not supported"));
}

class ReadHfTokenizerTest : public testing::Test {
 protected:
  void Write(const std::string& name, const std::string& content) {
    WriteFileOrDie(dir_.File(name), content);
  }
  TempDir dir_;
};

TEST_F(ReadHfTokenizerTest, NeedsOneOfTwoFiles) {
  const absl::Status status = ReadHfTokenizer(dir_.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("neither tokenizer.json nor"));
  Write("tokenizer.model", SmallModel().SerializeAsString());
  EXPECT_EQ(ReadHfTokenizer(dir_.path())->model(), "llama");
  Write("tokenizer.json", ByteLevel().dump());
  EXPECT_EQ(ReadHfTokenizer(dir_.path())->model(), "gpt2") << "is preferred";
}

TEST_F(ReadHfTokenizerTest, TakesWhatTheOtherFilesSay) {
  Json root = ByteLevel();
  root["post_processor"] = nullptr;
  Write("tokenizer.json", root.dump());
  Write("tokenizer_config.json",
        R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": true})");
  Write("generation_config.json", R"({"eos_token_id": [5, 7, 1000, "x"]})");
  Write("config.json", R"({"eos_token_id": 2, "bos_token_id": 0})");
  const auto tokenizer = ReadHfTokenizer(dir_.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->bos_id(), 4u);
  EXPECT_EQ(tokenizer->eos_id(), 5u);
  EXPECT_TRUE(tokenizer->add_bos());
  EXPECT_FALSE(tokenizer->add_eos());
  EXPECT_THAT(tokenizer->end_ids(), ElementsAre(5, 7, 2, 8)) << "8 is <|im_end|>";
  EXPECT_EQ(tokenizer->types(8), 3u);
}

TEST_F(ReadHfTokenizerTest, AddsTokensToATokenizerModel) {
  Write("tokenizer.model", SmallModel().SerializeAsString());
  Write("tokenizer_config.json", R"({"add_bos_token": false, "added_tokens_decoder": {
      "0": {"content": "<unk>", "special": true},
      "5": {"content": "<|end|>", "special": true, "rstrip": true}}})");
  const auto tokenizer = ReadHfTokenizer(dir_.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_FALSE(tokenizer->add_bos());
  EXPECT_EQ(tokenizer->tokens_size(), 6);
  EXPECT_EQ(tokenizer->scores_size(), 6);
  EXPECT_THAT(tokenizer->types(), ElementsAre(2, 3, 3, 1, 1, 3));
  EXPECT_THAT(tokenizer->strip_right_ids(), ElementsAre(5));
  EXPECT_THAT(tokenizer->end_ids(), ElementsAre(5));
}

// Markup that the folder's files name as special, or its templates write, in a vocabulary that
// calls it a word or a token of anyone's.
TEST_F(ReadHfTokenizerTest, MakesMarkupSpecial) {
  Json root = ByteLevel();
  root["model"]["vocab"].update({{"<|im_start|>", 9},
                                 {"<turn>", 10},
                                 {"<tool>", 11},
                                 {"<x>", 12},
                                 {"user", 13},
                                 {"<y>", 14}});
  Write("tokenizer.json", root.dump());
  Write("tokenizer_config.json", R"({"eos_token": "</s>",
      "chat_template": [{"name": "default", "template": "<|im_start|>user"},
                        {"name": "tool_use", "template": "{{ '<tool>' + x }}"}],
      "additional_special_tokens": ["<x>", {"content": "<y>"}, "user", "none"],
      "added_tokens_decoder": {"15": {"content": "<|late|>", "special": true},
                               "7": {"content": "<other>", "special": true}}})");
  Write("chat_template.jinja", "{{ '<turn>' }}");
  Write("generation_config.json", R"({"eos_token_id": [5, 7]})");
  const auto tokenizer = ReadHfTokenizer(dir_.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto type = [&](int id) { return tokenizer->types(id); };
  for (const int id : {7, 8, 9, 10, 11, 12, 14, 15})
    EXPECT_EQ(type(id), 3u) << tokenizer->tokens(id);
  EXPECT_EQ(type(13), 1u) << "a word";
  EXPECT_EQ(tokenizer->tokens(7), "<go>") << "tokenizer.json knows it to be added";
  EXPECT_THAT(tokenizer->promoted_ids(), testing::UnorderedElementsAre(7, 8, 9, 10, 11, 12, 14));
  EXPECT_THAT(tokenizer->end_ids(), ElementsAre(5, 7, 8));
}

TEST_F(ReadHfTokenizerTest, ErrorsNameTheFile) {
  Write("tokenizer.json", "{");
  EXPECT_THAT(std::string(ReadHfTokenizer(dir_.path()).status().message()),
              HasSubstr("tokenizer.json: not a JSON object"));
  Write("tokenizer.json", ByteLevel().dump());
  Write("tokenizer_config.json", "[]");
  EXPECT_THAT(std::string(ReadHfTokenizer(dir_.path()).status().message()),
              HasSubstr("tokenizer_config.json: no JSON object"));
}

}  // namespace tidegate::hf_tokenizer_test
