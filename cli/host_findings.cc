#include "cli/host_findings.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/text.h"
#include "base/units.h"

namespace tidegate {
namespace {

constexpr uint64_t kContainerTmpfsBytes = 64 * kMiB;  // what containers get where nobody says more
constexpr int kDescriptorsPerConnection = 3, kOtherDescriptors = 128;
constexpr size_t kShownTextBytes = 4096;

using Json = nlohmann::ordered_json;

Finding Ok(std::string check, std::string found) {
  return {std::move(check), FindingLevel::kOk, std::move(found), "", ""};
}
Finding Warning(std::string check, std::string found, std::string why, std::string remedy) {
  return {std::move(check), FindingLevel::kWarning, std::move(found), std::move(why),
          std::move(remedy)};
}
Finding Problem(std::string check, std::string found, std::string why, std::string remedy) {
  return {std::move(check), FindingLevel::kProblem, std::move(found), std::move(why),
          std::move(remedy)};
}

std::string MemlockText(const HostFacts& facts) {
  return facts.memlock_bytes == kUnlimitedBytes ? "unlimited" : FormatBytes(facts.memlock_bytes);
}

Finding CheckUring(const HostFacts& facts) {
  if (facts.flash.backend == "io_uring") {
    return Ok("io_uring", absl::StrCat("works (Linux ", facts.kernel, ")"));
  }
  return Warning("io_uring",
                 absl::StrCat("refused, Linux ", facts.kernel, ": ", facts.flash.reason),
                 "the store then reads with a pool of threads, which takes more processor time and "
                 "keeps fewer reads in flight",
                 "in a container start the store with --security-opt "
                 "seccomp=deploy/seccomp/tidegate-store.json; on the host set sysctl "
                 "kernel.io_uring_disabled=0");
}

Finding CheckMemlock(const HostFacts& facts) {
  const std::string found =
      absl::StrCat("RLIMIT_MEMLOCK ", MemlockText(facts),
                   facts.memlock_exempt ? ", not applied to this process (CAP_IPC_LOCK)" : "");
  const uint64_t wanted = std::max(facts.region_bytes, facts.probe_buffer_bytes);
  const bool registered = facts.flash.backend != "io_uring" ||
                          facts.flash.fixed_buffer_bytes >= facts.probe_buffer_bytes;
  if ((facts.memlock_exempt || facts.memlock_bytes >= wanted) && registered) {
    return Ok("memlock", found);
  }
  return Warning(
      "memlock",
      absl::StrCat(found, "; ", FormatBytes(facts.flash.fixed_buffer_bytes),
                   " of a "
                   "trial of ",
                   FormatBytes(facts.probe_buffer_bytes), " registered"),
      "what lies beyond the limit is read without registered buffers, which takes more "
      "processor time, and may be swapped out",
      "raise it to the memory budget or more: ulimit -l unlimited, LimitMEMLOCK=infinity "
      "of a systemd unit, --ulimit memlock=-1 of a container");
}

Finding CheckRegion(const HostFacts& facts) {
  const std::string found =
      absl::StrCat(facts.region_dir, ": ", FormatBytes(facts.tmpfs_free_bytes), " free of ",
                   FormatBytes(facts.tmpfs_bytes));
  if (!facts.region_error.empty()) {
    return Problem("region", absl::StrCat("no region can be made: ", facts.region_error),
                   "weights and cache live in a file on tmpfs that store and engine share",
                   "make a folder on a tmpfs, such as /dev/shm/tidegate, and name it with "
                   "--region-dir, here and for the store");
  }
  const char* const remedy =
      "enlarge it: mount -o remount,size=... /dev/shm, --shm-size of a container, shm_size of a "
      "compose file; or lower --memory-budget";
  if (facts.region_bytes > facts.tmpfs_free_bytes) {
    return Problem("region",
                   absl::StrCat(found, ", ", FormatBytes(facts.region_bytes), " are needed"),
                   "the store reserves its region at the start and ends if there is no room (the "
                   "region of a store that runs counts as taken)",
                   remedy);
  }
  if (facts.region_bytes == 0 && facts.tmpfs_bytes <= kContainerTmpfsBytes) {
    return Warning("region", absl::StrCat(found, ", the default of containers"),
                   "a memory budget above that does not fit", remedy);
  }
  return Ok("region", found);
}

Finding CheckHugePages(const HostFacts& facts) {
  const std::string found = absl::StrCat(
      FormatBytes(facts.region_huge_bytes), " of a trial region of ",
      FormatBytes(facts.region_probe_bytes), " in huge pages",
      facts.shmem_huge.empty() ? "" : absl::StrCat(" (shmem_enabled: ", facts.shmem_huge, ")"));
  if (facts.region_huge_bytes == facts.region_probe_bytes) return Ok("huge pages", found);
  return Warning("huge pages", found,
                 "small pages cost a memory-bound token time in page walks, and make each large "
                 "read of the drive many small pieces",
                 "Linux 6.1 or later gives them on request; otherwise mount the tmpfs of "
                 "--region-dir with huge=within_size and set "
                 "/sys/kernel/mm/transparent_hugepage/shmem_enabled to advise; free memory that is "
                 "in pieces helps too (/proc/sys/vm/compact_memory)");
}

Finding CheckDirect(const HostFacts& facts) {
  if (facts.flash.direct)
    return Ok("O_DIRECT", absl::StrCat(facts.drive, " is read past the page cache"));
  return Warning(
      "O_DIRECT",
      absl::StrCat(facts.drive, " is read through the page cache: ", facts.flash.why_not_direct),
      "the cache then takes memory beside the budget and copies every block, and what "
      "is measured here is not the drive",
      "put the pack on ext4, XFS or another file system with O_DIRECT, on a local drive");
}

Finding CheckDevice(const HostFacts& facts) {
  const BlockDevice& device = facts.device;
  const std::string found =
      absl::StrCat(device.name, ": ", device.rotational ? "rotational" : "not rotational",
                   device.scheduler.empty() ? "" : ", scheduler " + device.scheduler);
  if (device.rotational) {
    return Warning("drive", found,
                   "a disk that turns does some hundred random reads per second, and tokens need "
                   "thousands (virtual drives often only claim to turn)",
                   "put the pack on an NVMe drive; `tidegate plan PACK --drive FOLDER` measures "
                   "what a drive gives");
  }
  if (device.scheduler == "bfq" || device.scheduler == "cfq") {
    return Warning("drive", found,
                   "this scheduler spends processor time on the order of reads that "
                   "a flash drive does not need",
                   absl::StrCat("echo none > /sys/block/", device.name, "/queue/scheduler"));
  }
  return Ok("drive", found);
}

Finding CheckMemory(const HostFacts& facts) {
  uint64_t left = facts.available_bytes;
  if (facts.group) left = left == 0 ? facts.group->left : std::min(left, facts.group->left);
  const std::string found =
      absl::StrCat(FormatBytes(left), " available of ", FormatBytes(facts.memory.bytes),
                   facts.memory.by_cgroup ? ", the limit of the control group" : "");
  const uint64_t wanted = std::max(facts.budget_bytes, facts.region_bytes);
  if (facts.memory.bytes > 0 && wanted > facts.memory.bytes) {
    return Problem("memory", absl::StrCat(found, ", ", FormatBytes(wanted), " are wanted"),
                   "the kernel ends the store or the engine when the limit is reached",
                   facts.memory.by_cgroup
                       ? "lower --memory-budget or raise the group's limit (--memory of a "
                         "container, MemoryMax of a systemd unit)"
                       : "lower --memory-budget");
  }
  if (left > 0 && wanted > left) {
    return Warning("memory", absl::StrCat(found, ", ", FormatBytes(wanted), " are wanted"),
                   "other programs hold memory that the region needs; the kernel may swap or end "
                   "one of them (what a store that runs holds counts as taken)",
                   "lower --memory-budget, or end what takes the memory");
  }
  return Ok("memory", found);
}

Finding CheckProcessors(const HostFacts& facts) {
  if (facts.cpu_quota == 0) return Ok("processors", absl::StrCat(facts.cores, " cores"));
  const std::string found = absl::StrFormat("%d cores, of which the control group allows %.3g",
                                            facts.cores, facts.cpu_quota);
  if (facts.cpu_quota >= facts.cores) return Ok("processors", found);
  return Warning("processors", found,
                 "the engine runs a thread for each core; with less time than that the kernel "
                 "stops all of them in turns, and each step waits",
                 absl::StrCat("start tidegate-engine with --threads ",
                              std::max(1, static_cast<int>(facts.cpu_quota)),
                              ", or raise the quota (--cpus of a container, CPUQuota of a systemd "
                              "unit)"));
}

Finding CheckDescriptors(const HostFacts& facts) {
  const int wanted = facts.connections * kDescriptorsPerConnection + kOtherDescriptors;
  const std::string found = absl::StrCat("at most ", facts.descriptors, " open files");
  if (facts.descriptors >= wanted) return Ok("open files", found);
  return Warning("open files", found,
                 absl::StrCat("the engine accepts fewer than its ", facts.connections,
                              " connections, each of which takes ", kDescriptorsPerConnection),
                 absl::StrCat("raise the hard limit to ", wanted,
                              ": ulimit -Hn, LimitNOFILE of a systemd unit, --ulimit nofile of a "
                              "container; or lower --max-connections"));
}

Finding CheckKernels(const HostFacts& facts) {
  if (!facts.kernels.starts_with("scalar")) {
    const bool bf16 = facts.kernels.ends_with("bf16");
    return Ok("arithmetic", absl::StrCat(facts.kernels, bf16 ? "" : ", without bfloat16"));
  }
  return Warning("arithmetic", absl::StrCat(facts.kernels, ": no vector unit that is known here"),
                 "a token takes several times as long",
                 "use a processor with AVX2 and FMA, or arm64; in a virtual machine pass the "
                 "host's processor through (-cpu host)");
}

Finding CheckClock(const HostFacts& facts) {
  const std::string& name = facts.clock_source;
  if (name != "hpet" && name != "acpi_pm" && name != "jiffies" && name != "xen") {
    return Ok("clock", name);
  }
  return Warning("clock", name,
                 "each reading of this clock is a slow call, and every flash read takes two",
                 "boot with a reliable TSC (clocksource=tsc), or ask who runs the virtual machine");
}

void AddDrive(const HostFacts& facts, std::vector<Finding>& findings) {
  if (!facts.flash_error.empty()) {
    findings.push_back(Problem("flash", facts.flash_error, "the store cannot read weights there",
                               "name a pack that this user may read with --pack, or a folder "
                               "where this user may make a file with --drive"));
    return;
  }
  findings.push_back(CheckUring(facts));
  findings.push_back(CheckMemlock(facts));
  if (!facts.drive_asked) return;
  findings.push_back(CheckDirect(facts));
  if (!facts.device.name.empty()) findings.push_back(CheckDevice(facts));
}

const char* LevelName(FindingLevel level) {
  switch (level) {
    case FindingLevel::kOk:
      return "ok";
    case FindingLevel::kWarning:
      return "warning";
    case FindingLevel::kProblem:
      return "problem";
  }
  return "";
}

}  // namespace

std::vector<Finding> Diagnose(const HostFacts& facts) {
  std::vector<Finding> findings;
  AddDrive(facts, findings);
  if (!facts.pack_error.empty()) {
    findings.push_back(Problem("pack", facts.pack_error, "the store refuses to start with it",
                               "`tidegate inspect PACK --verify` explains a pack; `tidegate plan "
                               "PACK` says which budgets work"));
  }
  findings.push_back(CheckRegion(facts));
  if (facts.region_probe_bytes > 0) findings.push_back(CheckHugePages(facts));
  findings.push_back(CheckMemory(facts));
  findings.push_back(CheckProcessors(facts));
  findings.push_back(CheckDescriptors(facts));
  findings.push_back(CheckKernels(facts));
  if (!facts.clock_source.empty()) findings.push_back(CheckClock(facts));
  return findings;
}

bool Usable(const std::vector<Finding>& findings) {
  return std::none_of(findings.begin(), findings.end(),
                      [](const Finding& f) { return f.level == FindingLevel::kProblem; });
}

Json FindingsJson(const std::vector<Finding>& findings) {
  Json rows = Json::array();
  for (const Finding& finding : findings) {
    rows.push_back({{"check", finding.check},
                    {"level", LevelName(finding.level)},
                    {"found", finding.found},
                    {"why", finding.why},
                    {"remedy", finding.remedy}});
  }
  return {{"usable", Usable(findings)}, {"findings", rows}};
}

std::string FindingsText(const std::vector<Finding>& findings) {
  std::string text;
  for (const Finding& finding : findings) {
    absl::StrAppend(&text, absl::StrFormat("%-8s %-11s ", LevelName(finding.level), finding.check),
                    Printable(finding.found, kShownTextBytes), "\n");
    if (finding.level == FindingLevel::kOk) continue;
    absl::StrAppend(&text, "         why:    ", finding.why, "\n         remedy: ", finding.remedy,
                    "\n");
  }
  return text;
}

}  // namespace tidegate
