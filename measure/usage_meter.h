// What this process has used so far, for benchmarks: wall clock, processor time, bytes that its
// reads fetched from block devices, peak resident memory. Stateless, thread-safe.
#pragma once

#include <cstdint>

namespace tidegate {

struct Usage {
  double seconds = 0;           // monotonic clock; only differences mean anything
  double cpu_seconds = 0;       // user and system, every thread
  uint64_t disk_bytes = 0;      // read_bytes of /proc/self/io (proc(5)); 0 where that is hidden
  uint64_t peak_rss_bytes = 0;  // since the process began, shared memory that it mapped included
};

Usage UsageNow();

// Costs of one token between two readings over `tokens` of them.
struct TokenUsage {
  double tokens_per_second = 0, cpu_seconds = 0, disk_bytes = 0;
};

TokenUsage PerToken(const Usage& begin, const Usage& end, uint64_t tokens);

}  // namespace tidegate
