// Runs calls that may never come back, as reads of a drive that hangs, on a thread of its own: the
// caller can give them up and go on. Owned by one thread.
#pragma once

#include <functional>
#include <memory>
#include <thread>

#include "absl/status/status.h"
#include "weightstore/client/patience.h"

namespace tidegate {

class PatientThread {
 public:
  // `call` owns, or shares, everything it touches: it may run on after Run() has given it up, and
  // after this object's end.
  using Call = std::function<void()>;

  PatientThread() = default;
  // A call that is still out is left behind with its thread.
  ~PatientThread();
  PatientThread(const PatientThread&) = delete;
  PatientThread& operator=(const PatientThread&) = delete;

  // OK once `call` has returned; else why `patience` ended the wait for it. Calls run one after the
  // other, those that were given up included.
  absl::Status Run(Call call, Patience& patience);

 private:
  struct Shared;
  static void Work(const std::shared_ptr<Shared>& shared);
  absl::Status Await(Patience& patience);

  std::shared_ptr<Shared> shared_;  // with the thread, which starts with the first call
  std::thread thread_;
};

}  // namespace tidegate
