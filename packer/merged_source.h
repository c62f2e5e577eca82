// A model with the adapters that are merged into it, row by row. Thread-safe; model and adapters
// must outlive it.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "packer/lora.h"
#include "packer/source_model.h"

namespace tidegate {

class MergedSource {
 public:
  MergedSource(const SourceModel& model, const LoraSet& adapters)
      : model_(model), adapters_(adapters) {}

  const SourceModel& model() const { return model_; }

  // Whether the bytes of the source's rows say all; otherwise ReadRows() has to be asked.
  bool IsPlain(const GgufTensor& tensor) const {
    return !tensor.translated() && !adapters_.Touches(tensor.name);
  }

  // Rows [first, first + count) as floats, out [count, columns]; helper threads share them.
  // Errors: those of the source; DATA_LOSS where a weight is not finite, INVALID_ARGUMENT where it
  // is not after merging.
  absl::Status ReadRows(const GgufTensor& tensor, uint64_t first, uint64_t count, float* out) const;

 private:
  const SourceModel& model_;
  const LoraSet& adapters_;
};

}  // namespace tidegate
