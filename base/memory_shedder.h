// When a server that runs short of memory closes connections, and which ones.
//
// Short: less than a margin is left below the limit (of the control group, else one that the owner
// names), and this process itself has grown since that was last not so. What it held before, such
// as a large KV cache, what others in the group take, and shared memory never count: closing
// connections would give none of it back. For the same reason shedding ends when it does not help;
// what is held then is taken as held for good, and only further growth counts.
//
// Decisions are pure: MemoryShedder and BusiestConnections() read nothing. MemoryWatch reads what
// they need. Not thread-safe: they belong to the thread of one ConnectionGate.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tidegate {

class MemoryShedder {
 public:
  using Clock = std::chrono::steady_clock;

  struct Reading {
    uint64_t limit = 0;
    uint64_t left = 0;  // until the limit
    uint64_t own = 0;   // anonymous memory of this process
  };

  // For memory to come back: as long as it falls, shedding goes on.
  static constexpr std::chrono::seconds kPatience{2};

  // What has to be left for all to be well: 5 % of the limit or 64 MiB, whichever is more, but not
  // more than a quarter of a small limit.
  static uint64_t Margin(uint64_t limit);

  // Memory is short, as far as `reading` says: time to give back what is free, and read again.
  bool IsShort(const Reading& reading) const;
  // Takes what was read at `now`; shedding() is the answer.
  void Update(const Reading& reading, Clock::time_point now);
  // Connections are to be closed and new ones refused.
  bool shedding() const { return shedding_; }
  // Bytes by which the process has grown since the last quiet moment.
  uint64_t Grown(const Reading& reading) const;

 private:
  std::optional<Reading> quiet_;  // when all was well, or was taken to be
  bool shedding_ = false;
  uint64_t least_own_ = 0;  // while shedding, and when it last fell
  Clock::time_point fell_at_;
};

// What a connection did in the last second or two, and holds.
struct ConnectionLoad {
  uint64_t id = 0;
  uint64_t bytes = 0;  // that it sent, and what its new calls cost (GatedConnection::kCallBytes)
  size_t open_calls = 0;
};

// Those to close now, the busiest first: as few as make up half of all load, at most
// kConnectionsAtOnce. Without any load, the one with the most open calls. Idle ones, which have no
// call and sent next to nothing, are never among them: they hold nothing worth having.
inline constexpr size_t kConnectionsAtOnce = 8;
std::vector<uint64_t> BusiestConnections(std::vector<ConnectionLoad> loads);

class MemoryWatch {
 public:
  using Clock = MemoryShedder::Clock;
  static constexpr std::chrono::milliseconds kInterval{250};

  // `limit`: bytes of anonymous memory that this process may take; 0: what its control group says,
  // and no watch at all where that has no limit.
  explicit MemoryWatch(uint64_t limit) : limit_(limit) {}

  // Looks if the interval has passed. True: close some connections now.
  bool Due(Clock::time_point now);
  bool shedding() const { return shedder_.shedding(); }
  // For a log line: "40 MiB are left of 512 MiB, ...".
  std::string Describe() const;

 private:
  std::optional<MemoryShedder::Reading> Read() const;

  const uint64_t limit_;
  MemoryShedder shedder_;
  MemoryShedder::Reading last_;
  Clock::time_point looked_at_;
};

}  // namespace tidegate
