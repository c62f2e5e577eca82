// `tidegate doctor`: findings from facts, facts from files, and the command on this host.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/units.h"
#include "cli/host_facts.h"
#include "cli/host_findings.h"
#include "packer/pack_writer.h"
#include "tests/cli/command_line.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::doctor_test {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

// A host with nothing to say about.
HostFacts GoodFacts() {
  HostFacts facts;
  facts.kernel = "6.12.0";
  facts.flash.backend = "io_uring";
  facts.flash.direct = true;
  facts.flash.fixed_buffer_bytes = 16 * kMiB;
  facts.drive_asked = true;
  facts.drive = "/mnt/nvme/model.tgpack";
  facts.device = {.name = "nvme0n1", .scheduler = "none"};
  facts.probe_buffer_bytes = 16 * kMiB;
  facts.memlock_bytes = kUnlimitedBytes;
  facts.region_dir = "/dev/shm";
  facts.region_probe_bytes = facts.region_huge_bytes = 4 * kMiB;
  facts.tmpfs_bytes = 16 * kGiB;
  facts.tmpfs_free_bytes = 15 * kGiB;
  facts.memory = {32 * kGiB, false};
  facts.available_bytes = 30 * kGiB;
  facts.cores = 8;
  facts.kernels = "AVX3_bf16";
  facts.clock_source = "tsc";
  facts.descriptors = 1 << 20;
  facts.connections = 1024;
  facts.budget_bytes = 8 * kGiB;
  facts.region_bytes = 8 * kGiB;
  return facts;
}

TEST(DiagnoseTest, NothingToSayAboutAGoodHost) {
  const std::vector<Finding> findings = Diagnose(GoodFacts());
  EXPECT_EQ(findings.size(), 11u);
  for (const Finding& finding : findings) {
    EXPECT_EQ(finding.level, FindingLevel::kOk) << finding.check << ": " << finding.found;
  }
  EXPECT_TRUE(Usable(findings));
}

struct Case {
  const char* check;
  FindingLevel level;
  void (*change)(HostFacts&);
  const char* found;
  const char* remedy;
};

constexpr Case kCases[] = {
    {"io_uring", FindingLevel::kWarning,
     [](HostFacts& f) {
       f.flash.backend = "pread";
       f.flash.reason = "io_uring_setup: not permitted";
     },
     "io_uring_setup: not permitted", "seccomp"},
    {"memlock", FindingLevel::kWarning,
     [](HostFacts& f) {
       f.memlock_bytes = 8 * kMiB;
       f.flash.fixed_buffer_bytes = 8 * kMiB;
     },
     "RLIMIT_MEMLOCK 8.00 MiB", "memlock=-1"},
    {"memlock", FindingLevel::kWarning, [](HostFacts& f) { f.memlock_bytes = kGiB; },
     "RLIMIT_MEMLOCK 1.00 GiB", "LimitMEMLOCK"},
    {"memlock", FindingLevel::kOk,
     [](HostFacts& f) {
       f.memlock_bytes = kMiB;
       f.memlock_exempt = true;
     },
     "CAP_IPC_LOCK", ""},
    {"region", FindingLevel::kProblem,
     [](HostFacts& f) { f.region_error = "/tmp/r is not on tmpfs"; }, "not on tmpfs",
     "--region-dir"},
    {"region", FindingLevel::kProblem, [](HostFacts& f) { f.tmpfs_free_bytes = 64 * kMiB; },
     "8.00 GiB are needed", "--shm-size"},
    {"region", FindingLevel::kWarning,
     [](HostFacts& f) {
       f.tmpfs_bytes = f.tmpfs_free_bytes = 64 * kMiB;
       f.budget_bytes = f.region_bytes = 0;
     },
     "the default of containers", "--shm-size"},
    {"huge pages", FindingLevel::kWarning,
     [](HostFacts& f) {
       f.region_huge_bytes = 0;
       f.shmem_huge = "never";
     },
     "shmem_enabled: never", "shmem_enabled to advise"},
    {"O_DIRECT", FindingLevel::kWarning,
     [](HostFacts& f) {
       f.flash.direct = false;
       f.flash.why_not_direct = "the pack lies in memory (tmpfs)";
     },
     "lies in memory", "ext4"},
    {"drive", FindingLevel::kWarning, [](HostFacts& f) { f.device.rotational = true; },
     "rotational", "tidegate plan"},
    {"drive", FindingLevel::kWarning, [](HostFacts& f) { f.device.scheduler = "bfq"; },
     "scheduler bfq", "/sys/block/nvme0n1/queue/scheduler"},
    {"memory", FindingLevel::kProblem,
     [](HostFacts& f) {
       f.memory = {4 * kGiB, true};
     },
     "limit of the control group", "MemoryMax"},
    {"memory", FindingLevel::kWarning,
     [](HostFacts& f) {
       f.group = {16 * kGiB, 2 * kGiB};
     },
     "2.00 GiB available", "lower --memory-budget"},
    {"processors", FindingLevel::kWarning, [](HostFacts& f) { f.cpu_quota = 2.5; },
     "8 cores, of which the control group allows 2.5", "--threads 2"},
    {"processors", FindingLevel::kOk, [](HostFacts& f) { f.cpu_quota = 8; }, "8 cores", ""},
    {"open files", FindingLevel::kWarning, [](HostFacts& f) { f.descriptors = 1024; },
     "at most 1024", "LimitNOFILE"},
    {"arithmetic", FindingLevel::kWarning, [](HostFacts& f) { f.kernels = "scalar_f32"; },
     "scalar_f32", "AVX2"},
    {"clock", FindingLevel::kWarning, [](HostFacts& f) { f.clock_source = "hpet"; }, "hpet",
     "clocksource=tsc"},
    {"flash", FindingLevel::kProblem, [](HostFacts& f) { f.flash_error = "no such file"; },
     "no such file", "--pack"},
    {"pack", FindingLevel::kProblem, [](HostFacts& f) { f.pack_error = "budget is too small"; },
     "too small", "tidegate plan"},
};

TEST(DiagnoseTest, EachDefectHasItsRemedy) {
  for (const Case& c : kCases) {
    HostFacts facts = GoodFacts();
    c.change(facts);
    const std::vector<Finding> findings = Diagnose(facts);
    const auto at = std::find_if(findings.begin(), findings.end(),
                                 [&](const Finding& f) { return f.check == c.check; });
    ASSERT_NE(at, findings.end()) << c.check;
    EXPECT_EQ(at->level, c.level) << c.check << ": " << at->found;
    EXPECT_THAT(at->found, HasSubstr(c.found));
    EXPECT_THAT(at->remedy, HasSubstr(c.remedy));
    EXPECT_EQ(at->why.empty(), c.level == FindingLevel::kOk);
    EXPECT_EQ(Usable(findings), c.level != FindingLevel::kProblem) << c.check;
    for (const Finding& other : findings) {
      if (other.check != c.check) {
        EXPECT_EQ(other.level, FindingLevel::kOk) << c.check << ", " << other.check;
      }
    }
  }
}

TEST(DiagnoseTest, TextAndJsonSayTheSame) {
  HostFacts facts = GoodFacts();
  facts.clock_source = "hpet";
  facts.region_error = "a\nb";
  const std::vector<Finding> findings = Diagnose(facts);
  const Json json = FindingsJson(findings);
  EXPECT_EQ(json["usable"], false);
  ASSERT_EQ(json["findings"].size(), findings.size());
  EXPECT_EQ(json["findings"].back()["check"], "clock");
  EXPECT_EQ(json["findings"].back()["level"], "warning");
  const std::string text = FindingsText(findings);
  EXPECT_THAT(text, HasSubstr("warning  clock       hpet\n"));
  EXPECT_THAT(text, HasSubstr("a\\nb"));  // one line for each
  for (const Finding& finding : findings) EXPECT_THAT(text, HasSubstr(finding.remedy));
}

class HostFactsTest : public ::testing::Test {
 protected:
  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_.path() + path;
    std::filesystem::create_directories(file.parent_path());
    WriteFileOrDie(file.string(), text);
  }
  TempDir root_;
};

TEST_F(HostFactsTest, TheTightestQuotaOfProcessors) {
  EXPECT_EQ(ReadCpuQuota(root_.path()), 0);
  Write("/proc/self/cgroup", "0::/a/b\n");
  EXPECT_EQ(ReadCpuQuota(root_.path()), 0);
  Write("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(ReadCpuQuota(root_.path()), 0);
  Write("/sys/fs/cgroup/a/cpu.max", "150000 100000\n");
  EXPECT_EQ(ReadCpuQuota(root_.path()), 1.5);
  Write("/sys/fs/cgroup/cpu.max", "400000 100000\n");
  EXPECT_EQ(ReadCpuQuota(root_.path()), 1.5);
  Write("/proc/self/cgroup", "9:memory:/m\n3:cpu,cpuacct:/c\n");
  Write("/sys/fs/cgroup/cpu/c/cpu.cfs_quota_us", "-1\n");
  Write("/sys/fs/cgroup/cpu/c/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(ReadCpuQuota(root_.path()), 0);
  Write("/sys/fs/cgroup/cpu/c/cpu.cfs_quota_us", "50000\n");
  EXPECT_EQ(ReadCpuQuota(root_.path()), 0.5);
}

TEST_F(HostFactsTest, TheDriveOfAPartition) {
  EXPECT_EQ(ReadBlockDevice(root_.path(), 259, 1).name, "");
  const std::string drive = "/sys/devices/pci/nvme0n1";
  Write(drive + "/queue/scheduler", "[none] mq-deadline\n");
  Write(drive + "/queue/rotational", "0\n");
  Write(drive + "/nvme0n1p1/partition", "1\n");
  Write("/sys/devices/pci/sda/queue/scheduler", "none mq-deadline [bfq]\n");
  Write("/sys/devices/pci/sda/queue/rotational", "1\n");
  std::filesystem::create_directories(root_.File("sys/dev/block"));
  const auto link = [&](const std::string& to, const std::string& number) {
    std::filesystem::create_symlink(root_.path() + to, root_.File("sys/dev/block/" + number));
  };
  link(drive + "/nvme0n1p1", "259:1");
  link("/sys/devices/pci/sda", "8:0");
  const BlockDevice partition = ReadBlockDevice(root_.path(), 259, 1);
  EXPECT_EQ(partition.name, "nvme0n1");
  EXPECT_EQ(partition.scheduler, "none");
  EXPECT_FALSE(partition.rotational);
  const BlockDevice disk = ReadBlockDevice(root_.path(), 8, 0);
  EXPECT_EQ(disk.name, "sda");
  EXPECT_EQ(disk.scheduler, "bfq");
  EXPECT_TRUE(disk.rotational);
}

class DoctorCommandTest : public ::testing::Test {
 protected:
  // Whether the command succeeded; its report goes to report_.
  bool Doctor(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"doctor", "--json"});
    std::string out;
    status_ = RunCommand(AddDoctorCommand, std::move(arguments), &out);
    report_ = Json::parse(out, nullptr, /*allow_exceptions=*/false);
    return status_.ok();
  }
  Json Find(const std::string& check) {
    for (const Json& finding : report_["findings"]) {
      if (finding["check"] == check) return finding;
    }
    return Json();
  }
  std::string MakePack() {
    LlamaGguf({}).WriteTo(dir_.File("m.gguf"));
    const auto source = SourceModel::Open(dir_.File("m.gguf"));
    EXPECT_TRUE(WritePack(*source, dir_.File("m.tgpack"), PackOptions(), nullptr).ok());
    return dir_.File("m.tgpack");
  }

  TempDir dir_;
  Json report_;
  absl::Status status_;
};

TEST_F(DoctorCommandTest, ThisHostServesAPack) {
  const std::string pack = MakePack();
  ASSERT_TRUE(Doctor({"--pack", pack, "--memory-budget", "64MiB"})) << status_ << report_;
  EXPECT_EQ(report_["usable"], true);
  EXPECT_EQ(Find("region")["level"], "ok");
  EXPECT_FALSE(Find("O_DIRECT").is_null());
  EXPECT_TRUE(Find("pack").is_null());
  ASSERT_TRUE(Doctor({})) << status_ << report_;
  EXPECT_TRUE(Find("O_DIRECT").is_null());  // nothing was asked about a drive
}

TEST_F(DoctorCommandTest, LeavesNothingBehind) {
  ASSERT_TRUE(Doctor({"--drive", dir_.path()})) << status_ << report_;
  EXPECT_TRUE(std::filesystem::is_empty(dir_.path()));
  // A folder that is perhaps on tmpfs, perhaps not.
  Doctor({"--region-dir", dir_.path()});
  EXPECT_TRUE(std::filesystem::is_empty(dir_.path()));
}

TEST_F(DoctorCommandTest, ProblemsEndWithAnError) {
  EXPECT_FALSE(Doctor({"--pack", dir_.File("none")}));
  EXPECT_EQ(Find("flash")["level"], "problem");
  EXPECT_THAT(std::string(status_.message()), HasSubstr("1 problem stands in the way"));
  EXPECT_FALSE(Doctor({"--region-dir", dir_.File("none")}));
  EXPECT_EQ(Find("region")["level"], "problem");
  EXPECT_FALSE(Doctor({"--pack", MakePack(), "--memory-budget", "4KiB"}));
  EXPECT_THAT(Find("pack")["found"].get<std::string>(), HasSubstr("the smallest that works is"));
  EXPECT_FALSE(Doctor({"--memory-budget", "1000000GiB"}));
  EXPECT_EQ(Find("memory")["level"], "problem");
}

TEST_F(DoctorCommandTest, MistakesAreNamed) {
  EXPECT_FALSE(Doctor({"--pack", "p", "--drive", "d"}));
  EXPECT_EQ(status_.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(Doctor({"--memory-budget", "much"}));
  EXPECT_THAT(std::string(status_.message()), HasSubstr("--memory-budget"));
}

}  // namespace tidegate::doctor_test
