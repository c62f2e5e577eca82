// `tidegate plan`, run inside this process: real measurements, of which only plausible results are
// asked for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "packer/pack_writer.h"
#include "packer/source_model.h"
#include "tests/cli/command_line.h"
#include "tests/support/test_support.h"

namespace tidegate::plan_test {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

class PlanCommandTest : public ::testing::Test {
 protected:
  absl::Status Plan(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"plan", "--seconds", "0.002"});
    return RunCommand(AddPlanCommand, std::move(arguments), &out_);
  }
  Json PlanJson(std::vector<std::string> arguments) {
    arguments.push_back("--json");
    const absl::Status status = Plan(std::move(arguments));
    EXPECT_TRUE(status.ok()) << status;
    return Json::parse(out_, nullptr, /*allow_exceptions=*/false);
  }
  std::string MakePack() {
    const auto source = SourceModel::Open(DemoModelPath());
    EXPECT_TRUE(source.ok());
    EXPECT_TRUE(WritePack(*source, dir_.File("m.tgpack"), PackOptions(), nullptr).ok());
    return dir_.File("m.tgpack");
  }

  TempDir dir_;
  std::string out_;
};

TEST_F(PlanCommandTest, OfAPack) {
  const Json report = PlanJson({MakePack(), "--memory", "70%,100%", "--densities", "0.5"});
  EXPECT_EQ(report["packed"], true);
  EXPECT_EQ(report["units"], "q8");
  ASSERT_EQ(report["budgets"].size(), 2u) << report;
  for (const Json& budget : report["budgets"]) {
    EXPECT_LE(budget["used_bytes"], budget["budget_bytes"]);
    ASSERT_EQ(budget["points"].size(), 2u);
    EXPECT_EQ(budget["points"][0]["mode"], "dense");
    EXPECT_EQ(budget["points"][1]["density"], 0.5);
    for (const Json& point : budget["points"]) {
      const double rate = point["tokens_per_second"];
      EXPECT_GT(rate, 0.01);
      EXPECT_LT(rate, 1e6);
    }
  }
  const Json& half = report["budgets"][0]["points"];
  EXPECT_LT(half[1]["flash_bytes_per_token"], half[0]["flash_bytes_per_token"]);
  EXPECT_EQ(report["budgets"][1]["points"][0]["flash_bytes_per_token"], 0);
}

TEST_F(PlanCommandTest, OfAModelThatIsNotPacked) {
  const Json q8 = PlanJson({DemoModelPath(), "--memory", "100%"});
  const Json q4 = PlanJson({DemoModelPath(), "--memory", "100%", "--units", "q4"});
  EXPECT_EQ(q4["packed"], false);
  EXPECT_EQ(q4["units"], "q4");
  EXPECT_LT(q4["streamed_bytes"], q8["streamed_bytes"]);
  EXPECT_EQ(q4["static_bytes"], q8["static_bytes"]);
}

TEST_F(PlanCommandTest, TextSaysWhatIsMeasured) {
  ASSERT_TRUE(Plan({MakePack(), "--memory", "4KiB,100%"}).ok());
  EXPECT_THAT(out_, HasSubstr("the smallest that works is"));  // of 4 KiB
  EXPECT_THAT(out_, HasSubstr("drive: blocks"));
  EXPECT_THAT(out_, HasSubstr("dip_ca     0.50"));
}

TEST_F(PlanCommandTest, MistakesAreNamed) {
  const std::string pack = MakePack();
  const std::pair<std::vector<std::string>, std::string> kRows[] = {
      {{dir_.File("none")}, "none"},
      {{pack, "--units", "q4"}, "has units of its own"},
      {{DemoModelPath(), "--units", "q3"}, "q3"},
      {{pack, "--memory", "4KiB"}, "the smallest that works is"},
      {{pack, "--memory", "much"}, "--memory"},
      {{pack, "--memory", ","}, "--memory"},
      {{pack, "--densities", "0"}, "--densities"},
      {{pack, "--drive", dir_.File("none")}, "none"},
  };
  for (const auto& [arguments, message] : kRows) {
    const absl::Status status = Plan(arguments);
    EXPECT_FALSE(status.ok()) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

}  // namespace tidegate::plan_test
