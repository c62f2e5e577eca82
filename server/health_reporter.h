// Keeps grpc.health.v1 true to the engine. Names: "" and "readiness" and each service follow
// Engine::ready(); "liveness" is SERVING until shutdown, whatever the store does: restarting an
// engine does not bring its store back.
//
// Owns one thread that looks at the engine every `interval`. Thread-safe.
#pragma once

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "engine/engine.h"
#include "grpcpp/health_check_service_interface.h"

namespace tidegate {

class HealthReporter {
 public:
  // Nothing is owned; both must outlive this.
  HealthReporter(grpc::HealthCheckServiceInterface& health, const Engine& engine,
                 std::vector<std::string> services, std::chrono::milliseconds interval);
  ~HealthReporter();
  HealthReporter(const HealthReporter&) = delete;
  HealthReporter& operator=(const HealthReporter&) = delete;

  // From now on not ready, whatever the engine says; liveness stays.
  void Drain();

 private:
  void Watch();
  void Publish(bool ready) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  grpc::HealthCheckServiceInterface& health_;
  const Engine& engine_;
  const std::vector<std::string> names_;  // that follow readiness
  const std::chrono::milliseconds interval_;
  Mutex mutex_;
  CondVar changed_;
  bool ready_ ABSL_GUARDED_BY(mutex_) = false;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread watcher_;  // last: it uses everything above
};

}  // namespace tidegate
