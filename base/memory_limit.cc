#include "base/memory_limit.h"

#include <unistd.h>

#include <algorithm>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
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

uint64_t MachineMemory() {
  return static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
         static_cast<uint64_t>(::sysconf(_SC_PAGE_SIZE));
}

// The two versions of control groups say the same under different names.
struct GroupFiles {
  const char* mount;
  const char* limit;
  const char* used;
  const char* stat_prefix;  // of the lines of memory.stat that count what is below as well
};
constexpr GroupFiles kVersion1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                  "memory.usage_in_bytes", "total_"};
constexpr GroupFiles kVersion2 = {"/sys/fs/cgroup", "memory.max", "memory.current", ""};

struct Group {
  const GroupFiles* files;
  std::string folder;
  uint64_t limit;
};

// Adds the group at `path` and those above it, as far as they have a limit that means something:
// "unlimited" of version 1 is a number larger than any memory.
void AddLimited(const std::string& root, const GroupFiles& files, std::string path,
                std::vector<Group>& groups) {
  while (true) {
    const std::string folder = root + files.mount + path + "/";
    const uint64_t limit = ReadNumber(folder + files.limit);
    if (limit > 0 && limit < MachineMemory()) groups.push_back({&files, folder, limit});
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos || path.empty()) return;
    path.resize(slash);
  }
}

// Of version 2 ("0::/path") and of the memory controller of version 1 ("9:memory:/path").
std::vector<Group> LimitedGroups(const std::string& root) {
  const std::string text = ReadFile(root + "/proc/self/cgroup", kMaxBytes).value_or("");
  std::vector<Group> groups;
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  for (const std::string& line : lines) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) AddLimited(root, kVersion2, path, groups);
    if (controllers == "memory") AddLimited(root, kVersion1, path, groups);
  }
  return groups;
}

// The number behind `key` at the start of a line of `text`; 0 if there is none.
uint64_t NumberBehind(const std::string& text, const std::string& key) {
  const std::string lines = "\n" + text;
  const size_t at = lines.find("\n" + key);
  if (at == std::string::npos) return 0;
  const size_t begin = lines.find_first_not_of(' ', at + 1 + key.size());
  if (begin == std::string::npos) return 0;
  uint64_t value = 0;
  const std::string word = lines.substr(begin, lines.find_first_of(" \n", begin) - begin);
  return absl::SimpleAtoi(word, &value) ? value : 0;
}

// Pages of files, which the kernel drops before it kills; shared memory is not among them.
uint64_t Droppable(const Group& group) {
  const std::string text = ReadFile(group.folder + "memory.stat", kMaxBytes).value_or("");
  const std::string prefix = group.files->stat_prefix;
  return NumberBehind(text, prefix + "active_file ") +
         NumberBehind(text, prefix + "inactive_file ");
}

uint64_t Less(uint64_t a, uint64_t b) { return a - std::min(a, b); }

}  // namespace

MemoryLimit ReadMemoryLimit(const std::string& root) {
  MemoryLimit least = {MachineMemory(), false};
  for (const Group& group : LimitedGroups(root)) {
    if (group.limit < least.bytes) least = {group.limit, true};
  }
  return least;
}

std::optional<GroupMemory> ReadGroupMemory(const std::string& root) {
  std::optional<GroupMemory> tightest;
  for (const Group& group : LimitedGroups(root)) {
    const uint64_t used = Less(ReadNumber(group.folder + group.files->used), Droppable(group));
    const GroupMemory memory = {group.limit, Less(group.limit, used)};
    if (!tightest || memory.left < tightest->left) tightest = memory;
  }
  return tightest;
}

uint64_t ReadAvailableMemory(const std::string& root) {
  constexpr uint64_t kUnit = 1024;  // the file says kB
  return kUnit *
         NumberBehind(ReadFile(root + "/proc/meminfo", kMaxBytes).value_or(""), "MemAvailable:");
}

uint64_t ReadOwnMemory(const std::string& root) {
  const std::string text = ReadFile(root + "/proc/self/statm", kMaxBytes).value_or("");
  const std::vector<std::string> pages = absl::StrSplit(text, ' ');
  uint64_t resident = 0, shared = 0;
  if (pages.size() < 3 || !absl::SimpleAtoi(pages[1], &resident) ||
      !absl::SimpleAtoi(pages[2], &shared)) {
    return 0;
  }
  return Less(resident, shared) * static_cast<uint64_t>(::sysconf(_SC_PAGE_SIZE));
}

}  // namespace tidegate
