// Opens the file behind a flash device, past the page cache where the file system allows it.
//
// Not here: reads. Threads: free function. Errors: NOT_FOUND, PERMISSION_DENIED and so on name the
// path; INVALID_ARGUMENT for something that is neither a regular file nor a block device.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace tidegate {

struct FlashFile {
  UniqueFd fd;
  bool direct = false;         // reads bypass the page cache (O_DIRECT)
  std::string why_not_direct;  // where they do not
};

// "Input/output error" for EIO. Unlike strerror(3), safe in any thread.
std::string ErrnoText(int error);

// `want_direct` false: always through the page cache. True: O_DIRECT if the file system has it and
// the drive takes offsets and sizes that are multiples of `alignment` bytes, [1, 4096].
absl::StatusOr<FlashFile> OpenFlashFile(const std::string& path, bool want_direct,
                                        uint32_t alignment);

}  // namespace tidegate
