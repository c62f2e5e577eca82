#include "weightstore/client/patient_thread.h"

#include <gtest/gtest.h>

#include <memory>

#include "base/mutex.h"
#include "tests/support/test_support.h"

namespace tidegate::patient_thread_test {

// A call that lasts until it is let go: the drive that hangs.
class Gate {
 public:
  void Pass() {
    MutexLock lock(mutex_);
    entered_ = true;
    while (!open_) changed_.Wait(mutex_);
    passed_ = true;
  }
  void Open() {
    MutexLock lock(mutex_);
    open_ = true;
    changed_.NotifyAll();
  }
  bool entered() {
    MutexLock lock(mutex_);
    return entered_;
  }
  bool passed() {
    MutexLock lock(mutex_);
    return passed_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool entered_ = false, open_ = false, passed_ = false;
};

absl::Status Refuse(std::chrono::nanoseconds) { return absl::CancelledError("enough"); }

TEST(PatientThread, WaitsForTheEndOfACall) {
  PatientThread thread;
  Patience patience;
  int calls = 0;
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(thread.Run([&calls] { ++calls; }, patience).ok());
    ASSERT_EQ(calls, i + 1);
  }
  EXPECT_EQ(patience.silent().count(), 0);
  EXPECT_FALSE(patience.in_doubt());
}

TEST(PatientThread, ACallThatIsGivenUpRunsOnAndTheNextComesAfterIt) {
  const auto gate = std::make_shared<Gate>();
  PatientThread thread;
  Patience impatience(Refuse);
  EXPECT_EQ(thread.Run([gate] { gate->Pass(); }, impatience).code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(impatience.in_doubt());
  EXPECT_FALSE(gate->passed());
  gate->Open();
  Patience patience;
  bool after = false;
  ASSERT_TRUE(thread.Run([&] { after = gate->passed(); }, patience).ok());
  EXPECT_TRUE(after);
}

TEST(PatientThread, ACallThatNeverEndsHoldsNobody) {
  const auto gate = std::make_shared<Gate>();
  {
    PatientThread thread;
    Patience patience(
        [&](auto) { return gate->entered() ? absl::CancelledError("enough") : absl::OkStatus(); });
    EXPECT_FALSE(thread.Run([gate] { gate->Pass(); }, patience).ok());
  }
  gate->Open();  // What it works with is still there.
  EXPECT_TRUE(WaitUntil([&] { return gate->passed(); }, std::chrono::seconds(20)));
}

}  // namespace tidegate::patient_thread_test
