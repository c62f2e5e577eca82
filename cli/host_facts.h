// What this host, the limits of this process and a drive are like: numbers and texts for `tidegate
// doctor`. The real parts are tried (the store's flash device and region), everything else is read
// from /proc and /sys. Not here: what is good or bad (host_findings.h). One thread.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>

#include "base/memory_limit.h"
#include "weightstore/io/flash_device.h"

namespace tidegate {

inline constexpr uint64_t kUnlimitedBytes = std::numeric_limits<uint64_t>::max();

// What is asked about. An empty or zero field: not known, and the checks that need it are left out.
struct HostQuestion {
  std::string pack;   // a pack file
  std::string drive;  // a folder, or a file on the drive; not looked at where there is a pack
  std::string region_dir = "/dev/shm";
  uint64_t budget_bytes = 0;  // of the store
  std::string root;           // where /proc and /sys lie, for tests
};

// The device below a file, as the kernel describes it.
struct BlockDevice {
  std::string name;       // "nvme0n1"; empty: the file system names none
  std::string scheduler;  // "none", "mq-deadline"; empty: not known
  bool rotational = false;
};

struct HostFacts {
  std::string kernel;  // release: "6.18.0"

  std::string flash_error;  // not empty: the pack or the drive cannot be read, and why
  FlashInfo flash;          // of the pack, of a file on the drive, or of a file in memory
  bool drive_asked = false;
  std::string drive;  // its path
  BlockDevice device;
  uint64_t probe_buffer_bytes = 0;  // that the device was to register
  uint64_t memlock_bytes = 0;       // kUnlimitedBytes: no limit
  bool memlock_exempt = false;      // CAP_IPC_LOCK

  std::string region_dir;
  std::string region_error;  // not empty: no region can be made there, and why
  uint64_t region_probe_bytes = 0, region_huge_bytes = 0;
  uint64_t tmpfs_bytes = 0, tmpfs_free_bytes = 0;
  std::string shmem_huge;  // "never", "advise", ...; empty: not known

  MemoryLimit memory;
  std::optional<GroupMemory> group;
  uint64_t available_bytes = 0;  // of the machine; 0: not known

  uint32_t cores = 0;
  double cpu_quota = 0;  // cores that the control group may use; 0: no quota
  std::string kernels;   // name of the table in use
  std::string clock_source;
  int descriptors = 0;  // hard limit
  int connections = 0;  // that an engine accepts by default

  std::string pack_error;     // not empty: the pack or its budget does not work, and why
  uint64_t budget_bytes = 0;  // as asked
  uint64_t region_bytes = 0;  // of that budget, or the static weights where none was given
};

// Makes and removes one file in the region's folder and one in `drive`, where it is a folder.
HostFacts ReadHostFacts(const HostQuestion& question);

// The device of the file or folder `path`. Pure but for reading /sys below `root`.
BlockDevice ReadBlockDevice(const std::string& root, uint32_t device_major, uint32_t device_minor);

// Cores that the tightest control group of this process allows; 0: no quota.
double ReadCpuQuota(const std::string& root);

}  // namespace tidegate
