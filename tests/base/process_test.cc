#include "base/process.h"

#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <system_error>

namespace tidegate::process_test {

using testing::ExitedWithCode;
using testing::KilledBySignal;

template <typename Exception>
void Throw(const Exception& exception) {
  throw exception;
}

// As a thread's function or main() does it.
template <typename Exception>
void LeaveUncaught(const Exception& exception) noexcept {
  PrepareProcess();
  Throw(exception);
}

TEST(ProcessDeathTest, LimitsOfTheSystemAreNamedAndNoCrash) {
  const std::system_error no_thread(
      std::make_error_code(std::errc::resource_unavailable_try_again));
  EXPECT_EXIT(LeaveUncaught(no_thread), ExitedWithCode(1),
              "error: cannot start a thread: .*ulimit -u");
  EXPECT_EXIT(LeaveUncaught(std::bad_alloc()), ExitedWithCode(1), "error: out of memory");
}

TEST(ProcessDeathTest, OtherExceptionsAreNamed) {
  EXPECT_EXIT(LeaveUncaught(std::runtime_error("told")), KilledBySignal(SIGABRT),
              "error: uncaught exception: told");
}

}  // namespace tidegate::process_test
