#include "packer/lora.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

constexpr uint64_t kFactorChunkBytes = 4 << 20;  // of A, decoded, at a time

}  // namespace

absl::StatusOr<LoraSet> LoraSet::Open(const SourceModel& model,
                                      const std::vector<LoraSource>& sources) {
  LoraSet set;
  for (const LoraSource& source : sources) {
    RETURN_IF_ERROR(Annotate(set.AddAdapter(model, source), absl::StrCat("adapter ", source.path)));
  }
  return set;
}

absl::Status LoraSet::AddAdapter(const SourceModel& model, const LoraSource& source) {
  ASSIGN_OR_RETURN(const std::string architecture, model.GetString("general.architecture"));
  ASSIGN_OR_RETURN(LoraFile opened, LoraFile::Open(source, architecture));
  files_.push_back(std::make_unique<const LoraFile>(std::move(opened)));
  const LoraFile& file = *files_.back();
  ASSIGN_OR_RETURN(const uint64_t layers, model.GetUint(architecture + ".block_count"));
  for (const LoraFile::Pair& pair : file.pairs()) {
    RETURN_IF_ERROR(CheckLoraLayer(pair, layers));
    const GgufTensor* target = model.FindTensor(pair.target);
    if (target == nullptr || target->dims.size() != 2 || pair.target == "token_embd.weight") {
      return absl::InvalidArgumentError(
          absl::StrCat("it changes ", pair.target, ", which is no matrix that can be merged"));
    }
    RETURN_IF_ERROR(CheckLoraShape(pair, target->rows(), target->columns()));
    deltas_[pair.target].push_back({&file, &pair});
  }
  names_.push_back(LoraName(source));
  return absl::OkStatus();
}

absl::Status LoraSet::AddTo(const GgufTensor& tensor, uint64_t first, uint64_t count,
                            float* rows) const {
  const auto found = deltas_.find(tensor.name);
  if (found == deltas_.end()) return absl::OkStatus();
  for (const Delta& delta : found->second) {
    const absl::Status added =
        AddDelta(delta, tensor.first_row + first, count, tensor.columns(), rows);
    if (!added.ok()) return Annotate(added, absl::StrCat("adapter ", delta.file->description()));
  }
  return absl::OkStatus();
}

absl::Status LoraSet::AddDelta(const Delta& delta, uint64_t first, uint64_t count, uint64_t columns,
                               float* rows) {
  const uint64_t rank = delta.pair->rank();
  std::vector<float> b(count * rank);
  RETURN_IF_ERROR(delta.file->ReadRows(delta.pair->b, first, count, b.data()));
  const uint64_t step =
      std::clamp<uint64_t>(kFactorChunkBytes / (columns * sizeof(float)), 1, rank);
  std::vector<float> a(step * columns);
  for (uint64_t k = 0; k < rank; k += step) {
    const uint64_t n = std::min(step, rank - k);
    RETURN_IF_ERROR(delta.file->ReadRows(delta.pair->a, k, n, a.data()));
    for (uint64_t r = 0; r < count; ++r) {
      for (uint64_t i = 0; i < n; ++i) {
        const float weight = delta.pair->factor * b[r * rank + k + i];
        const float* from = &a[i * columns];
        float* to = rows + r * columns;
        for (uint64_t c = 0; c < columns; ++c) to[c] += weight * from[c];
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace tidegate
