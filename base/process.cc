#include "base/process.h"

#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <exception>
#include <new>
#include <system_error>

#include "base/log.h"

namespace tidegate {
namespace {

// The limits that the system has set are no errors of the program: exit status 1 and no core.
[[noreturn]] void OnUncaught() {
  try {
    if (const std::exception_ptr error = std::current_exception()) std::rethrow_exception(error);
  } catch (const std::bad_alloc&) {
    LogError("out of memory");
    ::_exit(1);
  } catch (const std::system_error& error) {
    if (error.code() == std::errc::resource_unavailable_try_again) {
      LogError("cannot start a thread: ", error.what(),
               "; raise the limit on tasks (ulimit -u, pids of the container) or lower --threads");
      ::_exit(1);
    }
    LogError("uncaught exception: ", error.what());
  } catch (const std::exception& error) {
    LogError("uncaught exception: ", error.what());
  } catch (...) {
    LogError("uncaught exception");
  }
  std::abort();
}

}  // namespace

void PrepareProcess() {
  std::signal(SIGXFSZ, SIG_IGN);
  std::set_terminate(&OnUncaught);
}

}  // namespace tidegate
