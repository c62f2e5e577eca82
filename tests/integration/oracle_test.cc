// Logits and greedy tokens against independent forward passes (float64 numpy, llama.cpp), through
// `tidegate logits`: packing, store, leases and decoder on the way.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/support/test_support.h"

namespace tidegate::oracle_test {

using Json = nlohmann::json;

constexpr double kF32Limit = 1e-3, kF16Limit = 2e-2, kGemma2F16Limit = 5e-2, kQ8Limit = 0.3;
constexpr double kFastLimit = 0.5;  // bfloat16 prompts

Json ReadJson(const std::string& path) { return Json::parse(ReadFileOrDie(path)); }

// Made by models/reference.py; needs nothing but this repository.
Json DemoGolden() { return ReadJson(SourcePath("tests/testdata/demo.json")); }

// `tidegate logits` over the golden prompt: its positions, the one after the last greedy token, and
// as many greedy tokens as the golden file has.
struct Answer {
  Json positions;
  Json after_greedy;
  std::vector<uint32_t> greedy;
};

void Ask(const std::string& model, const Json& golden, const std::string& units, Answer& answer,
         const std::string& precision = "exact", const std::vector<std::string>& flags = {}) {
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
  if (golden.contains("lora")) {
    const Json& lora = golden.at("lora");
    command.insert(command.end(),
                   {"--lora", absl::StrCat(std::filesystem::path(model).parent_path().string(), "/",
                                           lora.at("file").get<std::string>(), "=",
                                           lora.at("scale").get<double>())});
  }
  command.insert(command.end(), flags.begin(), flags.end());
  const RunResult run = RunProgram(command);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const Json out = Json::parse(run.out);
  answer.positions = out.at("positions");
  ASSERT_TRUE(answer.positions.contains(last));
  answer.after_greedy = answer.positions.at(last);
  answer.greedy = out.at("greedy").get<std::vector<uint32_t>>();
}

// What the authors' model answers: with the sliding window where llama.cpp ignores it.
const Json& Exact(const Json& golden) {
  return golden.contains("window") ? golden.at("window") : golden;
}

double HalfLimit(const Json& golden) {
  return golden.at("architecture") == "gemma2" ? kGemma2F16Limit : kF16Limit;
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
  const auto gaps = Exact(golden).at("greedy_gap").get<std::vector<double>>();
  return *std::min_element(gaps.begin(), gaps.end()) > 2 * deviation;
}

TEST_P(ArchitectureOracle, SinglePrecisionUnitsAreExact) {
  TG_REQUIRE_SHARED("data/golden/arch/llama.json");
  const Json golden = this->golden();
  Answer answer;
  ASSERT_NO_FATAL_FAILURE(Ask(model(golden), golden, "f32", answer));
  const Json& exact = Exact(golden);
  EXPECT_LE(Difference(exact.at("logits_exact"), answer), kF32Limit);
  EXPECT_LE(Difference(exact.at("logits_exact_after_greedy"), answer.after_greedy), kF32Limit);
  if (!golden.contains("window")) {
    EXPECT_LE(Difference(golden.at("logits"), answer), golden.at("tolerance").get<double>())
        << "against llama.cpp";
  }
  EXPECT_EQ(answer.greedy, exact.at("greedy").get<std::vector<uint32_t>>());
  Report(GetParam(), "f32", Difference(exact.at("logits_exact"), answer));
}

// Each typical mistake that the case is a test of would move a logit beyond the limit.
TEST_P(ArchitectureOracle, TheLimitCatchesTheMistakesOfTheCase) {
  TG_REQUIRE_SHARED("data/golden/arch/llama.json");
  const Json golden = this->golden();
  Json catches = golden.at("catches");
  EXPECT_FALSE(catches.empty());
  catches.update(Exact(golden).at("catches"));
  for (const auto& [mistake, change] : catches.items()) {
    EXPECT_GT(change.get<double>(), 2 * kF32Limit) << mistake;
  }
}

TEST_P(ArchitectureOracle, HalfPrecisionUnitsAreClose) {
  TG_REQUIRE_SHARED("data/golden/arch/llama.json");
  const Json golden = this->golden();
  Answer answer;
  ASSERT_NO_FATAL_FAILURE(Ask(model(golden), golden, "f16", answer));
  const Json& exact = Exact(golden);
  const double deviation = Difference(exact.at("logits_exact"), answer);
  EXPECT_LE(deviation, HalfLimit(golden));
  EXPECT_EQ(answer.greedy, exact.at("greedy").get<std::vector<uint32_t>>());
  EXPECT_LE(Difference(exact.at("logits_exact_after_greedy"), answer.after_greedy),
            HalfLimit(golden));
  Report(GetParam(), "f16", deviation);
}

TEST_P(ArchitectureOracle, QuantisedUnitsAreReported) {
  TG_REQUIRE_SHARED("data/golden/arch/llama.json");
  const Json golden = this->golden();
  for (const std::string units : {"q8", "q4"}) {
    Answer answer;
    ASSERT_NO_FATAL_FAILURE(Ask(model(golden), golden, units, answer));
    const double deviation = Difference(Exact(golden).at("logits_exact"), answer);
    Report(GetParam(), units, deviation);
    EXPECT_TRUE(std::isfinite(deviation));
    if (units == "q8") {
      EXPECT_LT(deviation, kQ8Limit);
    }
    if (GreedyIsDecisive(golden, deviation)) {
      EXPECT_EQ(answer.greedy, Exact(golden).at("greedy").get<std::vector<uint32_t>>());
    }
  }
}

// The arithmetic that prompts are served with unless exactness is asked for: operands of 8 bits.
TEST_P(ArchitectureOracle, FastPromptsAreClose) {
  TG_REQUIRE_SHARED("data/golden/arch/llama.json");
  const Json golden = this->golden();
  Answer answer;
  ASSERT_NO_FATAL_FAILURE(Ask(model(golden), golden, "f32", answer, "fast"));
  const double deviation = Difference(Exact(golden).at("logits_exact"), answer);
  EXPECT_LE(deviation, kFastLimit);
  if (GreedyIsDecisive(golden, deviation)) {
    EXPECT_EQ(answer.greedy, Exact(golden).at("greedy").get<std::vector<uint32_t>>());
  }
  Report(GetParam(), "fast", deviation);
}

// What the cache holds and what is streamed does not show, nor that masks have taken every unit.
class ExpertsOracle : public ArchitectureOracle {};

TEST_P(ExpertsOracle, SmallCachesAndFullMasksChangeNothing) {
  TG_REQUIRE_SHARED("data/golden/arch/llama.json");
  const Json golden = this->golden();
  Answer resident;
  ASSERT_NO_FATAL_FAILURE(
      Ask(model(golden), golden, "f16", resident, "exact", {"--cache-fraction", "1"}));
  const std::vector<std::vector<std::string>> others = {
      {"--cache-fraction", "0"},
      {"--cache-fraction", "0.3"},
      {"--cache-fraction", "0.3", "--mode", "dip", "--density", "1"},
      {"--cache-fraction", "1", "--mode", "dip_ca", "--density", "1", "--gamma", "1"}};
  for (const std::vector<std::string>& flags : others) {
    SCOPED_TRACE(absl::StrJoin(flags, " "));
    Answer answer;
    ASSERT_NO_FATAL_FAILURE(Ask(model(golden), golden, "f16", answer, "exact", flags));
    EXPECT_EQ(answer.positions, resident.positions) << "bit by bit";
    EXPECT_EQ(answer.greedy, golden.at("greedy").get<std::vector<uint32_t>>());
  }
}

std::string CaseName(const testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Llama, ArchitectureOracle,
                         testing::Values("llama", "llama-f16", "llama-bf16", "llama-q8_0",
                                         "llama-q4_0", "llama-tied-llama3", "llama-linear",
                                         "llama-lora", "llama-yarn", "mistral-window", "llama-q4_1",
                                         "llama-q5_0", "llama-q5_1", "llama-q2_k", "llama-q3_k_m",
                                         "llama-q4_k_m", "llama-q5_k_m", "llama-q6_k",
                                         "llama-iq4_nl", "llama-iq4_xs"),
                         CaseName);
INSTANTIATE_TEST_SUITE_P(Qwen, ArchitectureOracle, testing::Values("qwen2", "qwen3"), CaseName);
INSTANTIATE_TEST_SUITE_P(Phi, ArchitectureOracle,
                         testing::Values("phi3", "phi3-longrope-short", "phi3-longrope-long"),
                         CaseName);
INSTANTIATE_TEST_SUITE_P(Experts, ArchitectureOracle,
                         testing::Values("mixtral", "qwen2moe", "qwen3moe"), CaseName);
INSTANTIATE_TEST_SUITE_P(Experts, ExpertsOracle, testing::Values("mixtral", "qwen2moe", "qwen3moe"),
                         CaseName);
INSTANTIATE_TEST_SUITE_P(Gemma, ArchitectureOracle, testing::Values("gemma", "gemma2", "gemma3"),
                         CaseName);

// The adapter beside the weights of a pack, not merged into them.
TEST(LoraOracle, AnAdapterGivenAtStartAgreesWithLlamaCpp) {
  TG_REQUIRE_SHARED("data/golden/arch/llama-lora.json");
  const std::string folder = SharedPath("data/golden/arch/");
  const Json golden = ReadJson(folder + "llama-lora.json");
  const std::string adapter = absl::StrCat(folder, golden.at("lora").at("file").get<std::string>(),
                                           "=", golden.at("lora").at("scale").get<double>());
  const TempDir dir;
  const RunResult packed =
      RunProgram({BinaryPath("tidegate"), "pack", folder + golden.at("model").get<std::string>(),
                  "--units", "f32", "-o", dir.File("m.tgpack")});
  ASSERT_EQ(packed.exit_code, 0) << packed.err;
  Json without = golden;
  without.erase("lora");
  Answer answer;
  ASSERT_NO_FATAL_FAILURE(
      Ask(dir.File("m.tgpack"), without, "f32", answer, "exact", {"--lora", adapter}));
  const double deviation = Difference(golden.at("logits_exact"), answer);
  EXPECT_LE(deviation, kF32Limit);
  EXPECT_LE(Difference(golden.at("logits"), answer), golden.at("tolerance").get<double>());
  EXPECT_EQ(answer.greedy, golden.at("greedy").get<std::vector<uint32_t>>());
  Report("LoRA at start", "f32", deviation);
  ASSERT_NO_FATAL_FAILURE(Ask(dir.File("m.tgpack"), without, "f32", answer));
  EXPECT_GT(Difference(golden.at("logits_exact"), answer), kF32Limit) << "without the adapter";
}

TEST(DemoOracle, AgreesWithTheWholeReference) {
  const Json golden = DemoGolden();
  for (const auto& [units, limit] :
       {std::pair("f32", 1e-3), std::pair("f16", 2e-2), std::pair("q8", kQ8Limit)}) {
    Answer answer;
    ASSERT_NO_FATAL_FAILURE(Ask(DemoModelPath(), golden, units, answer));
    const double deviation = Difference(golden.at("logits"), answer);
    EXPECT_LE(deviation, limit) << units;
    if (std::string(units) != "q8") {
      EXPECT_EQ(answer.greedy, golden.at("greedy").get<std::vector<uint32_t>>()) << units;
    }
    Report("demo", units, deviation);
  }
}

TEST(DemoOracle, FastPromptsAreClose) {
  const Json golden = DemoGolden();
  for (const std::string units : {"f16", "q8"}) {
    Answer answer;
    ASSERT_NO_FATAL_FAILURE(Ask(DemoModelPath(), golden, units, answer, "fast"));
    const double deviation = Difference(golden.at("logits"), answer);
    EXPECT_LE(deviation, kFastLimit) << units;
    Report("demo, fast prompt", units, deviation);
  }
}

TEST(DemoOracle, TheModelIsTheOneThatTheFiguresAreFor) {
  const Json golden = DemoGolden();
  const RunResult run = RunProgram({"sha256sum", DemoModelPath()});
  if (run.exit_code == 127) GTEST_SKIP() << "sha256sum is not installed";
  EXPECT_EQ(run.out.substr(0, 64), golden.at("sha256").get<std::string>());
}

}  // namespace tidegate::oracle_test
