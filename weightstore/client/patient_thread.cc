#include "weightstore/client/patient_thread.h"

#include <cstdint>
#include <utility>

#include "base/mutex.h"
#include "base/status_macros.h"

namespace tidegate {

struct PatientThread::Shared {
  Mutex mutex;
  CondVar changed;
  Call call ABSL_GUARDED_BY(mutex);
  bool busy ABSL_GUARDED_BY(mutex) = false;  // `call` waits or runs
  bool stopping ABSL_GUARDED_BY(mutex) = false;
};

PatientThread::~PatientThread() {
  if (shared_ == nullptr) return;
  bool busy = false;
  {
    MutexLock lock(shared_->mutex);
    shared_->stopping = true;
    busy = shared_->busy;
    shared_->changed.NotifyAll();
  }
  if (busy) {
    thread_.detach();
  } else {
    thread_.join();
  }
}

void PatientThread::Work(const std::shared_ptr<Shared>& shared) {
  Mutex& mutex = shared->mutex;
  while (true) {
    Call call;
    {
      MutexLock lock(mutex);
      while (!shared->stopping && !shared->busy) shared->changed.Wait(mutex);
      if (shared->stopping) return;
      call = std::move(shared->call);
    }
    call();
    call = nullptr;  // What it owns goes before anybody is told.
    MutexLock lock(mutex);
    shared->busy = false;
    shared->changed.NotifyAll();
  }
}

absl::Status PatientThread::Await(Patience& patience) {
  for (bool waited = false;; waited = true) {
    {
      MutexLock lock(shared_->mutex);
      if (shared_->busy && waited) shared_->changed.WaitFor(shared_->mutex, Patience::kLook);
      if (!shared_->busy) {
        if (waited) patience.Paid();
        return absl::OkStatus();
      }
    }
    patience.Owed();
    RETURN_IF_ERROR(patience.Check());
  }
}

absl::Status PatientThread::Run(Call call, Patience& patience) {
  if (shared_ == nullptr) {
    shared_ = std::make_shared<Shared>();
    thread_ = std::thread([shared = shared_] { Work(shared); });
  }
  RETURN_IF_ERROR(Await(patience));
  {
    MutexLock lock(shared_->mutex);
    shared_->call = std::move(call);
    shared_->busy = true;
    shared_->changed.NotifyAll();
  }
  return Await(patience);
}

}  // namespace tidegate
