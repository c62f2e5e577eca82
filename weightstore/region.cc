#include "weightstore/region.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/units.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace tidegate {
namespace {

// Where memory is in pieces, every attempt at a huge page searches for long; soon give up.
constexpr int kHugePageFailuresMax = 16;

absl::Status CheckFile(int fd, const std::string& path) {
  struct stat info;
  struct statfs fs;
  if (::fstat(fd, &info) != 0 || ::fstatfs(fd, &fs) != 0) return absl::ErrnoToStatus(errno, path);
  if (!S_ISREG(info.st_mode) || info.st_uid != ::geteuid() || (info.st_mode & 077) != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " is not a private file of this user; remove it or choose another region folder"));
  }
  if (fs.f_type != TMPFS_MAGIC) {
    return absl::FailedPreconditionError(
        absl::StrCat(path,
                     " is not on tmpfs; choose a region folder on tmpfs such as /dev/shm; "
                     "`tidegate doctor` checks it"));
  }
  return absl::OkStatus();
}

// Opens and locks the file. A store that stops removes its region: then the lock is on a nameless
// file and the name must be opened again.
absl::StatusOr<UniqueFd> OpenLocked(const std::string& path) {
  for (int attempt = 0; attempt < 10; ++attempt) {
    ASSIGN_OR_RETURN(UniqueFd fd, UniqueFd::Open(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
    RETURN_IF_ERROR(CheckFile(fd.get(), path));
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      return absl::AlreadyExistsError(absl::StrCat("another tidegate-store holds the region ", path,
                                                   "; stop it or use another --region-dir"));
    }
    struct stat by_fd, by_name;
    const bool same = ::fstat(fd.get(), &by_fd) == 0 && ::stat(path.c_str(), &by_name) == 0 &&
                      by_fd.st_ino == by_name.st_ino && by_fd.st_dev == by_name.st_dev;
    if (same) return fd;
  }
  return absl::UnavailableError(absl::StrCat(path, " keeps being replaced by another process"));
}

// A file of our own under the name. What an earlier store left may still be mapped by an engine:
// its memory must not shrink under it, so it loses its name and nothing else.
absl::StatusOr<UniqueFd> ReplaceLocked(const std::string& path) {
  if (::unlink(path.c_str()) != 0) return absl::ErrnoToStatus(errno, path);
  ASSIGN_OR_RETURN(UniqueFd fd, UniqueFd::Open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return absl::ErrnoToStatus(errno, path);
  return fd;
}

// In what the region that an earlier store left differs from the one that is wanted: every field
// with both values. Empty: in nothing.
std::string Differences(const RegionHeader& left, const RegionHeader& wanted) {
  if (left.magic == 0) return "its store never finished it";
  if (left.magic != kRegionMagic) return "it is no region";
  if (left.version != wanted.version) {
    return absl::StrCat("layout version ", left.version, ", not ", wanted.version);
  }
  if (left.pack_uuid != wanted.pack_uuid) {
    return absl::StrCat("of pack ", UuidText(left.pack_uuid), ", not ", UuidText(wanted.pack_uuid));
  }
  std::vector<std::string> found;
  const auto compare = [&](const std::string& name, uint64_t l, uint64_t w) {
    if (l != w) found.push_back(absl::StrCat(name, " ", l, ", not ", w));
  };
  compare("layers", left.layer_count, wanted.layer_count);
  for (const UnitKind kind : {UnitKind::kInput, UnitKind::kHidden}) {
    const RegionKind& l = left.kinds[static_cast<uint32_t>(kind)];
    const RegionKind& w = wanted.kinds[static_cast<uint32_t>(kind)];
    const std::string name = UnitKindName(kind);
    compare(absl::StrCat("slots of a layer for ", name, " blocks"), l.slots_per_layer,
            w.slots_per_layer);
    compare(absl::StrCat("bytes of a block of ", name, " units"), l.block_bytes, w.block_bytes);
    compare(absl::StrCat(name, " units"), l.unit_count, w.unit_count);
  }
  compare("bytes of static weights", left.static_bytes, wanted.static_bytes);
  compare("bytes of a lease's staging", left.staging_bytes, wanted.staging_bytes);
  compare("bytes of engine reserve", left.engine_reserve_bytes, wanted.engine_reserve_bytes);
  compare("bytes of manifest", left.manifest_bytes, wanted.manifest_bytes);
  compare("bytes", left.region_bytes, wanted.region_bytes);
  if (found.empty() && std::memcmp(&left, &wanted, sizeof(left)) != 0) return "its header";
  return absl::StrJoin(found, "; ");
}

// Whether the content of a file that an earlier store left may be taken over; says why not.
absl::StatusOr<bool> MayAdopt(int fd, const std::string& path, uint64_t file_bytes,
                              const RegionHeader& wanted) {
  if (file_bytes == 0) return false;  // new
  RegionHeader left = {};
  std::string differences = absl::StrCat("a file of ", file_bytes, " bytes");
  if (file_bytes >= sizeof(left)) {
    RETURN_IF_ERROR(ReadAt(fd, 0, &left, sizeof(left)));
    differences = Differences(left, wanted);
    if (differences.empty() && file_bytes != wanted.region_bytes) {
      differences = absl::StrCat("a file of ", file_bytes, " bytes, not ", wanted.region_bytes);
    }
  }
  if (differences.empty()) return true;
  LogInfo("the region ", path, " that an earlier store left is not taken over: ", differences);
  return false;
}

// Puts huge pages behind the file as far as the kernel gives them; returns the bytes they cover.
// MADV_COLLAPSE (Linux 6.1) does so whatever the settings of tmpfs and of transparent huge pages
// say, but not to a range without any page: hence one page first, which a full tmpfs refuses.
// Everything else becomes one zeroed huge page, ten times faster than 512 small ones.
uint64_t BackWithHugePages(int fd, const Mapping& mapping) {
  uint64_t covered = 0;
  int failures = 0, error = 0;
  for (uint64_t at = 0; at + kHugePageBytes <= mapping.size(); at += kHugePageBytes) {
    if (::fallocate(fd, 0, static_cast<off_t>(at), kPageBytes) != 0) break;
    if (::madvise(mapping.data() + at, kHugePageBytes, MADV_COLLAPSE) == 0) {
      covered += kHugePageBytes;
      continue;
    }
    error = errno;
    if (error == EINVAL || ++failures > kHugePageFailuresMax) break;
  }
  LogInfo("region: ", FormatBytes(covered), " of ", FormatBytes(mapping.size()), " in huge pages",
          error == 0 ? "" : absl::StrCat("; the kernel refused more (", strerror(error), ")"));
  return covered;
}

absl::Status Reserve(int fd, const std::string& path, uint64_t bytes) {
  if (::fallocate(fd, 0, 0, static_cast<off_t>(bytes)) == 0) return absl::OkStatus();
  const int error = errno;
  ::unlink(path.c_str());
  return absl::ResourceExhaustedError(absl::StrCat(
      "tmpfs has no room for a region of ", FormatBytes(bytes), " at ", path, " (", strerror(error),
      "); lower --memory-budget or enlarge the tmpfs; `tidegate doctor` knows how"));
}

}  // namespace

absl::StatusOr<Region> Region::Open(const std::string& path, const RegionHeader& header) {
  Region region;
  region.path_ = path;
  region.header_ = header;
  ASSIGN_OR_RETURN(region.fd_, OpenLocked(path));
  ASSIGN_OR_RETURN(const uint64_t present_bytes, FileSize(region.fd_.get()));
  ASSIGN_OR_RETURN(region.adopted_, MayAdopt(region.fd_.get(), path, present_bytes, header));
  if (!region.adopted_) {
    region.RemoveAtEnd();
    if (present_bytes != 0) {
      // The old descriptor, and with it the lock on the old file, goes when the new one is locked.
      ASSIGN_OR_RETURN(region.fd_, ReplaceLocked(path));
    }
    if (::ftruncate(region.fd_.get(), static_cast<off_t>(header.region_bytes)) != 0) {
      const int error = errno;
      ::unlink(path.c_str());
      return absl::ResourceExhaustedError(absl::StrCat(
          "cannot make ", path, " ", FormatBytes(header.region_bytes), " large: ", strerror(error),
          "; raise the limit on file sizes (ulimit -f) or lower --memory-budget"));
    }
  }
  ASSIGN_OR_RETURN(region.mapping_, Mapping::Map(region.fd_.get(), header.region_bytes,
                                                 Mapping::Access::kReadWrite));
  region.huge_bytes_ = BackWithHugePages(region.fd_.get(), region.mapping_);
  RETURN_IF_ERROR(Reserve(region.fd_.get(), path, header.region_bytes));
  // A second open file description, because a descriptor's access mode cannot be lowered.
  ASSIGN_OR_RETURN(region.read_only_,
                   UniqueFd::Open(absl::StrCat("/proc/self/fd/", region.fd_.get()), O_RDONLY));
  if (!region.adopted_) {
    RegionHeader unpublished = header;
    unpublished.magic = 0;
    std::memcpy(region.data(), &unpublished, sizeof(unpublished));
  }
  return region;
}

void Region::Publish() {
  std::atomic_ref<uint64_t> magic(mapping_.At<RegionHeader>(0)->magic);
  magic.store(kRegionMagic, std::memory_order_release);
}

std::span<ResidencyEntry> Region::residency(uint32_t layer, UnitKind kind) const {
  return {mapping_.At<ResidencyEntry>(ResidencyOffset(header_, layer, kind)),
          header_.kinds[static_cast<uint32_t>(kind)].block_count};
}

void Region::RemoveAtEnd() { removed_at_end_ = RemovedAtEnd(path_); }

void Region::Unlink() {
  // Once: later the name may be another store's.
  removed_at_end_ = RemovedAtEnd();
  if (!path_.empty()) ::unlink(path_.c_str());
  path_.clear();
}

}  // namespace tidegate
