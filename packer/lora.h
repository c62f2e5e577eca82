// LoRA adapters (proto/gguf/lora_file.h) added to the weights of a model while its rows are read.
// Nothing of an adapter is kept in memory but its directory. Thread-safe after Open().
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "packer/source_model.h"
#include "proto/gguf/lora_file.h"

namespace tidegate {

class LoraSet {
 public:
  LoraSet() = default;  // no adapters

  // INVALID_ARGUMENT names the adapter and what does not fit the model.
  static absl::StatusOr<LoraSet> Open(const SourceModel& model,
                                      const std::vector<LoraSource>& sources);

  bool Touches(const std::string& tensor) const { return deltas_.count(tensor) != 0; }

  // Adds to rows [first, first + count) of a matrix, rows [count, columns].
  absl::Status AddTo(const GgufTensor& tensor, uint64_t first, uint64_t count, float* rows) const;

  // As LoraName() has them, for the manifest.
  const std::vector<std::string>& names() const { return names_; }

 private:
  struct Delta {
    const LoraFile* file;
    const LoraFile::Pair* pair;
  };

  absl::Status AddAdapter(const SourceModel& model, const LoraSource& source);
  static absl::Status AddDelta(const Delta& delta, uint64_t first, uint64_t count, uint64_t columns,
                               float* rows);

  std::vector<std::unique_ptr<const LoraFile>> files_;
  std::map<std::string, std::vector<Delta>> deltas_;  // by the model's tensor
  std::vector<std::string> names_;
};

}  // namespace tidegate
