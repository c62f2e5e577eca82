#include "weightstore/io/flash_device.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "weightstore/io/flash_file.h"
#include "weightstore/io/flash_model.h"
#include "weightstore/io/modelled_device.h"
#include "weightstore/io/pread_device.h"
#include "weightstore/io/uring_device.h"

namespace tidegate {
namespace {

constexpr uint32_t kMaxQueueDepth = 4096;
constexpr uint32_t kMaxPreadThreads = 1024;

absl::Status CheckRange(const char* what, uint32_t value, uint32_t highest) {
  if (value >= 1 && value <= highest) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("flash ", what, " ", value, " is not in [1, ", highest, "]"));
}

absl::Status CheckOptions(const FlashOptions& options) {
  RETURN_IF_ERROR(CheckRange("queue depth", options.queue_depth, kMaxQueueDepth));
  RETURN_IF_ERROR(CheckRange("pread threads", options.pread_threads, kMaxPreadThreads));
  RETURN_IF_ERROR(CheckRange("alignment", options.alignment, 4096));
  if (options.backend != "auto" && options.backend != "io_uring" && options.backend != "pread") {
    return absl::InvalidArgumentError(absl::StrCat("unknown flash backend '", options.backend,
                                                   "'; choose auto, io_uring or pread"));
  }
  if (reinterpret_cast<uintptr_t>(options.buffer.data()) % 4096 != 0) {
    return absl::InvalidArgumentError("flash buffer is not page-aligned");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<FlashDevice>> OpenFlashDevice(const FlashOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(FlashFile file,
                   OpenFlashFile(options.path, !options.model.has_value(), options.alignment));
  if (options.model.has_value()) return ModelledDevice::Create(std::move(file), options);
  if (options.backend == "pread") {
    return PreadDevice::Create(std::move(file), options, "asked for");
  }
  absl::StatusOr<std::unique_ptr<FlashDevice>> uring = UringDevice::Create(file, options);
  if (uring.ok()) return uring;
  const std::string reason(uring.status().message());
  if (options.backend == "io_uring") {
    return absl::FailedPreconditionError(
        absl::StrCat("io_uring was asked for and is refused: ", reason,
                     "; choose auto or pread instead, or see what `tidegate doctor` advises"));
  }
  return PreadDevice::Create(std::move(file), options, reason);
}

}  // namespace tidegate
