#include "base/reloader.h"

#include <chrono>

#include "base/log.h"

namespace tidegate {

Reloader::~Reloader() {
  if (!thread_.joinable()) return;
  signal_.StopWaiting();
  thread_.join();
}

void Reloader::Add(std::string name, Reload reload) {
  items_.emplace_back(std::move(name), std::move(reload));
}

void Reloader::Start() {
  thread_ = std::thread([this] {
    while (signal_.Wait()) RunOnce();
  });
}

bool Reloader::RunOnce() {
  bool all = true;
  for (const auto& [name, reload] : items_) {
    const absl::Status status = reload();
    if (status.ok()) {
      LogInfo("reload: ", name, " reloaded");
    } else {
      LogWarning("reload: ", name, " kept as before: ", std::string(status.message()));
      all = false;
    }
  }
  if (!all) {
    ++stats_->failed;
    return false;
  }
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  stats_->last_success_s = std::chrono::duration<double>(now).count();
  ++stats_->succeeded;
  return true;
}

}  // namespace tidegate
