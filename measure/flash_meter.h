// How fast a drive gives blocks as the store asks for them: reads at random places of a file
// through the store's own flash device, into registered memory, each with its checksum computed.
// Thread-compatible.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/aligned_buffer.h"
#include "base/unique_fd.h"
#include "weightstore/io/flash_device.h"

namespace tidegate {

// A range of a file to read from; not all of it need be read.
struct FlashRange {
  std::string path;
  uint64_t begin = 0, end = 0;  // bytes
  UniqueFd keep;                // of a file without a name; else not valid
};

// The block section of a pack, any other file as a whole, or a new file of random bytes, without a
// name, in a folder. Errors name the path; FAILED_PRECONDITION: too small to measure with.
absl::StatusOr<FlashRange> RangeOf(const std::string& path);

struct FlashRate {
  double bytes_per_second = 0, reads_per_second = 0;
};

class FlashMeter {
 public:
  // range must outlive the meter. alignment: of offsets and sizes, see FlashOptions.
  static absl::StatusOr<std::unique_ptr<FlashMeter>> Open(const FlashRange& range,
                                                          uint32_t queue_depth, uint32_t alignment);

  // Reads of `bytes` for `seconds` or until `stop` (null: never) is set, `depth` out at a time, as
  // far as the device and 64 MiB of memory allow. UNAVAILABLE: the drive fails or hangs.
  absl::StatusOr<FlashRate> Read(uint64_t bytes, uint32_t depth, double seconds,
                                 const std::atomic<bool>* stop = nullptr);

  const FlashInfo& info() const { return device_->info(); }

 private:
  explicit FlashMeter(const FlashRange& range, uint32_t alignment)
      : range_(range), alignment_(alignment) {}

  // Hands out reads into every free place.
  absl::Status Fill(uint64_t bytes);
  // Waits for some reads; their number goes to `done`.
  absl::Status Collect(uint64_t bytes, uint64_t& done);

  const FlashRange& range_;
  const uint32_t alignment_;
  AlignedBuffer memory_;  // outlives the device, which may still write into it
  std::unique_ptr<FlashDevice> device_;
  std::mt19937_64 random_{42};
  std::vector<uint32_t> free_;  // places of the memory
  std::vector<FlashCompletion> completions_;
  uint64_t checksums_ = 0;
};

}  // namespace tidegate
