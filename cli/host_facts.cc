#include "cli/host_facts.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/aligned_buffer.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/units.h"
#include "engine/kernels/kernels.h"
#include "proto/store/v1/pack_format.h"
#include "server/config.h"
#include "weightstore/budget.h"
#include "weightstore/region.h"

namespace tidegate {
namespace {

constexpr size_t kMaxBytes = 64 << 10;  // of what the kernel writes
constexpr uint64_t kProbeBufferBytes = 16 * kMiB;
constexpr uint64_t kProbeRegionBytes = 4 * kMiB;
constexpr uint64_t kProbeFileBytes = 64 * kKiB;
constexpr uint32_t kIpcLock = 14;  // CAP_IPC_LOCK

std::string ReadText(const std::string& path) {
  return std::string(absl::StripAsciiWhitespace(ReadFile(path, kMaxBytes).value_or("")));
}

// The value of a line "Name:  value" of a file in /proc; empty: there is none.
std::string ReadField(const std::string& path, std::string_view name) {
  const std::vector<std::string> lines = absl::StrSplit(ReadText(path), '\n');
  for (const std::string& line : lines) {
    if (line.starts_with(name) && line.size() > name.size() && line[name.size()] == ':') {
      return std::string(absl::StripAsciiWhitespace(line.substr(name.size() + 1)));
    }
  }
  return "";
}

// Of "always [madvise] never" the word in brackets; a text without brackets as it is.
std::string Chosen(const std::string& text) {
  const size_t begin = text.find('['), end = text.find(']');
  if (begin == std::string::npos || end == std::string::npos || end < begin) return text;
  return text.substr(begin + 1, end - begin - 1);
}

absl::StatusOr<UniqueFd> ProbeFile(const std::string& folder) {
  std::string name = folder + "/tidegate-doctor-XXXXXX";
  UniqueFd fd(::mkostemp(name.data(), O_CLOEXEC));
  if (!fd.valid()) {
    const int error = errno;
    return absl::ErrnoToStatus(error, absl::StrCat("cannot make a file in ", folder));
  }
  ::unlink(name.c_str());
  const std::vector<char> zeros(kProbeFileBytes);
  RETURN_IF_ERROR(WriteAt(fd.get(), 0, zeros.data(), zeros.size()));
  return fd;
}

// A file to open as the store would: the pack, one on the drive, or one in memory. `keep` holds
// what has no name of its own.
absl::StatusOr<std::string> FlashPath(const HostQuestion& question, UniqueFd& keep) {
  const std::string& path = question.pack.empty() ? question.drive : question.pack;
  std::error_code ignored;
  if (!path.empty() && !std::filesystem::is_directory(path, ignored)) return path;
  if (!path.empty()) {
    ASSIGN_OR_RETURN(keep, ProbeFile(path));
  } else {
    keep = UniqueFd(::memfd_create("tidegate-doctor", MFD_CLOEXEC));
    if (!keep.valid()) return absl::ErrnoToStatus(errno, "memfd_create");
  }
  return absl::StrCat("/proc/self/fd/", keep.get());
}

absl::Status ReadFlash(const HostQuestion& question, HostFacts& facts) {
  UniqueFd keep;
  ASSIGN_OR_RETURN(const std::string path, FlashPath(question, keep));
  AlignedBuffer buffer;
  RETURN_IF_ERROR(buffer.Reserve(kProbeBufferBytes));
  const std::span<std::byte> bytes = {reinterpret_cast<std::byte*>(buffer.data()),
                                      kProbeBufferBytes};
  FlashOptions options;
  options.path = path;
  options.buffer = bytes;
  ASSIGN_OR_RETURN(const auto device, OpenFlashDevice(options));
  facts.flash = device->info();
  facts.probe_buffer_bytes = kProbeBufferBytes;
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0) {
    const dev_t id = S_ISBLK(info.st_mode) ? info.st_rdev : info.st_dev;
    facts.device = ReadBlockDevice(question.root, major(id), minor(id));
  }
  return absl::OkStatus();
}

void ReadRegionFolder(const HostQuestion& question, HostFacts& facts) {
  facts.region_dir = question.region_dir;
  struct statvfs info {};
  if (::statvfs(question.region_dir.c_str(), &info) == 0) {
    facts.tmpfs_bytes = info.f_blocks * info.f_frsize;
    facts.tmpfs_free_bytes = info.f_bavail * info.f_frsize;
  }
  RegionHeader header = {};
  header.magic = kRegionMagic;
  header.region_bytes = kProbeRegionBytes;
  const std::string path =
      absl::StrCat(question.region_dir, "/tidegate-doctor-", ::getpid(), ".region");
  absl::StatusOr<Region> region = Region::Open(path, header);
  if (!region.ok()) {
    ::unlink(path.c_str());  // A folder that is not on tmpfs keeps it.
    facts.region_error = std::string(region.status().message());
    return;
  }
  facts.region_probe_bytes = kProbeRegionBytes;
  facts.region_huge_bytes = region->huge_bytes();
  region->Unlink();
}

absl::Status ReadPack(const HostQuestion& question, HostFacts& facts) {
  facts.budget_bytes = facts.region_bytes = question.budget_bytes;
  if (question.pack.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(question.pack));
  ASSIGN_OR_RETURN(const PackIndex pack, ReadPackIndex(fd.get(), question.pack));
  facts.region_bytes = LeastStaticBytes(pack);
  if (question.budget_bytes == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const RegionPlan plan,
                   PlanRegion(pack, {.memory_budget_bytes = question.budget_bytes}));
  facts.region_bytes = MakeRegionHeader(pack.geometry, pack.header.uuid, plan).region_bytes;
  return absl::OkStatus();
}

void ReadLimits(const HostQuestion& question, HostFacts& facts) {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
    facts.memlock_bytes = limit.rlim_cur == RLIM_INFINITY ? kUnlimitedBytes : limit.rlim_cur;
  }
  uint64_t capabilities = 0;
  const std::string text = ReadField(question.root + "/proc/self/status", "CapEff");
  if (absl::SimpleHexAtoi(text, &capabilities)) {
    facts.memlock_exempt = (capabilities >> kIpcLock & 1) != 0;
  }
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    facts.descriptors =
        static_cast<int>(std::min<rlim_t>(limit.rlim_max, std::numeric_limits<int>::max()));
  }
  facts.connections = GateLimits().max_connections;
}

// "200000 100000" of cpu.max, or the two files of version 1: cores; 0 without a quota.
double Quota(const std::string& quota, const std::string& period) {
  double used = 0, whole = 0;
  if (!absl::SimpleAtod(quota, &used) || !absl::SimpleAtod(period, &whole)) return 0;
  return used > 0 && whole > 0 ? used / whole : 0;
}

double GroupQuota(const std::string& folder, bool version2) {
  if (!version2) {
    return Quota(ReadText(folder + "/cpu.cfs_quota_us"), ReadText(folder + "/cpu.cfs_period_us"));
  }
  const std::vector<std::string> parts = absl::StrSplit(ReadText(folder + "/cpu.max"), ' ');
  return parts.size() == 2 ? Quota(parts[0], parts[1]) : 0;
}

}  // namespace

double ReadCpuQuota(const std::string& root) {
  double least = 0;
  const std::vector<std::string> lines = absl::StrSplit(ReadText(root + "/proc/self/cgroup"), '\n');
  for (const std::string& line : lines) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    const bool version2 = parts[1].empty();
    if (!version2 && std::find(controllers.begin(), controllers.end(), "cpu") == controllers.end())
      continue;
    const std::string mount = root + (version2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu");
    std::string path = parts[2] == "/" ? "" : parts[2];
    while (true) {
      const double quota = GroupQuota(mount + path, version2);
      if (quota > 0 && (least == 0 || quota < least)) least = quota;
      const size_t slash = path.rfind('/');
      if (slash == std::string::npos) break;
      path.resize(slash);
    }
  }
  return least;
}

BlockDevice ReadBlockDevice(const std::string& root, uint32_t device_major, uint32_t device_minor) {
  std::string folder = absl::StrCat(root, "/sys/dev/block/", device_major, ":", device_minor);
  std::error_code error;
  // A partition lies in the folder of its drive, which has the queue.
  if (std::filesystem::exists(folder + "/partition", error)) folder += "/..";
  const std::filesystem::path whole = std::filesystem::canonical(folder, error);
  if (error) return {};
  const std::string queue = whole.string() + "/queue/";
  return {.name = whole.filename().string(),
          .scheduler = Chosen(ReadText(queue + "scheduler")),
          .rotational = ReadText(queue + "rotational") == "1"};
}

HostFacts ReadHostFacts(const HostQuestion& question) {
  HostFacts facts;
  utsname kernel = {};
  if (::uname(&kernel) == 0) facts.kernel = kernel.release;
  facts.drive = question.pack.empty() ? question.drive : question.pack;
  facts.drive_asked = !facts.drive.empty();
  facts.flash_error = std::string(ReadFlash(question, facts).message());
  if (facts.flash_error.empty())
    facts.pack_error = std::string(ReadPack(question, facts).message());
  ReadRegionFolder(question, facts);
  ReadLimits(question, facts);
  const std::string& root = question.root;
  facts.shmem_huge = Chosen(ReadText(root + "/sys/kernel/mm/transparent_hugepage/shmem_enabled"));
  facts.memory = ReadMemoryLimit(root);
  facts.group = ReadGroupMemory(root);
  uint64_t kib = 0;
  const std::vector<std::string> available =
      absl::StrSplit(ReadField(root + "/proc/meminfo", "MemAvailable"), ' ');
  if (absl::SimpleAtoi(available[0], &kib)) facts.available_bytes = kib * kKiB;
  facts.cores = std::max(1u, std::thread::hardware_concurrency());
  facts.cpu_quota = ReadCpuQuota(root);
  facts.kernels = std::string(BestKernels(Precision::kFast).name);
  facts.clock_source =
      ReadText(root + "/sys/devices/system/clocksource/clocksource0/current_clocksource");
  return facts;
}

}  // namespace tidegate
