// `tidegate inspect`, run inside this process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/unique_fd.h"
#include "cli/inspect_report.h"
#include "packer/pack_writer.h"
#include "proto/store/v1/profile.h"
#include "tests/cli/command_line.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/hf_folder.h"
#include "tests/support/test_support.h"

namespace tidegate::inspect_test {

using ::testing::HasSubstr;

absl::Status RunInspectCommand(std::vector<std::string> arguments, std::string* out) {
  arguments.insert(arguments.begin(), "inspect");
  return RunCommand(AddInspectCommand, std::move(arguments), out);
}

class InspectCommandTest : public ::testing::Test {
 protected:
  Json Inspect(const std::string& name) {
    std::string out;
    const absl::Status status = RunInspectCommand({dir_.File(name), "--json"}, &out);
    Json report = Json::parse(out);
    const bool usable = report.contains("packing") ? report["packing"]["possible"].get<bool>()
                                                   : report["serving"]["served"].get<bool>();
    EXPECT_EQ(status.ok(), usable) << status;
    return report;
  }
  void MakePack(const PackOptions& options = {}) {
    LlamaGguf({}).WriteTo(dir_.File("m.gguf"));
    const auto source = SourceModel::Open(dir_.File("m.gguf"));
    ASSERT_TRUE(WritePack(*source, dir_.File("m.tgpack"), options, nullptr).ok());
  }

  TempDir dir_;
  std::string out_;
};

TEST_F(InspectCommandTest, ExplainsAGguf) {
  LlamaGguf({.matrices = GgmlType::kF16}).WriteTo(dir_.File("m.gguf"));
  const Json report = Inspect("m.gguf");
  EXPECT_EQ(report["format"], "GGUF version 3");
  EXPECT_EQ(report["architecture"], "llama");
  EXPECT_EQ(report["hyper_parameters"]["hidden_size"], 64);
  EXPECT_EQ(report["hyper_parameters"]["rope_scaling"], "none");
  EXPECT_EQ(report["hyper_parameters"]["rope_pairs"], "adjacent");
  EXPECT_EQ(report["hyper_parameters"]["sliding_window"], "none");
  EXPECT_EQ(report["hyper_parameters"]["activation"], "silu");
  EXPECT_EQ(report["hyper_parameters"]["attention_scale"], 0.25);
  ASSERT_EQ(report["tensor_types"].size(), 2u);
  EXPECT_EQ(report["tensor_types"][0]["type"], "F16");
  EXPECT_EQ(report["tensor_types"][0]["tensors"], 2 + 2 * 7);
  EXPECT_EQ(report["tensor_types"][1]["bytes"], 5 * 64 * 4);
  EXPECT_EQ(report["tokenizer"]["tokens"], 320);
  EXPECT_EQ(report["tokenizer"]["bos_id"], 1);
  EXPECT_EQ(report["packing"]["possible"], true);
  EXPECT_EQ(report["packing"]["streamed"]["encoding"], "q8");
  EXPECT_EQ(report["packing"]["streamed"]["input_units"]["units_per_block"], 2);
}

TEST_F(InspectCommandTest, LooksThroughTheWeights) {
  EXPECT_EQ(
      [&] {
        LlamaGguf({}).WriteTo(dir_.File("m.gguf"));
        return Inspect("m.gguf")["packing"]["weights_checked"];
      }(),
      "all");
  GgufBuilder gguf = LlamaGguf({});
  std::vector<float> values(64 * 96, 0.5f);
  values[64 * 3 + 7] = NAN;
  gguf.AddTensor("blk.1.ffn_up.weight", GgmlType::kF32, {64, 96}, values);
  gguf.WriteTo(dir_.File("bad.gguf"));
  const Json report = Inspect("bad.gguf");
  EXPECT_EQ(report["packing"]["possible"], false);
  EXPECT_THAT(report["packing"]["why_not"].get<std::string>(),
              HasSubstr("tensor blk.1.ffn_up.weight: row 3, column 7 is nan"));
  // Of a large model, only what is quickly read unless asked.
  const auto source = SourceModel::Open(dir_.File("bad.gguf"));
  const Json quick = DescribeGguf(*source, 1000, nullptr);
  EXPECT_EQ(quick["packing"]["possible"], true);
  EXPECT_THAT(quick["packing"]["weights_checked"].get<std::string>(), HasSubstr("vectors"));
}

TEST_F(InspectCommandTest, SaysWhyAGgufCannotBePacked) {
  GgufBuilder gguf = LlamaGguf({});
  gguf.SetString("general.architecture", "mamba");
  gguf.SetUint32("mamba.block_count", 7);
  gguf.SetInt32s("mamba.list", {1, 2, 3});
  gguf.SetString("general.name", "\xff\xfe");
  gguf.AddRawTensor("q", 16, {256}, std::string(66, 'x'));
  gguf.WriteTo(dir_.File("m.gguf"));
  const Json report = Inspect("m.gguf");
  EXPECT_EQ(report["tensor_types"][1]["type"], "IQ2_XXS");
  EXPECT_EQ(report["tensor_types"][1]["readable"], false);
  EXPECT_EQ(report["packing"]["possible"], false);
  EXPECT_THAT(report["packing"]["why_not"].get<std::string>(), HasSubstr("'mamba'"));
  EXPECT_EQ(report["hyper_parameters"]["block_count"], 7);
  EXPECT_EQ(report["hyper_parameters"]["list"], "[3 values]");
  const absl::Status refused = RunInspectCommand({dir_.File("m.gguf")}, &out_);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("m.gguf cannot be packed: "));
  EXPECT_THAT(out_, HasSubstr("architecture 'mamba' is not supported"));
}

TEST_F(InspectCommandTest, ExplainsAFolder) {
  LlamaGguf({}).WriteTo(dir_.File("m.gguf"));
  WriteHfFolder(*SourceModel::Open(dir_.File("m.gguf")), dir_.File("folder"),
                {.type = GgmlType::kBF16});
  const Json report = Inspect("folder");
  EXPECT_EQ(report["format"], "Hugging Face folder");
  EXPECT_EQ(report["hyper_parameters"]["hidden_size"], 64);
  EXPECT_EQ(report["tensor_types"][0]["type"], "BF16");
  EXPECT_TRUE(report["packing"].contains("possible"));
}

TEST_F(InspectCommandTest, AdaptersAreNoModels) {
  GgufBuilder gguf;
  gguf.SetString("general.architecture", "llama");
  gguf.SetString("general.type", "adapter");
  gguf.WriteTo(dir_.File("a.gguf"));
  EXPECT_THAT(Inspect("a.gguf")["packing"]["why_not"].get<std::string>(),
              HasSubstr("this is an adapter"));
}

TEST_F(InspectCommandTest, ExplainsAPack) {
  MakePack();
  const Json report = Inspect("m.tgpack");
  EXPECT_EQ(report["format"], "Tidegate pack version 2");
  EXPECT_EQ(report["uuid"].get<std::string>().size(), 36u);
  EXPECT_EQ(report["model_name"], "test-llama");
  EXPECT_EQ(report["static"]["tensors"], 15);
  // The rest is an embedding that is not the head.
  EXPECT_LT(report["static"]["always_in_memory_bytes"].get<uint64_t>(),
            report["static"]["bytes"].get<uint64_t>());
  EXPECT_EQ(report["streamed"]["blocks"], 2 * (32 + 16));
  EXPECT_EQ(report["streamed"]["bytes"], 2 * 6 * 4096);
  EXPECT_NEAR(report["streamed"]["input_units"]["padding_fraction"].get<double>(), 0.125, 1e-9);
  for (const char* matrix : {"gate", "up", "down"}) {
    const Json& error = report["streamed"]["relative_rms_error"][matrix];
    EXPECT_GT(error["mean"].get<double>(), 0.001);
    EXPECT_GE(error["worst"].get<double>(), error["mean"].get<double>());
    EXPECT_LT(error["worst"].get<double>(), 0.01);
    EXPECT_LT(error["worst_layer"].get<int>(), 2);
  }
  EXPECT_EQ(report["source"]["file_name"], "m.gguf");
  EXPECT_FALSE(report.contains("verification"));
  EXPECT_EQ(report["streamed"]["placed_by_trace"], false);
}

TEST_F(InspectCommandTest, TextHasALineForEveryValue) {
  MakePack();
  ASSERT_TRUE(RunInspectCommand({dir_.File("m.tgpack")}, &out_).ok());
  for (const char* line :
       {"format                       Tidegate pack version 2", "  hidden size                64",
        "streamed:", "  input units:", "12.50 %", "relative rms error:", "  add bos"}) {
    EXPECT_THAT(out_, HasSubstr(line));
  }
}

// Of LlamaGguf({}).
store::v1::Profile TestProfile() {
  store::v1::Profile profile;
  profile.set_version(kProfileVersion);
  store::v1::ProfileModel& model = *profile.mutable_model();
  model.set_name("test-llama");
  model.set_layer_count(2);
  model.set_hidden_size(64);
  model.set_intermediate_size(96);
  model.set_embedding_rows(320);
  profile.mutable_conditions()->add_adapters("a.gguf=0.5");
  for (const double density : {1.0, 0.8}) profile.add_ladder()->set_density(density);
  return profile;
}

TEST_F(InspectCommandTest, NamesMergedAdapters) {
  GgufBuilder adapter;
  adapter.SetString("general.architecture", "llama");
  adapter.SetString("adapter.type", "lora");
  const std::vector<float> zeros(64);
  adapter.AddTensor("blk.0.attn_q.weight.lora_a", GgmlType::kF32, {64, 1}, zeros);
  adapter.AddTensor("blk.0.attn_q.weight.lora_b", GgmlType::kF32, {1, 64}, zeros);
  adapter.WriteTo(dir_.File("a.gguf"));
  MakePack();
  EXPECT_EQ(Inspect("m.tgpack")["source"]["adapters"], Json::array());
  MakePack({.adapters = {{dir_.File("a.gguf"), 0.5f}}});
  EXPECT_EQ(Inspect("m.tgpack")["source"]["adapters"], Json::array({"a.gguf=0.5"}));
  ASSERT_TRUE(RunInspectCommand({dir_.File("m.tgpack")}, &out_).ok());
  EXPECT_THAT(out_, HasSubstr("a.gguf=0.5"));
}

TEST_F(InspectCommandTest, ExplainsAProfile) {
  MakePack({.profile = TestProfile()});
  const Json profile = Inspect("m.tgpack")["profile"];
  ASSERT_EQ(profile["ladder"].size(), 2u) << profile;
  EXPECT_EQ(profile["adapters"], Json::array({"a.gguf=0.5"}));
  EXPECT_EQ(profile["ladder"][0]["point"], 0);
  EXPECT_EQ(profile["ladder"][1]["point"], 1);
  EXPECT_EQ(profile["ladder"][1]["density"], 0.8);
  ASSERT_TRUE(RunInspectCommand({dir_.File("m.tgpack")}, &out_).ok());
  EXPECT_THAT(out_, HasSubstr("point 1   density 0.8"));
}

TEST_F(InspectCommandTest, VerifyFindsDamage) {
  MakePack();
  ASSERT_TRUE(RunInspectCommand({dir_.File("m.tgpack"), "--verify", "--json"}, &out_).ok());
  EXPECT_EQ(Json::parse(out_)["verification"]["intact"], true);
  EXPECT_EQ(Json::parse(out_)["verification"]["blocks_read"], 96);

  const auto fd = UniqueFd::Open(dir_.File("m.tgpack"), O_RDWR);
  const auto index = ReadPackIndex(fd->get(), "p");
  const uint64_t at =
      index->header.blocks_offset + index->geometry.BlockOffset(1, UnitKind::kHidden, 1);
  ASSERT_TRUE(WriteAt(fd->get(), at, "damage", 6).ok());
  const absl::Status status = RunInspectCommand({dir_.File("m.tgpack"), "--verify"}, &out_);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("1 damaged blocks"));
  EXPECT_THAT(out_, HasSubstr("layer 1   kind hidden   block 1"));
}

TEST_F(InspectCommandTest, MistakesAreNamed) {
  LlamaGguf({}).WriteTo(dir_.File("m.gguf"));
  WriteFileOrDie(dir_.File("text"), "hello");
  MakePack();
  const std::string pack = ReadFileOrDie(dir_.File("m.tgpack"));
  WriteFileOrDie(dir_.File("cut.tgpack"), pack.substr(0, pack.size() / 2));
  const std::pair<std::vector<std::string>, std::string> kRows[] = {
      {{dir_.File("none")}, "none"},
      {{dir_.File("text")}, "it starts with \"hello\""},
      {{dir_.File("cut.tgpack")}, "truncated pack"},
      {{dir_.File("m.gguf"), "--verify"}, "has no checksums"},
  };
  for (const auto& [arguments, message] : kRows) {
    const absl::Status status = RunInspectCommand(arguments, &out_);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
    EXPECT_EQ(out_, "");
  }
}

}  // namespace tidegate::inspect_test
