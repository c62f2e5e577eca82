#include "base/process_metrics.h"

#include <dirent.h>
#include <unistd.h>

#include <optional>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/read_file.h"

namespace tidegate {
namespace {

std::string ReadAll(const std::string& path) {
  constexpr size_t kMaxBytes = 1 << 20;
  return ReadFile(path, kMaxBytes).value_or("");
}

// The fields of /proc/self/stat behind the program's name, which may itself contain spaces and
// brackets. Element 0 is field 3 of proc(5).
struct StatLine {
  static constexpr size_t kFirstField = 3;
  std::vector<std::string> fields;

  // By the number that proc(5) gives it.
  std::optional<double> Field(size_t number) const {
    const size_t index = number - kFirstField;
    double value = 0;
    if (index >= fields.size() || !absl::SimpleAtod(fields[index], &value)) return std::nullopt;
    return value;
  }
};

StatLine ParseStat(const std::string& text) {
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return {};
  return {absl::StrSplit(text.substr(name_end + 1), absl::ByAnyChar(" \n"), absl::SkipEmpty())};
}

// Seconds since the epoch at which the machine started.
std::optional<double> BootTime(const std::string& stat) {
  std::istringstream lines(stat);
  for (std::string line; std::getline(lines, line);) {
    double seconds = 0;
    if (line.rfind("btime ", 0) == 0 && absl::SimpleAtod(line.substr(6), &seconds)) return seconds;
  }
  return std::nullopt;
}

// The soft limit; infinite where the kernel says "unlimited".
std::optional<double> MaxOpenFiles(const std::string& limits) {
  constexpr std::string_view kName = "Max open files";
  std::istringstream lines(limits);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(kName, 0) != 0) continue;
    std::istringstream values(line.substr(kName.size()));
    std::string soft;
    values >> soft;
    double value = 0;
    if (soft == "unlimited") return std::numeric_limits<double>::infinity();
    if (absl::SimpleAtod(soft, &value)) return value;
  }
  return std::nullopt;
}

std::optional<double> CountEntries(const std::string& folder) {
  DIR* dir = opendir(folder.c_str());
  if (dir == nullptr) return std::nullopt;
  double count = 0;
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_name[0] != '.') ++count;
  }
  closedir(dir);
  return count;
}

void AddFamily(std::vector<prometheus::MetricFamily>& families, const std::string& name,
               const std::string& help, prometheus::MetricType type, std::optional<double> value) {
  if (!value) return;
  prometheus::ClientMetric metric;
  if (type == prometheus::MetricType::Counter) {
    metric.counter.value = *value;
  } else {
    metric.gauge.value = *value;
  }
  families.push_back({name, help, type, {metric}});
}

}  // namespace

std::vector<prometheus::MetricFamily> ProcessMetrics::Collect() const {
  using prometheus::MetricType;
  const StatLine stat = ParseStat(ReadAll(proc_ + "/self/stat"));
  const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  const std::optional<double> user = stat.Field(14), system = stat.Field(15);
  const std::optional<double> start = stat.Field(22), pages = stat.Field(24);
  const std::optional<double> boot = BootTime(ReadAll(proc_ + "/stat"));

  std::optional<double> cpu_seconds, start_seconds, resident_bytes;
  if (user && system) cpu_seconds = (*user + *system) / ticks;
  if (start && boot) start_seconds = *boot + *start / ticks;
  if (pages) resident_bytes = *pages * static_cast<double>(sysconf(_SC_PAGESIZE));

  std::vector<prometheus::MetricFamily> families;
  AddFamily(families, "process_cpu_seconds_total", "User and system CPU time spent.",
            MetricType::Counter, cpu_seconds);
  AddFamily(families, "process_resident_memory_bytes", "Resident memory, shared pages included.",
            MetricType::Gauge, resident_bytes);
  AddFamily(families, "process_open_fds", "Open file descriptors.", MetricType::Gauge,
            CountEntries(proc_ + "/self/fd"));
  AddFamily(families, "process_max_fds", "Open file descriptors allowed (soft limit).",
            MetricType::Gauge, MaxOpenFiles(ReadAll(proc_ + "/self/limits")));
  AddFamily(families, "process_start_time_seconds", "Start of the process, Unix time.",
            MetricType::Gauge, start_seconds);
  AddFamily(families, "process_major_page_faults_total",
            "Page faults that had to read from a device.", MetricType::Counter, stat.Field(12));
  return families;
}

}  // namespace tidegate
