#include "weightstore/io/uring_ring.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/units.h"
#include "weightstore/io/flash_file.h"

namespace tidegate {
namespace {

// A registration smaller than this is not worth the system call that finds out.
constexpr uint64_t kSmallestChunk = kMiB;
constexpr uint64_t kHugePage = 2 * kMiB;

// No COOP_TASKRUN or DEFER_TASKRUN: measured no faster with a drive behind the ring. Without them
// completions appear in the ring by themselves, so an idle Reap() needs no system call, and the
// ring belongs to no thread, so that a destructor elsewhere can wait for its reads.
constexpr uint32_t kWantedFlags = IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL;

// Debian 12's liburing declares io_uring_register_restrictions and io_uring_enable_rings but does
// not export them. 0 or -errno.
int Register(int ring_fd, unsigned opcode, const void* argument, unsigned count) {
  const long result = ::syscall(__NR_io_uring_register, ring_fd, opcode, argument, count);
  return result < 0 ? -errno : 0;
}

std::string MemlockText() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return "RLIMIT_MEMLOCK";
  if (limit.rlim_cur == RLIM_INFINITY) return "RLIMIT_MEMLOCK (unlimited)";
  return absl::StrCat("RLIMIT_MEMLOCK (", FormatBytes(limit.rlim_cur), ")");
}

// 0 where the setting is absent (kernels before 6.6) or unreadable.
int IoUringDisabledSetting() {
  constexpr size_t kMaxBytes = 64;
  int value = 0;
  const auto text = ReadFile("/proc/sys/kernel/io_uring_disabled", kMaxBytes);
  return text.ok() && absl::SimpleAtoi(*text, &value) ? value : 0;
}

std::string LikelyCause(int error) {
  const int disabled = IoUringDisabledSetting();
  switch (error) {
    case EPERM:
    case EACCES:
      if (disabled != 0) return absl::StrCat("kernel.io_uring_disabled = ", disabled);
      return "likely the seccomp profile of a container: allow io_uring_setup, io_uring_enter and "
             "io_uring_register";
    case ENOSYS:
      return "a kernel without io_uring, or a seccomp profile that hides it";
    case ENOMEM:
      return absl::StrCat("likely too little lockable memory: raise ", MemlockText());
    case EMFILE:
    case ENFILE:
      return "too many open files: raise RLIMIT_NOFILE";
    default:
      return "unexpected";
  }
}

}  // namespace

std::string ExplainUringRefusal(const std::string& call, int error) {
  return absl::StrCat(call, ": ", ErrnoText(error), " (", LikelyCause(error), ")");
}

absl::StatusOr<std::unique_ptr<UringRing>> UringRing::Create(uint32_t entries, int file,
                                                             std::span<std::byte> buffer) {
  std::unique_ptr<UringRing> ring(new UringRing());
  RETURN_IF_ERROR(ring->SetUp(entries));
  ring->RegisterFile(file);
  ring->RegisterBuffers(buffer);
  RETURN_IF_ERROR(ring->Enable());
  return ring;
}

UringRing::~UringRing() {
  if (open_) io_uring_queue_exit(&ring_);
}

absl::Status UringRing::SetUp(uint32_t entries) {
  // Newest first; a kernel answers EINVAL to a flag that it does not know.
  constexpr uint32_t kAttempts[] = {kWantedFlags, IORING_SETUP_R_DISABLED, 0};
  int result = -EINVAL;
  for (const uint32_t flags : kAttempts) {
    io_uring_params params{};
    params.flags = flags;
    result = io_uring_queue_init_params(entries, &ring_, &params);
    if (result == 0) {
      open_ = true;
      starts_disabled_ = (flags & IORING_SETUP_R_DISABLED) != 0;
      return absl::OkStatus();
    }
    if (result != -EINVAL) break;
  }
  return absl::UnavailableError(ExplainUringRefusal("io_uring_setup", -result));
}

void UringRing::RegisterFile(int file) {
  file_ = file;
  fixed_file_ = io_uring_register_files(&ring_, &file_, 1) == 0;
}

void UringRing::RegisterBuffers(std::span<std::byte> buffer) {
  buffer_bytes_ = buffer.size();
  if (buffer.empty()) return;
  // A chunk of huge pages becomes few segments, one with an end of small pages becomes one segment
  // per small page, which splits its large reads: leave that end to the ordinary path.
  if (buffer.size() > kHugePage) buffer = buffer.first(buffer.size() / kHugePage * kHugePage);
  buffers_ = FixedBuffers(buffer);
  const uint64_t chunk_bytes = buffers_.chunk_bytes();
  const auto chunks = static_cast<uint32_t>(
      std::min<uint64_t>((buffer.size() + chunk_bytes - 1) / chunk_bytes, kMaxFixedChunks));
  int result = io_uring_register_buffers_sparse(&ring_, chunks);
  uint64_t done = 0;
  // On ENOMEM shorter and shorter chunks use up what the limit still allows; only the last is
  // short.
  for (uint32_t i = 0; result == 0 && i < chunks; ++i) {
    uint64_t bytes = std::min<uint64_t>(chunk_bytes, buffer.size() - done);
    do {
      result = RegisterChunk(i, buffer.subspan(done, bytes));
      if (result == 0) break;
      bytes = bytes / 2 / 4096 * 4096;
    } while (result == -ENOMEM && bytes >= kSmallestChunk);
    if (result != 0) break;
    done += bytes;
    if (bytes < chunk_bytes && done < buffer.size()) result = -ENOMEM;
  }
  buffers_.set_registered_bytes(done);
  if (result == 0) return;
  buffer_limit_ = ErrnoText(-result);
  if (result == -ENOMEM) absl::StrAppend(&buffer_limit_, ", ", MemlockText());
}

int UringRing::RegisterChunk(uint32_t index, std::span<std::byte> chunk) {
  const iovec iov{chunk.data(), chunk.size()};
  const int result = io_uring_register_buffers_update_tag(&ring_, index, &iov, nullptr, 1);
  return result < 0 ? result : 0;
}

absl::Status UringRing::Enable() {
  if (starts_disabled_) {
    std::array<io_uring_restriction, 3> rules{};
    rules[0].opcode = IORING_RESTRICTION_SQE_OP;
    rules[0].sqe_op = IORING_OP_READV;
    rules[1].opcode = IORING_RESTRICTION_SQE_OP;
    rules[1].sqe_op = IORING_OP_READ_FIXED;
    rules[2].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
    rules[2].sqe_flags = IOSQE_FIXED_FILE;
    restricted_ =
        Register(fd(), IORING_REGISTER_RESTRICTIONS, rules.data(), fixed_file_ ? 3 : 2) == 0;
    const int result = Register(fd(), IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
    if (result < 0) {
      return absl::UnavailableError(ExplainUringRefusal("io_uring_register", -result));
    }
  }
  // A profile may allow the set-up and still refuse this: better to know now than at the first
  // read.
  const int result = io_uring_get_events(&ring_);
  if (result < 0) return absl::UnavailableError(ExplainUringRefusal("io_uring_enter", -result));
  return absl::OkStatus();
}

std::string UringRing::Describe() const {
  std::string text = restricted_ ? "ring restricted to reads" : "ring not restricted";
  absl::StrAppend(&text, fixed_file_ ? ", registered file" : ", file not registered");
  if (buffer_bytes_ == 0) return text;
  absl::StrAppend(&text, ", ", FormatBytes(buffers_.registered_bytes()), " of ",
                  FormatBytes(buffer_bytes_), " registered");
  if (!buffer_limit_.empty()) absl::StrAppend(&text, " (", buffer_limit_, ")");
  return text;
}

}  // namespace tidegate
