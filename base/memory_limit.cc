#include "base/memory_limit.h"

#include <unistd.h>

#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/read_file.h"

namespace tidegate {
namespace {

constexpr size_t kMaxBytes = 64 << 10;  // of what the kernel writes

// The number in a file of one line; 0 for "max", or where there is none.
uint64_t ReadNumber(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(path, kMaxBytes);
  uint64_t value = 0;
  return text.ok() && absl::SimpleAtoi(*text, &value) ? value : 0;
}

// The least limit of the group at `path` below `mount` and of every group above it; 0: none.
uint64_t LeastLimit(const std::string& mount, std::string path, const std::string& file) {
  uint64_t least = 0;
  while (true) {
    const uint64_t limit = ReadNumber(mount + path + "/" + file);
    if (limit > 0 && (least == 0 || limit < least)) least = limit;
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos || path.empty()) return least;
    path.resize(slash);
  }
}

// Of version 2 ("0::/path") or of the memory controller of version 1 ("9:memory:/path"), whose
// "unlimited" is a number larger than any memory.
uint64_t CgroupLimit(const std::string& root) {
  const std::string mount = root + "/sys/fs/cgroup";
  const std::string groups = ReadFile(root + "/proc/self/cgroup", kMaxBytes).value_or("");
  uint64_t least = 0;
  const std::vector<std::string> lines = absl::StrSplit(groups, '\n');
  for (const std::string& line : lines) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    uint64_t limit = 0;
    if (controllers.empty()) limit = LeastLimit(mount, path, "memory.max");
    if (controllers == "memory") {
      limit = LeastLimit(mount + "/memory", path, "memory.limit_in_bytes");
    }
    if (limit > 0 && (least == 0 || limit < least)) least = limit;
  }
  return least;
}

}  // namespace

MemoryLimit ReadMemoryLimit(const std::string& root) {
  const auto machine = static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                       static_cast<uint64_t>(::sysconf(_SC_PAGE_SIZE));
  const uint64_t group = CgroupLimit(root);
  if (group > 0 && group < machine) return {group, true};
  return {machine, false};
}

}  // namespace tidegate
