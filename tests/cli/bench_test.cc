// `tidegate bench`, run inside this process on a model of random weights.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_join.h"
#include "tests/cli/command_line.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::bench_test {

using Json = nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

class BenchCommandTest : public ::testing::Test {
 protected:
  void SetUp() override { LlamaGguf({.hidden = 128, .intermediate = 512}).WriteTo(model_); }
  // Two prompt tokens, one to warm up, and `tokens` measured ones.
  absl::Status Bench(std::vector<std::string> arguments, const char* tokens = "4") {
    std::vector<std::string> all = {
        "bench", model_,      "--units", "f32",      "--threads", "1",        "--prompt-tokens",
        "2",     "--warm-up", "1",       "--tokens", tokens,      "--repeat", "1"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    return RunCommand(AddBenchCommand, std::move(all), &out_);
  }
  Json Rows(std::vector<std::string> arguments) {
    const std::string json = dir_.File("rows.json");
    arguments.insert(arguments.end(), {"--json", json});
    const absl::Status status = Bench(std::move(arguments));
    EXPECT_TRUE(status.ok()) << status;
    return status.ok() ? Json::parse(ReadFileOrDie(json))["rows"] : Json::array();
  }
  std::string Error(std::vector<std::string> arguments) {
    const absl::Status status = Bench(std::move(arguments));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  }

  TempDir dir_;
  const std::string model_ = dir_.File("m.gguf");
  std::string out_;
};

TEST_F(BenchCommandTest, ARowForEveryBudgetAndMode) {
  const Json rows = Rows({"--budgets", "60%,100%", "--modes", "dense,dip", "--density", "0.5"});
  ASSERT_EQ(rows.size(), 4u);
  std::vector<std::string> what;
  for (const Json& row : rows) {
    what.push_back(row["budget"].get<std::string>() + " " + row["mode"].get<std::string>());
    EXPECT_GT(row["tokens_per_second"].get<double>(), 0);
    EXPECT_GT(row["first_token_seconds"].get<double>(), 0);
  }
  EXPECT_EQ(absl::StrJoin(what, ", "), "60% dense, 60% dip, 100% dense, 100% dip");
  EXPECT_THAT(out_, HasSubstr("everything resident takes"));
}

TEST_F(BenchCommandTest, FlashIsReadForWhatHasNoPlaceInTheBudget) {
  const Json rows = Rows({"--budgets", "60%,100%", "--modes", "dense,dip", "--density", "0.5"});
  ASSERT_EQ(rows.size(), 4u);
  const auto flash = [&](size_t row) { return rows[row]["flash_bytes_per_token"].get<double>(); };
  EXPECT_GT(flash(0), flash(1)) << "half of the units are less to read than all";
  EXPECT_GT(rows[0]["flash_reads_per_token"].get<double>(), 0);
  EXPECT_EQ(flash(2), 0) << "everything is resident after the prompt";
  EXPECT_EQ(rows[2]["hit_rate"].get<double>(), 1);
}

TEST_F(BenchCommandTest, ABudgetThatIsTooSmallIsARowWithoutNumbers) {
  const Json rows = Rows({"--budgets", "1KiB,100%", "--modes", "dense"});
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0]["error"], "budget too small");
  EXPECT_FALSE(rows[0].contains("tokens_per_second"));
  EXPECT_FALSE(rows[1].contains("error"));
  EXPECT_THAT(out_, HasSubstr("1.0 KiB"));
}

TEST_F(BenchCommandTest, TheProfileNamesEveryStage) {
  ASSERT_TRUE(Bench({"--budgets", "100%", "--modes", "dip", "--profile"}).ok());
  for (const char* stage : {"one token takes", "attention", "masks", "stalls", "sampling"}) {
    EXPECT_THAT(out_, HasSubstr(stage));
  }
  ASSERT_TRUE(Bench({"--budgets", "100%", "--modes", "dip"}).ok());
  EXPECT_THAT(out_, Not(HasSubstr("one token takes")));
}

TEST_F(BenchCommandTest, TokensOfAFileAreWorkThatIsTheSameForEveryMode) {
  WriteFileOrDie(dir_.File("ids"), "1 5 9 13 17 21 25");
  EXPECT_EQ(Rows({"--budgets", "100%", "--modes", "dense", "--ids", dir_.File("ids")}).size(), 1u);
  WriteFileOrDie(dir_.File("ids"), "1 5 9");
  EXPECT_THAT(Error({"--ids", dir_.File("ids")}), HasSubstr("has 3 token ids"));
  WriteFileOrDie(dir_.File("ids"), "1 5 9 13 17 21 320");
  EXPECT_THAT(Error({"--budgets", "100%", "--modes", "dense", "--ids", dir_.File("ids")}),
              HasSubstr("token id 320"));
}

TEST_F(BenchCommandTest, RefusesWhatCannotBeMeasured) {
  EXPECT_THAT(Error({"--budgets", "0%"}), HasSubstr("--budgets, percent"));
  EXPECT_THAT(Error({"--budgets", "much"}), HasSubstr("--budgets"));
  EXPECT_THAT(Error({"--budgets", "100%", "--modes", "fast"}), HasSubstr("fast"));
  EXPECT_THAT(std::string(Bench({}, "126").message()), HasSubstr("exceed the context of 128"));
  EXPECT_THAT(Error({"--json", model_}), HasSubstr("is one of the files to read"));
}

}  // namespace tidegate::bench_test
