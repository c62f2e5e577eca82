#include "server/health_reporter.h"

#include <gtest/gtest.h>

#include <map>

#include "tests/support/fake_engine.h"
#include "tests/support/test_support.h"

namespace tidegate::health_reporter_test {

class FakeHealth final : public grpc::HealthCheckServiceInterface {
 public:
  void SetServingStatus(const std::string& name, bool serving) override {
    MutexLock lock(mutex_);
    statuses_[name] = serving;
  }
  void SetServingStatus(bool) override {}
  std::map<std::string, bool> statuses() {
    MutexLock lock(mutex_);
    return statuses_;
  }

 private:
  Mutex mutex_;
  std::map<std::string, bool> statuses_ ABSL_GUARDED_BY(mutex_);
};

using Statuses = std::map<std::string, bool>;
const Statuses kReady = {{"", true}, {"readiness", true}, {"a.B", true}, {"liveness", true}};
const Statuses kNotReady = {{"", false}, {"readiness", false}, {"a.B", false}, {"liveness", true}};

class HealthReporterTest : public testing::Test {
 protected:
  bool Becomes(const Statuses& wanted) {
    return WaitUntil([&] { return health_.statuses() == wanted; }, std::chrono::seconds(10));
  }
  FakeHealth health_;
  FakeEngine engine_;
};

TEST_F(HealthReporterTest, FollowsTheEngineAndStaysAlive) {
  engine_.SetAttached(false);
  HealthReporter reporter(health_, engine_, {"a.B"}, std::chrono::milliseconds(1));
  EXPECT_EQ(health_.statuses(), kNotReady);
  engine_.SetAttached(true);
  EXPECT_TRUE(Becomes(kReady));
  engine_.SetAttached(false);
  EXPECT_TRUE(Becomes(kNotReady));
}

TEST_F(HealthReporterTest, DrainIsImmediateAndFinal) {
  HealthReporter reporter(health_, engine_, {"a.B"}, std::chrono::milliseconds(1));
  EXPECT_EQ(health_.statuses(), kReady);
  reporter.Drain();
  EXPECT_EQ(health_.statuses(), kNotReady);
}

}  // namespace tidegate::health_reporter_test
