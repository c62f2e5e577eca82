// Tokenizers of Hugging Face folders, made here from vocabularies in GGUF, give the ids that
// llama.cpp gives for those.
#include <gmock/gmock.h>
#include <google/protobuf/unknown_field_set.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "packer/hf_tokenizer.h"
#include "packer/source_model.h"
#include "packer/source_tokenizer.h"
#include "proto/sentencepiece/model.pb.h"
#include "tests/engine/tokenizer/tiny_tokenizer.h"
#include "tests/support/test_support.h"

namespace tidegate::hf_vectors_test {

using Json = nlohmann::json;
using Ids = std::vector<TokenId>;

std::string VectorPath(const std::string& name) {
  return absl::StrCat("data/tokenizers/ggml-vocab-", name, ".gguf");
}

store::v1::Tokenizer GgufTokenizer(const std::string& name) {
  const auto gguf = SourceModel::Open(SharedPath(VectorPath(name)));
  EXPECT_TRUE(gguf.ok()) << gguf.status();
  const auto tokenizer = TokenizerOf(*gguf);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *tokenizer;
}

void ExpectVectors(const std::string& name, const store::v1::Tokenizer& data) {
  const auto tokenizer = MakeTokenizer(data);
  const std::vector<std::string> texts = absl::StrSplit(
      ReadFileOrDie(SharedPath(VectorPath(name) + ".inp")), "\n__ggml_vocab_test__\n");
  const std::vector<std::string> lines =
      absl::StrSplit(ReadFileOrDie(SharedPath(VectorPath(name) + ".out")), '\n');
  ASSERT_EQ(texts.size(), lines.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    std::string ids;
    for (const TokenId id : tokenizer->Encode(texts[i], false)) absl::StrAppend(&ids, " ", id);
    EXPECT_EQ(ids, absl::StrCat(lines[i].empty() || lines[i][0] == ' ' ? "" : " ", lines[i]))
        << "text " << i << ": " << texts[i];
  }
}

// Vocabulary and added tokens of a tokenizer.json.
Json CommonJson(const store::v1::Tokenizer& data) {
  Json root = {{"model", {{"type", "BPE"}, {"vocab", Json::object()}}},
               {"added_tokens", Json::array()}};
  for (int id = 0; id < data.tokens_size(); ++id) {
    const uint32_t type = data.types(id);
    if (type == 3 || type == 4) {
      const bool strips = std::count(data.strip_right_ids().begin(), data.strip_right_ids().end(),
                                     static_cast<uint32_t>(id)) > 0;
      root["added_tokens"].push_back({{"id", id},
                                      {"content", data.tokens(id)},
                                      {"special", type == 3},
                                      {"lstrip", false},
                                      {"rstrip", strips}});
    } else {
      root["model"]["vocab"][data.tokens(id)] = id;
    }
  }
  return root;
}

class ByteLevelJson : public testing::TestWithParam<const char*> {};

TEST_P(ByteLevelJson, GivesTheSameIds) {
  const std::string name = GetParam();
  TG_REQUIRE_SHARED(VectorPath(name));
  const store::v1::Tokenizer data = GgufTokenizer(name);
  Json root = CommonJson(data);
  Json& merges = root["model"]["merges"] = Json::array();
  for (int i = 0; i < data.merges_size(); i += 2) {
    const std::string& left = data.tokens(static_cast<int>(data.merges(i)));
    const std::string& right = data.tokens(static_cast<int>(data.merges(i + 1)));
    if (i % 4 == 0) {  // both spellings that there are
      merges.push_back({left, right});
    } else {
      merges.push_back(absl::StrCat(left, " ", right));
    }
  }
  root["model"]["ignore_merges"] = data.ignore_merges();
  Json steps = Json::array();
  for (const auto& step : data.split_steps()) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", step.pattern()}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  }
  steps.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}});
  root["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", steps}};
  const auto tokenizer = TokenizerFromJson(root.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->model(), "gpt2");
  EXPECT_EQ(tokenizer->tokens_size(), data.tokens_size());
  ExpectVectors(name, *tokenizer);
}

INSTANTIATE_TEST_SUITE_P(All, ByteLevelJson, testing::Values("gpt-2", "llama-bpe", "qwen35"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::erase(name, '-');
                           return name;
                         });

// All ways to make a piece of two pieces, best piece first: how converters write merges.
Json MergesOf(const store::v1::Tokenizer& data) {
  std::map<std::string, int> pieces;
  for (int id = 0; id < data.tokens_size(); ++id) {
    if (data.types(id) == 1) pieces.emplace(data.tokens(id), id);
  }
  std::vector<std::tuple<float, std::string, size_t>>
      found;  // score, piece, bytes of the left part
  for (const auto& [piece, id] : pieces) {
    for (size_t cut = 1; cut < piece.size(); ++cut) {
      if (pieces.count(piece.substr(0, cut)) == 0 || pieces.count(piece.substr(cut)) == 0) continue;
      found.emplace_back(-data.scores(id), piece, cut);
    }
  }
  std::sort(found.begin(), found.end());
  Json merges = Json::array();
  for (const auto& [score, piece, cut] : found) {
    merges.push_back({piece.substr(0, cut), piece.substr(cut)});
  }
  return merges;
}

class SentencePieceJson : public testing::TestWithParam<const char*> {};

TEST_P(SentencePieceJson, GivesTheSameIds) {
  const std::string name = GetParam();
  TG_REQUIRE_SHARED(VectorPath(name));
  const store::v1::Tokenizer data = GgufTokenizer(name);
  Json root = CommonJson(data);
  root["model"]["merges"] = MergesOf(data);
  root["model"]["byte_fallback"] = true;
  root["model"]["unk_token"] = "<unk>";
  root["normalizer"] = Json::parse(R"({"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "\u2581"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]})");
  const auto tokenizer = TokenizerFromJson(root.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->model(), "llama");
  EXPECT_EQ(tokenizer->unknown_id(), 0u);
  EXPECT_TRUE(std::equal(tokenizer->strip_right_ids().begin(), tokenizer->strip_right_ids().end(),
                         data.strip_right_ids().begin(), data.strip_right_ids().end()));
  ExpectVectors(name, *tokenizer);
}

INSTANTIATE_TEST_SUITE_P(All, SentencePieceJson, testing::Values("llama-spm", "phi-3"),
                         [](const auto& test) {
                           return test.param == std::string("phi-3") ? "phi3" : "llama";
                         });

TEST(SentencePieceFile, GivesTheSameIds) {
  TG_REQUIRE_SHARED(VectorPath("llama-spm"));
  const store::v1::Tokenizer data = GgufTokenizer("llama-spm");
  sentencepiece::Model model;
  for (int id = 0; id < data.tokens_size(); ++id) {
    sentencepiece::Piece& piece = *model.add_pieces();
    piece.set_text(data.tokens(id));
    piece.set_score(data.scores(id));
    piece.set_type(static_cast<int>(data.types(id)));
  }
  model.mutable_trainer_spec()->set_model_type(2);
  // Fields that we do not know, as every real file has them.
  auto& spec = *model.mutable_trainer_spec();
  spec.GetReflection()->MutableUnknownFields(&spec)->AddLengthDelimited(1, "corpus.txt");
  spec.GetReflection()->MutableUnknownFields(&spec)->AddVarint(35, 1);
  const auto tokenizer = TokenizerFromSentencePiece(model.SerializeAsString());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->bos_id(), 1u);
  EXPECT_EQ(tokenizer->eos_id(), 2u);
  EXPECT_TRUE(tokenizer->add_bos());
  EXPECT_TRUE(tokenizer->add_space_prefix());
  ExpectVectors("llama-spm", *tokenizer);
}

}  // namespace tidegate::hf_vectors_test
