#include "base/descriptors.h"

#include <dirent.h>
#include <sys/resource.h>

#include <algorithm>
#include <limits>

#include "base/log.h"

namespace tidegate {

int DescriptorLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  return static_cast<int>(std::min<rlim_t>(limit.rlim_cur, std::numeric_limits<int>::max()));
}

int RaiseDescriptorLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);  // refused: the old limit holds
  }
  return DescriptorLimit();
}

int OpenDescriptors() {
  DIR* const folder = opendir("/proc/self/fd");
  if (folder == nullptr) return 0;
  int entries = 0;
  while (readdir(folder) != nullptr) ++entries;
  closedir(folder);
  return entries - 3;  // ".", ".." and the folder's own
}

int AffordableConnections(int wanted, int descriptors_each) {
  const int limit = DescriptorLimit();
  const int reserve = std::clamp(limit / 8, 8, 128);
  const int possible = std::max(1, (limit - OpenDescriptors() - reserve) / descriptors_each);
  if (possible >= wanted) return wanted;
  LogWarning("at most ", possible, " connections instead of ", wanted, ": the limit of ", limit,
             " descriptors (ulimit -n) allows no more");
  return possible;
}

}  // namespace tidegate
