// Perplexity and cache traffic of the demo model on its held-out text, through `tidegate eval`,
// against an independent numpy pass (models/reference.py): a wrong mask, eviction or residency
// shows here as a wrong hit rate.
//
// Every row is a test of its own, ordered so that two shards (GTEST_TOTAL_SHARDS=2) take about the
// same time; rows of a quarter-size cache take minutes each and run with TIDEGATE_SLOW_TESTS=1.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "tests/support/test_support.h"

namespace tidegate {
namespace {

using Json = nlohmann::json;

struct Row {
  const char* name;
  const char* units;
  const char* mode;
  double density, gamma, cache_fraction;
  double perplexity_limit;  // relative
  bool slow = false;
  const char* precision = "exact";  // of prompts (dense rows), and against 4-bit units
};

// How far the cache may be off: a share of units, and a relative count.
constexpr double kHitRateLimit = 0.01, kMissLimit = 0.02;

void PrintTo(const Row& row, std::ostream* out) { *out << row.name; }

// The reference row; density 1 has no cache, and neither have rows of a whole cache.
Json ReferenceRow(const Row& row) {
  const Json golden = Json::parse(ReadFileOrDie(SourcePath("tests/testdata/demo.json")));
  for (const Json& candidate : golden.at("rows")) {
    const Json& fraction = candidate.at("cache_fraction");
    if (candidate.at("density") == row.density && candidate.at("gamma") == row.gamma &&
        (fraction.is_null() ? 1.0 : fraction.get<double>()) == row.cache_fraction) {
      return candidate;
    }
  }
  return nullptr;
}

void Evaluate(const Row& row, Json& result) {
  const RunResult run = RunProgram({BinaryPath("tidegate"),
                                    "eval",
                                    DemoModelPath(),
                                    "--units",
                                    row.units,
                                    "--ids",
                                    SourcePath("tests/testdata/demo.ids"),
                                    "--chunk",
                                    "256",
                                    "--mode",
                                    row.mode,
                                    "--density",
                                    absl::StrCat(row.density),
                                    "--gamma",
                                    absl::StrCat(row.gamma),
                                    "--cache-fraction",
                                    absl::StrCat(row.cache_fraction),
                                    "--precision",
                                    row.precision,
                                    "--threads",
                                    "1",
                                    "--json"},
                                   std::chrono::minutes(25));
  ASSERT_EQ(run.exit_code, 0) << run.err;
  std::printf("%s: %s", row.name, run.out.c_str());
  result = Json::parse(run.out);
}

void ExpectRelative(const Json& result, const Json& reference, const std::string& key,
                    double limit) {
  const double wanted = reference.at(key).get<double>();
  EXPECT_NEAR(result.at(key).get<double>(), wanted, limit * wanted) << key;
}

class Perplexity : public testing::TestWithParam<Row> {};

TEST_P(Perplexity, AgreesWithTheReference) {
  const Row& row = GetParam();
  if (row.slow && std::getenv("TIDEGATE_SLOW_TESTS") == nullptr) {
    GTEST_SKIP() << "takes minutes; run it with TIDEGATE_SLOW_TESTS=1";
  }
  const Json reference = ReferenceRow(row);
  ASSERT_FALSE(reference.is_null()) << "demo.json has no such row";
  Json result;
  ASSERT_NO_FATAL_FAILURE(Evaluate(row, result));
  EXPECT_EQ(result.at("tokens"), reference.at("tokens"));
  EXPECT_EQ(result.at("kept_input_units"), reference.at("k_in"));
  EXPECT_EQ(result.at("kept_hidden_units"), reference.at("k_hidden"));
  ExpectRelative(result, reference, "perplexity", row.perplexity_limit);
  if (!reference.contains("hit_rate_input")) return;
  for (const std::string kind : {"input", "hidden"}) {
    const std::string rate = "hit_rate_" + kind;
    EXPECT_NEAR(result.at(rate).get<double>(), reference.at(rate).get<double>(), kHitRateLimit)
        << rate;
    ExpectRelative(result, reference, absl::StrCat("missed_", kind, "_units_per_token"),
                   kMissLimit);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Demo, Perplexity,
    testing::Values(Row{"dense_f16", "f16", "dense", 1, 1, 1, 0.005},
                    Row{"dense_q8", "q8", "dense", 1, 1, 1, 0.01},
                    Row{"dense_f16_fast", "f16", "dense", 1, 1, 1, 0.005, false, "fast"},
                    Row{"dense_q8_fast", "q8", "dense", 1, 1, 1, 0.01, false, "fast"},
                    Row{"dip_75", "f16", "dip", 0.75, 1, 1, 0.01},
                    Row{"dip_50", "f16", "dip", 0.5, 1, 1, 0.01},
                    Row{"half_cache_75_gamma_02", "f16", "dip_ca", 0.75, 0.2, 0.5, 0.01},
                    Row{"half_cache_50_gamma_05", "f16", "dip_ca", 0.5, 0.5, 0.5, 0.01},
                    Row{"dip_35", "f16", "dip", 0.35, 1, 1, 0.01},
                    Row{"half_cache_50_gamma_02", "f16", "dip_ca", 0.5, 0.2, 0.5, 0.01},
                    Row{"quarter_cache_75_gamma_02", "f16", "dip_ca", 0.75, 0.2, 0.25, 0.01, true},
                    Row{"quarter_cache_50_gamma_1", "f16", "dip_ca", 0.5, 1, 0.25, 0.01, true},
                    Row{"quarter_cache_50_gamma_05", "f16", "dip_ca", 0.5, 0.5, 0.25, 0.01, true},
                    Row{"quarter_cache_50_gamma_02", "f16", "dip_ca", 0.5, 0.2, 0.25, 0.01, true}),
    [](const auto& param) { return std::string(param.param.name); });

}  // namespace
}  // namespace tidegate
