// Logits and greedy tokens against independent forward passes (float64 numpy, llama.cpp), through
// `tidegate logits`: packing, store, leases and decoder on the way.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/support/test_support.h"

namespace tidegate {
namespace {

using Json = nlohmann::json;

constexpr double kF32Limit = 1e-3, kF16Limit = 2e-2, kQ8Limit = 0.3;
constexpr double kFastLimit = 0.5;  // bfloat16 prompts
constexpr char kDemoModel[] = "tinystories-6M.f16.gguf";

Json ReadJson(const std::string& path) { return Json::parse(ReadFileOrDie(path)); }

// `tidegate logits` over the golden prompt: its positions, the one after the last greedy token, and
// as many greedy tokens as the golden file has.
struct Answer {
  Json positions;
  Json after_greedy;
  std::vector<uint32_t> greedy;
};

void Ask(const std::string& model, const Json& golden, const std::string& units, Answer& answer,
         const std::string& precision = "exact") {
  const auto prompt = golden.at("prompt_ids").get<std::vector<uint32_t>>();
  const size_t greedy = golden.at("greedy").size();
  std::vector<std::string> positions;
  for (const auto& [position, row] : golden.at("logits").items()) positions.push_back(position);
  const std::string last = absl::StrCat(prompt.size() + greedy - 1);
  positions.push_back(last);
  std::vector<std::string> command = {BinaryPath("tidegate"),
                                      "logits",
                                      model,
                                      "--units",
                                      units,
                                      "--precision",
                                      precision,
                                      "--tokens",
                                      absl::StrJoin(prompt, ","),
                                      "--positions",
                                      absl::StrJoin(positions, ","),
                                      "--greedy",
                                      absl::StrCat(greedy)};
  if (golden.contains("n_ctx")) {
    command.insert(command.end(), {"--context", absl::StrCat(golden.at("n_ctx").get<int>())});
  }
  const RunResult run = RunProgram(command);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const Json out = Json::parse(run.out);
  answer.positions = out.at("positions");
  ASSERT_TRUE(answer.positions.contains(last));
  answer.after_greedy = answer.positions.at(last);
  answer.greedy = out.at("greedy").get<std::vector<uint32_t>>();
}

// Largest difference of two rows of logits; infinite if one is not a number or the sizes differ.
double Difference(const Json& wanted, const Json& found) {
  if (wanted.size() != found.size()) return std::numeric_limits<double>::infinity();
  double largest = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double difference = std::abs(wanted[i].get<double>() - found[i].get<double>());
    if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, difference);
  }
  return largest;
}

double Difference(const Json& wanted_rows, const Answer& answer) {
  double largest = 0;
  for (const auto& [position, row] : wanted_rows.items()) {
    largest = std::max(largest, Difference(row, answer.positions.at(position)));
  }
  return largest;
}

void Report(const std::string& what, const std::string& units, double deviation) {
  std::printf("%-20s %-4s largest deviation %.3g\n", what.c_str(), units.c_str(), deviation);
  testing::Test::RecordProperty(absl::StrCat("deviation_", units), absl::StrCat(deviation));
}

class ArchitectureOracle : public testing::TestWithParam<const char*> {
 protected:
  std::string File(const std::string& name) const {
    return SharedPath(absl::StrCat("data/golden/arch/", name));
  }
  Json golden() const { return ReadJson(File(absl::StrCat(GetParam(), ".json"))); }
  std::string model(const Json& golden) const {
    return File(golden.at("model").get<std::string>());
  }
};

// A larger deviation moves tokens that were won by less: then they say nothing.
bool GreedyIsDecisive(const Json& golden, double deviation) {
  const auto gaps = golden.at("greedy_gap").get<std::vector<double>>();
  return *std::min_element(gaps.begin(), gaps.end()) > 2 * deviation;
}

TEST_P(ArchitectureOracle, SinglePrecisionUnitsAreExact) {
  TG_REQUIRE_SHARED("data/golden/arch/llama.json");
  const Json golden = this->golden();
  Answer answer;
  ASSERT_NO_FATAL_FAILURE(Ask(model(golden), golden, "f32", answer));
  EXPECT_LE(Difference(golden.at("logits_exact"), answer), kF32Limit);
  EXPECT_LE(Difference(golden.at("logits_exact_after_greedy"), answer.after_greedy), kF32Limit);
  EXPECT_LE(Difference(golden.at("logits"), answer), golden.at("tolerance").get<double>())
      << "against llama.cpp";
  EXPECT_EQ(answer.greedy, golden.at("greedy").get<std::vector<uint32_t>>());
  Report(GetParam(), "f32", Difference(golden.at("logits_exact"), answer));
}

TEST_P(ArchitectureOracle, HalfPrecisionUnitsAreClose) {
  TG_REQUIRE_SHARED("data/golden/arch/llama.json");
  const Json golden = this->golden();
  Answer answer;
  ASSERT_NO_FATAL_FAILURE(Ask(model(golden), golden, "f16", answer));
  const double deviation = Difference(golden.at("logits_exact"), answer);
  EXPECT_LE(deviation, kF16Limit);
  EXPECT_EQ(answer.greedy, golden.at("greedy").get<std::vector<uint32_t>>());
  EXPECT_LE(Difference(golden.at("logits_exact_after_greedy"), answer.after_greedy), kF16Limit);
  Report(GetParam(), "f16", deviation);
}

TEST_P(ArchitectureOracle, QuantisedUnitsAreReported) {
  TG_REQUIRE_SHARED("data/golden/arch/llama.json");
  const Json golden = this->golden();
  for (const std::string units : {"q8", "q4"}) {
    Answer answer;
    ASSERT_NO_FATAL_FAILURE(Ask(model(golden), golden, units, answer));
    const double deviation = Difference(golden.at("logits_exact"), answer);
    Report(GetParam(), units, deviation);
    EXPECT_TRUE(std::isfinite(deviation));
    if (units == "q8") {
      EXPECT_LT(deviation, kQ8Limit);
    }
    if (GreedyIsDecisive(golden, deviation)) {
      EXPECT_EQ(answer.greedy, golden.at("greedy").get<std::vector<uint32_t>>());
    }
  }
}

// The arithmetic that prompts are served with unless exactness is asked for: operands of 8 bits.
TEST_P(ArchitectureOracle, FastPromptsAreClose) {
  TG_REQUIRE_SHARED("data/golden/arch/llama.json");
  const Json golden = this->golden();
  Answer answer;
  ASSERT_NO_FATAL_FAILURE(Ask(model(golden), golden, "f32", answer, "fast"));
  const double deviation = Difference(golden.at("logits_exact"), answer);
  EXPECT_LE(deviation, kFastLimit);
  if (GreedyIsDecisive(golden, deviation)) {
    EXPECT_EQ(answer.greedy, golden.at("greedy").get<std::vector<uint32_t>>());
  }
  Report(GetParam(), "fast", deviation);
}

INSTANTIATE_TEST_SUITE_P(Llama, ArchitectureOracle,
                         testing::Values("llama", "llama-f16", "llama-bf16", "llama-q8_0",
                                         "llama-q4_0", "llama-tied-llama3", "llama-linear",
                                         "llama-q4_1", "llama-q5_0", "llama-q5_1", "llama-q2_k",
                                         "llama-q3_k_m", "llama-q4_k_m", "llama-q5_k_m",
                                         "llama-q6_k", "llama-iq4_nl", "llama-iq4_xs"),
                         [](const auto& param) {
                           std::string name = param.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(DemoOracle, AgreesWithTheWholeReference) {
  TG_REQUIRE_SHARED("data/golden/demo.json");
  const Json golden = ReadJson(SharedPath("data/golden/demo.json"));
  for (const auto& [units, limit] :
       {std::pair("f32", 1e-3), std::pair("f16", 2e-2), std::pair("q8", kQ8Limit)}) {
    Answer answer;
    ASSERT_NO_FATAL_FAILURE(Ask(ModelPath(kDemoModel), golden, units, answer));
    const double deviation = Difference(golden.at("logits"), answer);
    EXPECT_LE(deviation, limit) << units;
    if (std::string(units) != "q8") {
      EXPECT_EQ(answer.greedy, golden.at("greedy").get<std::vector<uint32_t>>()) << units;
    }
    Report("demo", units, deviation);
  }
}

TEST(DemoOracle, FastPromptsAreClose) {
  TG_REQUIRE_SHARED("data/golden/demo.json");
  const Json golden = ReadJson(SharedPath("data/golden/demo.json"));
  for (const std::string units : {"f16", "q8"}) {
    Answer answer;
    ASSERT_NO_FATAL_FAILURE(Ask(ModelPath(kDemoModel), golden, units, answer, "fast"));
    const double deviation = Difference(golden.at("logits"), answer);
    EXPECT_LE(deviation, kFastLimit) << units;
    Report("demo, fast prompt", units, deviation);
  }
}

// Needs nothing but this repository.
TEST(DemoOracle, AgreesWithTheFrozenSample) {
  const Json golden = ReadJson(SourcePath("tests/testdata/demo_logits.json"));
  Answer answer;
  ASSERT_NO_FATAL_FAILURE(Ask(ModelPath(kDemoModel), golden, "f16", answer));
  for (const auto& [position, sample] : golden.at("logits").items()) {
    for (const auto& [id, logit] : sample.items()) {
      EXPECT_NEAR(answer.positions.at(position).at(std::stoul(id)).get<double>(),
                  logit.get<double>(), golden.at("tolerance").get<double>())
          << "position " << position << ", token " << id;
    }
  }
  EXPECT_EQ(answer.greedy, golden.at("greedy").get<std::vector<uint32_t>>());
}

TEST(DemoOracle, TheModelIsTheOneThatTheFiguresAreFor) {
  const Json golden = ReadJson(SourcePath("tests/testdata/demo_logits.json"));
  const RunResult run = RunProgram({"sha256sum", ModelPath(kDemoModel)});
  if (run.exit_code == 127) GTEST_SKIP() << "sha256sum is not installed";
  EXPECT_EQ(run.out.substr(0, 64), golden.at("sha256").get<std::string>());
}

}  // namespace
}  // namespace tidegate
