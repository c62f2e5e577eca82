// A mask that fits into the cache could stay there for good, whatever the token needs (lock-on,
// docs/decisions/0006-masks-beyond-the-paper.md). The default keeps gamma's hands off the largest
// scores: three quarters of every mask are what plain DIP would choose, whatever the cache holds.
// So no gamma and no cache may cost more than plain DIP with three quarters of the density, which
// no cache can mislead and `tidegate eval` foretells.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "base/check.h"
#include "engine/engine.h"
#include "measure/point_meter.h"
#include "measure/token_ids.h"
#include "tests/support/test_support.h"

namespace tidegate::lock_on_test {

// For chance, and for blocks of several units, which are spared or not as a whole.
constexpr double kSlack = 1.05;

class LockOn : public testing::Test {
 protected:
  LockOn() {
    auto ids = ReadTokenIds(SourcePath("tests/testdata/demo.ids"));
    EXPECT_TRUE(ids.ok()) << ids.status();
    if (ids.ok()) tokens_ = *std::move(ids);
    task_.tokens = tokens_;
    task_.chunk = 192;
    task_.chunks = 1;
  }

  // Measures with that share of the weights in memory.
  PointMeter Meter(double cache_fraction) {
    LocalModelOptions options;
    options.model = DemoModelPath();
    options.store.cache_fraction = cache_fraction;
    options.store.staging_bytes = 1 << 20;
    auto meter = PointMeter::Create(options);
    CHECK(meter.ok());
    CHECK(meter->Begin(task_).ok());
    return *std::move(meter);
  }
  // Perplexity over that of the unpruned model.
  static double Ratio(PointMeter& meter, const Candidate& candidate) {
    const auto point = meter.Measure(candidate);
    EXPECT_TRUE(point.ok()) << point.status();
    return point.ok() ? 1 + point->perplexity_increase : std::nan("");
  }

  std::vector<TokenId> tokens_;
  EvalTask task_;
};

TEST_F(LockOn, NothingCostsMoreThanPlainDipOfTheProtectedPart) {
  PointMeter all = Meter(1);
  std::map<double, double> bounds;
  for (const double density : {0.35, 0.5}) {
    bounds[density] = kSlack * Ratio(all, {kProtectedShare * density, 1, 0, {}});
  }
  for (const double cache : {0.25, 0.5}) {
    PointMeter meter = Meter(cache);
    const auto expect_below = [&](double density, double gamma, double share, bool below) {
      const double ratio = Ratio(meter, {density, gamma, share, {}});
      std::printf("cache %g, density %g, gamma %g, protected share %g: %.3f of dense, bound %.3f\n",
                  cache, density, gamma, share, ratio, bounds[density]);
      EXPECT_EQ(ratio < bounds[density], below);
    };
    for (const double density : {0.35, 0.5}) {
      for (const double gamma : {0.0, 0.2}) expect_below(density, gamma, kProtectedShare, true);
    }
    // What the default is there for: the selection fits, and nothing is protected.
    if (cache == 0.5) expect_below(0.35, 0.2, 0, false);
  }
}

}  // namespace tidegate::lock_on_test
