// One LoRA adapter in GGUF: a model's matrix W becomes W + factor * B A with A [rank, in] and
// B [out, rank]. Whether the model has such a matrix is the caller's business.
// Source: the adapter files of llama.cpp (keys adapter.*, tensors NAME.lora_a and NAME.lora_b).
// Every number from the file is checked before use. Thread-safe after Open().
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/gguf/gguf_parts.h"

namespace tidegate {

struct LoraSource {
  std::string path;
  float scale = 1;
};

// "adapter.gguf=0.5" or "adapter.gguf" (scale 1). INVALID_ARGUMENT shows how to write it.
absl::StatusOr<LoraSource> ParseLoraSource(const std::string& text);

// "adapter.gguf=0.5": without the folder, for people and for comparing; other bytes than ASCII are
// escaped.
std::string LoraName(const LoraSource& source);

class LoraFile {
 public:
  struct Pair {
    std::string target;  // name of the model's matrix
    GgufTensor a, b;
    float factor = 0;  // scale * alpha / rank
    uint64_t rank() const { return a.rows(); }
  };

  // INVALID_ARGUMENT says what is wrong: no adapter, not for a model of `architecture`, half a
  // pair, a tensor type. Errors do not name the file.
  static absl::StatusOr<LoraFile> Open(const LoraSource& source, const std::string& architecture);

  const std::vector<Pair>& pairs() const { return pairs_; }
  // Base name and scale: "adapter.gguf x 0.5".
  const std::string& description() const { return description_; }

  // Decoded rows [first, first + count) of a factor, out [count, columns]. DATA_LOSS names the
  // place of a value that is not finite. REQUIRES: it has them.
  absl::Status ReadRows(const GgufTensor& factor, uint64_t first, uint64_t count, float* out) const;

 private:
  UniqueFd fd_;
  std::vector<Pair> pairs_;
  std::string description_;
};

// INVALID_ARGUMENT if the pair changes a matrix of a layer, and the model has fewer layers.
absl::Status CheckLoraLayer(const LoraFile::Pair& pair, uint64_t layers);

// INVALID_ARGUMENT unless the pair's product has the shape of its target, [rows, columns].
absl::Status CheckLoraShape(const LoraFile::Pair& pair, uint64_t rows, uint64_t columns);

}  // namespace tidegate
