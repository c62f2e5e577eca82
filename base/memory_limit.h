// How much memory this process may use: the machine's, or less where a control group says so, as
// containers do. Read anew at every call; any thread.
#pragma once

#include <cstdint>
#include <string>

namespace tidegate {

struct MemoryLimit {
  uint64_t bytes = 0;      // 0: not known
  bool by_cgroup = false;  // the group's limit; else the machine's memory
};

// `root`: where /proc and /sys lie, for tests.
MemoryLimit ReadMemoryLimit(const std::string& root = "");

}  // namespace tidegate
