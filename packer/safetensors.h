// Reads the directory of a safetensors file: names, types, shapes and places of its tensors.
// Source: the format's specification (github.com/huggingface/safetensors): 8 bytes with the size of
// the header, the header as JSON, then the data, which the header's offsets count from. Every
// number is checked before use. Stateless, thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tidegate {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;            // "F32", "BF16", ...
  std::vector<uint64_t> shape;  // the last one is the row length
  uint64_t offset = 0;          // bytes from the start of the file
  uint64_t bytes = 0;
};

// Sorted by name. INVALID_ARGUMENT: not safetensors; DATA_LOSS: truncated or damaged.
absl::StatusOr<std::vector<SafetensorsEntry>> ReadSafetensorsDirectory(int fd, uint64_t file_bytes);

}  // namespace tidegate
