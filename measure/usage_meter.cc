#include "measure/usage_meter.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <sstream>
#include <string>

#include "base/read_file.h"

namespace tidegate {
namespace {

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

uint64_t DiskBytes() {
  constexpr size_t kMaxBytes = 1 << 16;
  std::istringstream io(ReadFile("/proc/self/io", kMaxBytes).value_or(""));
  std::string name;
  for (uint64_t value = 0; io >> name >> value;) {
    if (name == "read_bytes:") return value;
  }
  return 0;
}

}  // namespace

Usage UsageNow() {
  constexpr uint64_t kMaxRssUnit = 1024;  // getrusage(2): ru_maxrss is in kilobytes
  rusage self = {};
  ::getrusage(RUSAGE_SELF, &self);
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return {.seconds = std::chrono::duration<double>(now).count(),
          .cpu_seconds = Seconds(self.ru_utime) + Seconds(self.ru_stime),
          .disk_bytes = DiskBytes(),
          .peak_rss_bytes = static_cast<uint64_t>(self.ru_maxrss) * kMaxRssUnit};
}

TokenUsage PerToken(const Usage& begin, const Usage& end, uint64_t tokens) {
  const auto count = static_cast<double>(std::max<uint64_t>(tokens, 1));
  return {.tokens_per_second = count / (end.seconds - begin.seconds),
          .cpu_seconds = (end.cpu_seconds - begin.cpu_seconds) / count,
          .disk_bytes = static_cast<double>(end.disk_bytes - begin.disk_bytes) / count};
}

}  // namespace tidegate
