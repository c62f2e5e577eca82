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
#include "proto/gguf/ggml_type.h"
#include "proto/gguf/gguf_parts.h"

namespace tidegate {

// Rows [first, first + count) of a tensor as a tensor of their own, with its name: how fused
// matrices are taken apart. REQUIRES: the tensor has these rows, and a type that can be read.
GgufTensor SliceRows(const GgufTensor& tensor, uint64_t first, uint64_t count);

class SourceModel {
 public:
  // A GGUF file, any file of a split model (all must be there), or a Hugging Face folder. Errors:
  // NOT_FOUND, INVALID_ARGUMENT (no such format, bad version), DATA_LOSS (truncated, damaged).
  static absl::StatusOr<SourceModel> Open(const std::string& path);

  const std::string& path() const { return parts_.path; }
  bool is_folder() const { return parts_.version == 0; }  // Hugging Face's format
  uint32_t version() const { return parts_.version; }
  uint64_t file_bytes() const { return parts_.file_bytes; }
  size_t file_count() const { return parts_.files.size(); }
  const std::map<std::string, GgufValue>& metadata() const { return parts_.metadata; }
  const std::vector<GgufTensor>& tensors() const { return parts_.tensors; }
  const std::vector<std::string>& ignored_keys() const { return parts_.ignored_keys; }

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
  static absl::StatusOr<SourceModel> FromParts(ModelParts parts);
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
