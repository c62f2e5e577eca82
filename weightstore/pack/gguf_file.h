// Reads GGUF files, versions 2 and 3: metadata, tensor directory, tensor data.
// Source: the GGUF specification (ggml docs/gguf.md). Every number from the file is checked before
// use. Thread-compatible; ReadRows() may be called from several threads.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "proto/gguf/ggml_type.h"

namespace tidegate {

struct GgufTensor {
  std::string name;
  uint32_t type = 0;           // ggml type as in the file; may be one we cannot read
  std::vector<uint64_t> dims;  // GGUF order: dims[0] is the row length (columns)
  uint64_t offset = 0;         // bytes from the start of the file
  uint64_t bytes = 0;          // 0 for types whose size is not known here
  uint64_t first_row = 0;      // of a slice: rows of the file's tensor before it

  uint64_t columns() const { return dims.empty() ? 1 : dims[0]; }
  uint64_t rows() const {
    uint64_t n = 1;
    for (size_t i = 1; i < dims.size(); ++i) n *= dims[i];
    return n;
  }
};

// Rows [first, first + count) of a tensor as a tensor of their own, with its name: how fused
// matrices are taken apart. REQUIRES: the tensor has these rows, and a type that can be read.
GgufTensor SliceRows(const GgufTensor& tensor, uint64_t first, uint64_t count);

using GgufValue = std::variant<uint64_t, int64_t, double, bool, std::string, std::vector<uint64_t>,
                               std::vector<int64_t>, std::vector<double>, std::vector<bool>,
                               std::vector<std::string>>;

class GgufFile {
 public:
  // Errors: NOT_FOUND, INVALID_ARGUMENT (not GGUF, bad version), DATA_LOSS (truncated, damaged).
  static absl::StatusOr<GgufFile> Open(const std::string& path);

  const std::string& path() const { return path_; }
  uint32_t version() const { return version_; }
  uint64_t file_bytes() const { return file_bytes_; }
  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }

  // Typed look-ups. NOT_FOUND names the key; INVALID_ARGUMENT when it has another type or range.
  absl::StatusOr<std::string> GetString(const std::string& key) const;
  absl::StatusOr<uint64_t> GetUint(const std::string& key) const;
  absl::StatusOr<double> GetNumber(const std::string& key) const;
  absl::StatusOr<bool> GetBool(const std::string& key) const;
  bool Has(const std::string& key) const { return metadata_.count(key) != 0; }

  // Null if there is none.
  const GgufTensor* FindTensor(const std::string& name) const;

  // Decoded rows [first, first + count) of a tensor, out [count, columns].
  absl::Status ReadRows(const GgufTensor& tensor, uint64_t first, uint64_t count, float* out) const;
  // Undecoded bytes of a tensor.
  absl::Status ReadBytes(const GgufTensor& tensor, uint64_t offset, uint64_t bytes,
                         void* out) const;

 private:
  absl::Status Parse();

  std::string path_;
  UniqueFd fd_;
  uint32_t version_ = 0;
  uint64_t file_bytes_ = 0;
  std::map<std::string, GgufValue> metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t> tensor_index_;
};

}  // namespace tidegate
