#include "packer/hf_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "packer/hf_tokenizer.h"
#include "packer/hyper_parameters.h"
#include "packer/pack_plan.h"
#include "tests/support/hf_folder.h"

namespace tidegate::hf_folder_test {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

class HfFolderTest : public ::testing::Test {
 protected:
  HfFolderTest() { Convert({}); }

  // The small llama model as GGUF and as a folder.
  void Convert(const TestModel& model, const HfFolderOptions& options = {}) {
    LlamaGguf(model).WriteTo(dir_.File("m.gguf"));
    gguf_ = std::make_unique<SourceModel>(*SourceModel::Open(dir_.File("m.gguf")));
    std::filesystem::remove_all(Folder());
    WriteHfFolder(*gguf_, Folder(), options);
  }
  std::string Folder() const { return dir_.File("Llama-0.1B"); }
  std::string File(const std::string& name) const { return Folder() + "/" + name; }
  std::string Error() const { return std::string(SourceModel::Open(Folder()).status().message()); }
  void ChangeConfig(const char* key, const Json& value) const {
    Json config = Json::parse(ReadFileOrDie(File("config.json")));
    config[key] = value;
    WriteFileOrDie(File("config.json"), config.dump());
  }
  static std::vector<float> Floats(const SourceModel& file, const GgufTensor& tensor) {
    std::vector<float> values(tensor.rows() * tensor.columns());
    EXPECT_TRUE(file.ReadRows(tensor, 0, tensor.rows(), values.data()).ok());
    return values;
  }
  void ExpectSameModel() const {
    const auto folder = SourceModel::Open(Folder());
    ASSERT_TRUE(folder.ok()) << folder.status();
    EXPECT_TRUE(folder->is_folder());
    EXPECT_EQ(folder->tensors().size(), gguf_->tensors().size());
    for (const GgufTensor& wanted : gguf_->tensors()) {
      const GgufTensor* found = folder->FindTensor(wanted.name);
      ASSERT_NE(found, nullptr) << wanted.name;
      EXPECT_EQ(found->dims, wanted.dims) << wanted.name;
      EXPECT_EQ(Floats(*folder, *found), Floats(*gguf_, wanted)) << wanted.name;
    }
    const auto wanted = HyperParametersOf(*gguf_);
    const auto found = HyperParametersOf(*folder);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->SerializeAsString(), wanted->SerializeAsString());
  }

  TempDir dir_;
  std::unique_ptr<SourceModel> gguf_;
};

TEST_F(HfFolderTest, IsTheSameModelAsTheGgufFile) {
  ExpectSameModel();
  EXPECT_EQ(*SourceModel::Open(Folder() + "/")->GetString("general.name"), "Llama-0.1B");
}

TEST_F(HfFolderTest, ShardedTiedAndHalfPrecision) {
  Convert({.tied = true}, {.files = 3});
  ExpectSameModel();
  Convert({.matrices = GgmlType::kBF16, .norms = GgmlType::kBF16}, {.type = GgmlType::kBF16});
  ExpectSameModel();
  Convert({.matrices = GgmlType::kF16, .norms = GgmlType::kF16}, {.type = GgmlType::kF16});
  ExpectSameModel();
}

TEST_F(HfFolderTest, MixturesOfExperts) {
  Convert({.experts = 3, .experts_used = 2, .experts_apart = true}, {.files = 2});
  ASSERT_NE(gguf_->FindTensor("blk.1.ffn_up.2.weight"), nullptr);
  ExpectSameModel();
}

// The static section copies undecoded rows.
TEST_F(HfFolderTest, UndecodedRowsAreInGgufsOrderToo) {
  const auto folder = SourceModel::Open(Folder());
  const GgufTensor* key = folder->FindTensor("blk.1.attn_k.weight");
  const std::vector<float> wanted = Floats(*gguf_, *gguf_->FindTensor("blk.1.attn_k.weight"));
  std::vector<float> rows(7 * key->columns());
  const uint64_t row_bytes = key->columns() * sizeof(float);
  ASSERT_TRUE(folder->ReadBytes(*key, 3 * row_bytes, 7 * row_bytes, rows.data()).ok());
  EXPECT_TRUE(std::equal(rows.begin(), rows.end(), wanted.begin() + 3 * 64));
}

TEST_F(HfFolderTest, BiasesOfHeadsAreReorderedToo) {
  ChangeConfig("tie_word_embeddings", nullptr);
  SafetensorsBuilder file;
  std::vector<float> bias(64);
  for (size_t i = 0; i < bias.size(); ++i) bias[i] = static_cast<float>(i);
  file.Add("model.layers.0.self_attn.q_proj.bias", GgmlType::kF32, {64}, bias);
  file.WriteTo(File("model.safetensors"));
  const auto folder = SourceModel::Open(Folder());
  ASSERT_TRUE(folder.ok()) << folder.status();
  const std::vector<float> found = Floats(*folder, *folder->FindTensor("blk.0.attn_q.bias"));
  EXPECT_EQ(found[0], 0);  // heads of 16
  EXPECT_EQ(found[1], 8);
  EXPECT_EQ(found[2], 1);
  EXPECT_EQ(found[17], 24);
}

TEST_F(HfFolderTest, GemmaNormsHaveOneAdded) {
  ChangeConfig("model_type", "gemma");
  ChangeConfig("hidden_act", "gelu");
  const auto folder = SourceModel::Open(Folder());
  ASSERT_TRUE(folder.ok()) << folder.status();
  const char* name = "blk.1.attn_norm.weight";
  EXPECT_EQ(Floats(*folder, *folder->FindTensor(name))[5],
            Floats(*gguf_, *gguf_->FindTensor(name))[5] + 1);
}

TEST_F(HfFolderTest, FactorsOfTheConfigurationAreTensors) {
  ChangeConfig("rope_scaling", {{"rope_type", "llama3"},
                                {"factor", 8.0},
                                {"low_freq_factor", 1.0},
                                {"high_freq_factor", 4.0},
                                {"original_max_position_embeddings", 64}});
  const auto folder = SourceModel::Open(Folder());
  ASSERT_TRUE(folder.ok()) << folder.status();
  const GgufTensor* factors = folder->FindTensor("rope_freqs.weight");
  ASSERT_NE(factors, nullptr);
  EXPECT_THAT(factors->dims, ElementsAre(8));
  EXPECT_EQ(Floats(*folder, *factors)[7], 8);
}

TEST_F(HfFolderTest, ChatTemplateComesFromEitherFile) {
  const auto chat_template = [this] {
    return SourceModel::Open(Folder())->GetString("tokenizer.chat_template").value_or("none");
  };
  EXPECT_EQ(chat_template(), "none");
  WriteFileOrDie(File("tokenizer_config.json"), R"({"chat_template": "one"})");
  EXPECT_EQ(chat_template(), "one");
  WriteFileOrDie(File("tokenizer_config.json"),
                 R"({"chat_template": [{"name": "tool_use", "template": "t"},
                                       {"name": "default", "template": "two"}, 3]})");
  EXPECT_EQ(chat_template(), "two");
  WriteFileOrDie(File("chat_template.jinja"), "three");
  EXPECT_EQ(chat_template(), "three");
}

TEST_F(HfFolderTest, MissingAndWrongFilesAreNamed) {
  Convert({}, {.files = 3});
  std::filesystem::remove(File("part-1.safetensors"));
  EXPECT_THAT(Error(),
              HasSubstr("1 of 3 files that model.safetensors.index.json names are missing: "
                        "part-1.safetensors"));
  WriteFileOrDie(File("model.safetensors.index.json"),
                 R"({"weight_map": {"a": "../part-0.safetensors"}})");
  EXPECT_THAT(Error(), HasSubstr("no name of a safetensors file"));
  std::filesystem::remove(File("model.safetensors.index.json"));
  EXPECT_THAT(Error(), HasSubstr("has several safetensors files but no"));
  std::filesystem::remove(File("part-0.safetensors"));
  std::filesystem::remove(File("part-2.safetensors"));
  EXPECT_THAT(Error(), HasSubstr("is a folder without safetensors files; name a GGUF file"));
  Convert({});
  std::filesystem::remove(File("config.json"));
  EXPECT_THAT(Error(), HasSubstr("config.json"));
}

TEST_F(HfFolderTest, WeightsThatCannotBeReadAreNamed) {
  const auto with = [this](const char* name, const char* dtype, const std::vector<uint64_t>& shape,
                           const std::string& bytes) {
    SafetensorsBuilder file;
    file.AddRaw(name, dtype, shape, bytes);
    file.WriteTo(File("model.safetensors"));
    return Error();
  };
  EXPECT_THAT(with("model.layers.0.mlp.up_proj.weight", "F8_E4M3", {1}, "x"),
              HasSubstr("has the type F8_E4M3, which is not supported"));
  EXPECT_THAT(with("model.layers.0.self_attn.q_proj.weight", "F16", {3, 1}, "123456"),
              HasSubstr("not whole heads of 16"));
  EXPECT_THAT(with("model.norm.weight", "F16", {}, "12"), HasSubstr("is empty"));
  EXPECT_THAT(with("model.norm.weight", "F16", {1}, "12"), HasSubstr("lm_head.weight is missing"));
}

TEST_F(HfFolderTest, TheTokenizerComesFromTheFolder) {
  const auto folder = SourceModel::Open(Folder());
  const auto tokenizer = ReadHfTokenizer(Folder());
  EXPECT_EQ(PlanPack(*folder, {}).status().code(), tokenizer.status().code());
}

}  // namespace tidegate::hf_folder_test
