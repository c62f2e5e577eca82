// `tidegate simulate`, run inside this process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/unique_fd.h"
#include "packer/pack_writer.h"
#include "proto/store/v1/mask_trace.h"
#include "tests/cli/command_line.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::simulate_test {

using Json = nlohmann::json;
using ::testing::HasSubstr;

class SimulateCommandTest : public ::testing::Test {
 protected:
  absl::Status Simulate(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "simulate");
    return RunCommand(AddSimulateCommand, std::move(arguments), &out_);
  }
  std::string Error(const std::vector<std::string>& arguments) {
    const absl::Status status = Simulate(arguments);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  }
  // A pack of 2 layers, 64 input and 96 hidden units, and a trace of 6 tokens, all of them alike.
  void MakePackAndTrace() {
    LlamaGguf({}).WriteTo(dir_.File("m.gguf"));
    const auto source = SourceModel::Open(dir_.File("m.gguf"));
    ASSERT_TRUE(WritePack(*source, pack_, {}, nullptr).ok());
    const auto fd = UniqueFd::Open(trace_, O_RDWR | O_CREAT, 0600);
    MaskTraceWriter writer(fd->get(), {.layer_count = 2, .unit_count = {64, 96}});
    for (uint32_t token = 0; token < 6; ++token) {
      for (uint32_t layer = 0; layer < 2; ++layer) {
        writer.Add(UnitKind::kInput, std::vector<uint32_t>{0, 1, 2, 3});
        writer.Add(UnitKind::kHidden, std::vector<uint32_t>{10, 90});
      }
    }
    ASSERT_TRUE(writer.Finish().ok());
  }

  TempDir dir_;
  const std::string pack_ = dir_.File("m.tgpack"), trace_ = dir_.File("t.trace");
  std::string out_;
};

TEST_F(SimulateCommandTest, DenseOfAPublishedModel) {
  ASSERT_TRUE(
      Simulate({"--shape", "llama-3-8b", "--dram", "50%,100%", "--flash", "1GB/s", "--json"}).ok());
  const Json rows = Json::parse(out_)["rows"];
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_NEAR(rows[0]["tokens_per_second"].get<double>(), 0.459, 0.00459);
  EXPECT_EQ(rows[0]["policy"], "dense");
  EXPECT_EQ(rows[1]["flash_bytes_per_token"].get<double>(), 0);
  EXPECT_NEAR(rows[1]["tokens_per_second"].get<double>(), 60e9 / 4.28343e9, 0.01);
}

TEST_F(SimulateCommandTest, ReplaysATraceOverTheGrid) {
  MakePackAndTrace();
  const std::string csv = dir_.File("grid.csv");
  ASSERT_TRUE(
      Simulate({"--pack", pack_, "--trace", trace_, "--dram", "95%,100%", "--flash", "1GB/s,2GB/s",
                "--policies", "none,lfu", "--kv-tokens", "16", "--json", "--csv", csv})
          .ok());
  const Json rows = Json::parse(out_)["rows"];
  ASSERT_EQ(rows.size(), 2u * 2 * 3);
  for (size_t i = 0; i < rows.size(); i += 3) {
    EXPECT_EQ(rows[i]["policy"], "dense");
    EXPECT_EQ(rows[i]["times_dense"], 1.0);
    EXPECT_EQ(rows[i + 1]["policy"], "none");
    EXPECT_EQ(rows[i + 1]["hit_rate"], 0.0);
    // The same masks over and over: all but the first time in memory.
    EXPECT_EQ(rows[i + 2]["policy"], "lfu");
    EXPECT_NEAR(rows[i + 2]["hit_rate"].get<double>(), 5.0 / 6, 1e-9);
    // 2 layers x (4 units of 2 columns of 96 and 2 of a column of 64), 34 bytes for 32 elements.
    EXPECT_EQ(rows[i + 1]["flash_bytes_per_token"].get<double>(), 2 * (4 * 2 * 112 + 2 * 80));
  }
  const std::string text = ReadFileOrDie(csv);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 13);
  ASSERT_TRUE(Simulate({"--pack", pack_, "--trace", trace_}).ok());
  EXPECT_THAT(out_, HasSubstr("belady"));
}

TEST_F(SimulateCommandTest, MistakesAreNamed) {
  MakePackAndTrace();
  EXPECT_THAT(Error({}), HasSubstr("give either --shape NAME or --pack FILE"));
  EXPECT_THAT(Error({"--shape", "gpt-9"}), HasSubstr("'gpt-9' is not known; use phi-3-medium"));
  EXPECT_THAT(Error({"--shape", "llama-3-8b", "--trace", trace_}),
              HasSubstr("t.trace is a trace of 2 layers of 64 input and 96 hidden units; the model "
                        "has 32 layers of 4096 input"));
  EXPECT_THAT(Error({"--shape", "llama-3-8b", "--flash", "fast"}),
              HasSubstr("--flash: 'fast' is not a rate; write for example 1GB/s"));
  EXPECT_THAT(Error({"--shape", "llama-3-8b", "--dram", "-5%"}),
              HasSubstr("--dram, percent: '-5' is not a number above 0 up to 1000"));
  EXPECT_THAT(Error({"--shape", "llama-3-8b", "--bits", "0"}), HasSubstr("--bits: '0'"));
  EXPECT_THAT(Error({"--pack", pack_, "--trace", trace_, "--policies", "lfu,magic"}),
              HasSubstr("unknown policy 'magic'; use value, lfu, lru, none or belady"));
  EXPECT_THAT(Error({"--pack", pack_, "--trace", trace_, "--csv", trace_}),
              HasSubstr("is one of the files to read"));
}

}  // namespace tidegate::simulate_test
