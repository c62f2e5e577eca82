// What a running process reads again when SIGHUP comes: certificates, keys, limits, the log level.
//
// Every item has a function that reads it anew and either takes all of it or leaves everything as
// it was. One log line per item says which. Items are read one after the other, on a thread of the
// Reloader's own; several signals that come meanwhile are one more round.
// Not here: what the items are, and when a signal ends the process (base/shutdown.h).
// Threads: one owner; stats() may be read by anybody.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/shutdown.h"

namespace tidegate {

// Rounds so far (metrics_reload.h publishes them).
struct ReloadStats {
  std::atomic<uint64_t> succeeded = 0;     // every item was read
  std::atomic<uint64_t> failed = 0;        // at least one was kept as it was
  std::atomic<double> last_success_s = 0;  // Unix time; 0: none yet
};

class Reloader {
 public:
  // OK: read and in use from now on. Else everything is as it was; the message says why, and names
  // the file or flag.
  using Reload = std::function<absl::Status()>;

  // Create `signal` early, so that no SIGHUP ends the process while it starts; it must outlive
  // this. `stats` is filled.
  explicit Reloader(HangUpSignal& signal,
                    std::shared_ptr<ReloadStats> stats = std::make_shared<ReloadStats>())
      : signal_(signal), stats_(std::move(stats)) {}
  // Waits until a round in progress has ended. Destroy it before what the functions use.
  ~Reloader();
  Reloader(const Reloader&) = delete;
  Reloader& operator=(const Reloader&) = delete;

  // `name` begins the log line: "certificates". REQUIRES: before Start().
  void Add(std::string name, Reload reload);
  // From now on SIGHUP begins a round, also one that came since `signal` was made.
  void Start();
  // One round, on the caller's thread. True: every item was read. REQUIRES: before Start().
  bool RunOnce();

  std::shared_ptr<const ReloadStats> stats() const { return stats_; }

 private:
  HangUpSignal& signal_;
  const std::shared_ptr<ReloadStats> stats_;
  std::vector<std::pair<std::string, Reload>> items_;
  std::thread thread_;
};

}  // namespace tidegate
