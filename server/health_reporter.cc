#include "server/health_reporter.h"

#include <utility>

#include "base/log.h"

namespace tidegate {
namespace {

std::vector<std::string> WithCommonNames(std::vector<std::string> services) {
  services.insert(services.begin(), {"", "readiness"});
  return services;
}

}  // namespace

HealthReporter::HealthReporter(grpc::HealthCheckServiceInterface& health, const Engine& engine,
                               std::vector<std::string> services,
                               std::chrono::milliseconds interval)
    : health_(health),
      engine_(engine),
      names_(WithCommonNames(std::move(services))),
      interval_(interval) {
  health_.SetServingStatus("liveness", true);
  {
    MutexLock lock(mutex_);
    Publish(engine_.ready());
  }
  watcher_ = std::thread([this] { Watch(); });
}

HealthReporter::~HealthReporter() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
  }
  changed_.NotifyAll();
  watcher_.join();
}

void HealthReporter::Drain() {
  MutexLock lock(mutex_);
  draining_ = true;
  Publish(false);
}

void HealthReporter::Publish(bool ready) {
  ready_ = ready;
  for (const std::string& name : names_) health_.SetServingStatus(name, ready);
}

void HealthReporter::Watch() {
  MutexLock lock(mutex_);
  while (!stop_) {
    const bool ready = !draining_ && engine_.ready();
    if (ready != ready_) {
      LogInfo(ready ? "ready: the model is attached" : "not ready");
      Publish(ready);
    }
    changed_.WaitFor(mutex_, interval_);
  }
}

}  // namespace tidegate
