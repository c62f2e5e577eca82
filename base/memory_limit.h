// How much memory this process may use: the machine's, or less where a control group says so, as
// containers do; and how much of that is taken. Read anew at every call; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace tidegate {

struct MemoryLimit {
  uint64_t bytes = 0;      // 0: not known
  bool by_cgroup = false;  // the group's limit; else the machine's memory
};

// `root`: where /proc and /sys lie, for tests.
MemoryLimit ReadMemoryLimit(const std::string& root = "");

struct GroupMemory {
  uint64_t limit = 0;
  uint64_t left = 0;  // until the limit; file pages that the kernel would drop count as left
};

// The memory of this process's control group, or of one above it that has less left; nullopt: none
// has a limit below the machine's memory.
std::optional<GroupMemory> ReadGroupMemory(const std::string& root = "");

// What the kernel says that programs could take without swapping, caches that it would drop
// included: of the machine, whatever a control group says. 0: not known.
uint64_t ReadAvailableMemory(const std::string& root = "");

// Anonymous resident memory of this process: heap, stacks, private mappings. Shared memory is not
// in it. 0: not known.
uint64_t ReadOwnMemory(const std::string& root = "");

}  // namespace tidegate
