#include "measure/flash_meter.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/units.h"
#include "measure/local_model.h"
#include "proto/store/v1/pack_format.h"

namespace tidegate {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kMemoryBytes = 64 * kMiB;
constexpr uint64_t kNewFileBytes = 256 * kMiB;
constexpr int kPollMilliseconds = 100;
constexpr std::chrono::seconds kHangTime{10};

// Random bytes: file systems and drives may compress.
absl::Status FillFile(int fd) {
  std::mt19937_64 random(7);
  std::vector<uint64_t> words(kMiB / sizeof(uint64_t));
  for (uint64_t at = 0; at < kNewFileBytes; at += kMiB) {
    for (uint64_t& word : words) word = random();
    RETURN_IF_ERROR(WriteAt(fd, at, words.data(), kMiB));
  }
  if (::fsync(fd) != 0) return absl::ErrnoToStatus(errno, "fsync");
  return absl::OkStatus();
}

absl::StatusOr<FlashRange> NewFile(const std::string& folder) {
  std::string name = folder + "/tidegate-plan-XXXXXX";
  FlashRange range;
  range.keep = UniqueFd(::mkostemp(name.data(), O_CLOEXEC));
  if (!range.keep.valid()) {
    const int error = errno;
    return absl::ErrnoToStatus(error, absl::StrCat("cannot make a file in ", folder));
  }
  ::unlink(name.c_str());
  if (const absl::Status filled = FillFile(range.keep.get()); !filled.ok()) {
    return Annotate(filled, absl::StrCat("cannot write ", FormatBytes(kNewFileBytes), " in ",
                                         folder, " to measure with"));
  }
  range.path = absl::StrCat("/proc/self/fd/", range.keep.get());
  range.end = kNewFileBytes;
  return range;
}

}  // namespace

absl::StatusOr<FlashRange> RangeOf(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return NewFile(path);
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(path));
  FlashRange range;
  range.path = path;
  ASSIGN_OR_RETURN(range.end, FileSize(fd.get()));
  if (StartsAsPack(path)) {
    ASSIGN_OR_RETURN(const PackIndex pack, ReadPackIndex(fd.get(), path));
    range.begin = pack.header.blocks_offset;
    range.end = range.begin + pack.header.blocks_bytes;
  }
  range.end = range.end / kPageBytes * kPageBytes;
  if (range.end <= range.begin) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is too small to measure a drive with; name a folder with --drive"));
  }
  return range;
}

absl::StatusOr<std::unique_ptr<FlashMeter>> FlashMeter::Open(const FlashRange& range,
                                                             uint32_t queue_depth,
                                                             uint32_t alignment) {
  std::unique_ptr<FlashMeter> meter(new FlashMeter(range, alignment));
  RETURN_IF_ERROR(meter->memory_.Reserve(kMemoryBytes));
  FlashOptions options;
  options.path = range.path;
  options.queue_depth = queue_depth;
  options.alignment = alignment;
  options.buffer = {reinterpret_cast<std::byte*>(meter->memory_.data()), kMemoryBytes};
  ASSIGN_OR_RETURN(meter->device_, OpenFlashDevice(options));
  return meter;
}

absl::Status FlashMeter::Fill(uint64_t bytes) {
  const uint64_t places = (range_.end - range_.begin - bytes) / alignment_ + 1;
  bool any = false;
  while (!free_.empty() && device_->free_count() > 0) {
    const uint32_t place = free_.back();
    free_.pop_back();
    const FlashSegment segment = {
        reinterpret_cast<std::byte*>(memory_.data()) + place * RoundUp(bytes, kPageBytes),
        static_cast<uint32_t>(bytes)};
    device_->Enqueue({.offset = range_.begin + random_() % places * alignment_,
                      .segments = {&segment, 1},
                      .tag = place});
    any = true;
  }
  return any ? device_->Submit() : absl::OkStatus();
}

absl::Status FlashMeter::Collect(uint64_t bytes, uint64_t& done) {
  completions_.clear();
  const Clock::time_point start = Clock::now();
  device_->Reap(completions_);
  while (completions_.empty()) {
    if (Clock::now() - start > kHangTime) {
      return absl::UnavailableError(
          absl::StrCat(range_.path, ": the drive has not answered for ", kHangTime.count(), " s"));
    }
    pollfd event = {device_->event_fd(), POLLIN, 0};
    ::poll(&event, 1, kPollMilliseconds);
    device_->Reap(completions_);
  }
  for (const FlashCompletion& completion : completions_) {
    RETURN_IF_ERROR(completion.status);
    const auto place = static_cast<uint32_t>(completion.tag);
    checksums_ ^= Checksum(memory_.data() + place * RoundUp(bytes, kPageBytes), bytes);
    free_.push_back(place);
  }
  done += completions_.size();
  return absl::OkStatus();
}

absl::StatusOr<FlashRate> FlashMeter::Read(uint64_t bytes, uint32_t depth, double seconds,
                                           const std::atomic<bool>* stop) {
  bytes = std::min({bytes, kMemoryBytes, range_.end - range_.begin}) / alignment_ * alignment_;
  if (bytes == 0) return absl::InvalidArgumentError("reads of 0 bytes");
  const uint64_t room = kMemoryBytes / RoundUp(bytes, kPageBytes);
  free_.clear();
  for (uint32_t i = 0; i < std::clamp<uint64_t>(depth, 1, room); ++i) free_.push_back(i);
  const Clock::time_point start = Clock::now();
  std::chrono::duration<double> took{0};
  uint64_t done = 0;
  while (took.count() < seconds && (stop == nullptr || !*stop)) {
    RETURN_IF_ERROR(Fill(bytes));
    RETURN_IF_ERROR(Collect(bytes, done));
    took = Clock::now() - start;
  }
  uint64_t late = 0;
  while (device_->in_flight() > 0) RETURN_IF_ERROR(Collect(bytes, late));
  const double reads = static_cast<double>(done) / std::max(1e-9, took.count());
  return FlashRate{reads * static_cast<double>(bytes), reads};
}

}  // namespace tidegate
