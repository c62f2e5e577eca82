// A model as its files describe it: metadata, tensor directory, tensor data. Keys, tensor names and
// the order of rows are always GGUF's; the files are GGUF, versions 2 and 3, also split ones, or a
// Hugging Face folder (hf_folder.h), which is translated.
// Source: the GGUF specification (ggml docs/gguf.md). Every number from the file is checked before
// use. Thread-compatible; ReadRows() and ReadBytes() may be called from several threads.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "base/aligned_buffer.h"
#include "base/direct_file.h"
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
  uint32_t file = 0;           // which of the model's files

  // How the values of another format become GGUF's; nothing of it in GGUF files.
  uint32_t head_rows = 0;  // rows of a head (elements, of a vector) whose halves are interleaved
  float plus = 0;          // added to every value that ReadRows() gives

  uint64_t columns() const { return dims.empty() ? 1 : dims[0]; }
  uint64_t rows() const {
    uint64_t n = 1;
    for (size_t i = 1; i < dims.size(); ++i) n *= dims[i];
    return n;
  }
  // Whether what lies in a row is not yet what ReadRows() gives, decoding aside.
  bool translated() const { return plus != 0 || (head_rows != 0 && dims.size() <= 1); }
};

// Rows [first, first + count) of a tensor as a tensor of their own, with its name: how fused
// matrices are taken apart. REQUIRES: the tensor has these rows, and a type that can be read.
GgufTensor SliceRows(const GgufTensor& tensor, uint64_t first, uint64_t count);

using GgufValue = std::variant<uint64_t, int64_t, double, bool, std::string, std::vector<uint64_t>,
                               std::vector<int64_t>, std::vector<double>, std::vector<bool>,
                               std::vector<std::string>>;

// What a GgufFile is made of; filled by the readers of the formats.
struct ModelParts {
  std::string path;
  uint32_t version = 0;     // of GGUF; 0: another format
  uint64_t file_bytes = 0;  // of all files
  std::vector<UniqueFd> files;
  std::map<std::string, GgufValue> metadata;
  std::vector<GgufTensor> tensors;
};

class GgufFile {
 public:
  // A GGUF file, any file of a split model (all must be there), or a Hugging Face folder. Errors:
  // NOT_FOUND, INVALID_ARGUMENT (no such format, bad version), DATA_LOSS (truncated, damaged).
  static absl::StatusOr<GgufFile> Open(const std::string& path);

  const std::string& path() const { return parts_.path; }
  bool is_folder() const { return parts_.version == 0; }  // Hugging Face's format
  uint32_t version() const { return parts_.version; }
  uint64_t file_bytes() const { return parts_.file_bytes; }
  size_t file_count() const { return parts_.files.size(); }
  const std::map<std::string, GgufValue>& metadata() const { return parts_.metadata; }
  const std::vector<GgufTensor>& tensors() const { return parts_.tensors; }

  // Typed look-ups. NOT_FOUND names the key; INVALID_ARGUMENT when it has another type or range.
  absl::StatusOr<std::string> GetString(const std::string& key) const;
  absl::StatusOr<uint64_t> GetUint(const std::string& key) const;
  absl::StatusOr<double> GetNumber(const std::string& key) const;
  absl::StatusOr<bool> GetBool(const std::string& key) const;
  bool Has(const std::string& key) const { return parts_.metadata.count(key) != 0; }

  // Null if there is none.
  const GgufTensor* FindTensor(const std::string& name) const;

  // Decoded rows [first, first + count) of a tensor, out [count, columns].
  absl::Status ReadRows(const GgufTensor& tensor, uint64_t first, uint64_t count, float* out) const;
  // Undecoded bytes of a tensor. REQUIRES: whole rows, where it has head_rows.
  absl::Status ReadBytes(const GgufTensor& tensor, uint64_t offset, uint64_t bytes,
                         void* out) const;
  // The same for large pieces, past the page cache; they begin at the returned address, inside of
  // `buffer`.
  absl::StatusOr<const uint8_t*> ReadBytes(const GgufTensor& tensor, uint64_t offset,
                                           uint64_t bytes, AlignedBuffer& buffer) const;

 private:
  static absl::StatusOr<GgufFile> FromParts(ModelParts parts);
  static absl::Status CheckRange(const GgufTensor& tensor, uint64_t offset, uint64_t bytes);
  // Says which tensor could not be read.
  absl::Status ReadError(const absl::Status& status, const GgufTensor& tensor) const;
  // Bytes as they lie in the file.
  absl::Status ReadRange(const GgufTensor& tensor, uint64_t offset, uint64_t bytes,
                         void* out) const;

  ModelParts parts_;
  std::vector<DirectFile> direct_;  // of parts_.files
  std::map<std::string, size_t> tensor_index_;
};

}  // namespace tidegate
