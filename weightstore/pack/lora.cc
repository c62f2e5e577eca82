#include "weightstore/pack/lora.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

constexpr uint64_t kMaxRank = 4096;
constexpr uint64_t kChunkBytes = 4 << 20;  // of A, decoded, at a time

// alpha of a LoRA adapter for the model; 0 means that no alpha was recorded.
absl::StatusOr<double> CheckedAlpha(const GgufFile& file, const GgufFile& model) {
  const auto type = file.GetString("adapter.type");
  if (!type.ok() || *type != "lora") {
    return absl::InvalidArgumentError(
        "not a LoRA adapter (metadata key adapter.type is not 'lora')");
  }
  ASSIGN_OR_RETURN(const std::string wanted, model.GetString("general.architecture"));
  const auto architecture = file.GetString("general.architecture");
  if (!architecture.ok() || *architecture != wanted) {
    return absl::InvalidArgumentError(absl::StrCat("the adapter is not for a ", wanted, " model"));
  }
  if (!file.Has("adapter.lora.alpha")) return 0.0;
  return file.GetNumber("adapter.lora.alpha");
}

// Checks the pair of factors against the matrix that they change.
absl::Status CheckPair(const GgufTensor* target, const GgufTensor& a, const GgufTensor* b,
                       const std::string& name) {
  if (target == nullptr || target->dims.size() != 2 || name == "token_embd.weight") {
    return absl::InvalidArgumentError(
        absl::StrCat("it changes ", name, ", which is no matrix that can be merged"));
  }
  if (b == nullptr)
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, ".lora_b is missing"));
  const uint64_t rank = a.rows();
  const bool fits = rank <= kMaxRank && b->columns() == rank && a.columns() == target->columns() &&
                    b->rows() == target->rows();
  if (!fits) {
    return absl::InvalidArgumentError(absl::StrCat(
        "its ", name, ".lora_a [", rank, ", ", a.columns(), "] and .lora_b [", b->rows(), ", ",
        b->columns(), "] do not fit the model's [", target->rows(), ", ", target->columns(), "]"));
  }
  for (const GgufTensor* factor : {&a, b}) {
    const auto type = ToGgmlType(factor->type);
    if (!type.ok()) return Annotate(type.status(), factor->name);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LoraSet> LoraSet::Open(const GgufFile& model,
                                      const std::vector<LoraSource>& sources) {
  LoraSet set;
  for (const LoraSource& source : sources) {
    RETURN_IF_ERROR(Annotate(set.AddAdapter(model, source), absl::StrCat("adapter ", source.path)));
  }
  return set;
}

absl::Status LoraSet::AddAdapter(const GgufFile& model, const LoraSource& source) {
  if (!std::isfinite(source.scale))
    return absl::InvalidArgumentError("the scale is not a finite number");
  auto opened = GgufFile::Open(source.path);
  if (!opened.ok()) return opened.status();
  files_.push_back(std::make_unique<GgufFile>(*std::move(opened)));
  const GgufFile& file = *files_.back();
  ASSIGN_OR_RETURN(const double alpha, CheckedAlpha(file, model));
  for (const GgufTensor& tensor : file.tensors()) {
    std::string name(absl::StripSuffix(tensor.name, ".lora_a"));
    if (name == tensor.name) {
      name = std::string(absl::StripSuffix(tensor.name, ".lora_b"));
      if (name != tensor.name && file.FindTensor(name + ".lora_a") != nullptr) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", tensor.name, " is not half of a pair"));
    }
    const GgufTensor* b = file.FindTensor(name + ".lora_b");
    RETURN_IF_ERROR(CheckPair(model.FindTensor(name), tensor, b, name));
    const double factor =
        alpha == 0 ? source.scale : source.scale * alpha / static_cast<double>(tensor.rows());
    deltas_[name].push_back({&file, &tensor, b, static_cast<float>(factor)});
  }
  absl::StrAppend(&description_, description_.empty() ? "" : ", ",
                  std::filesystem::path(source.path).filename().string(), " x ", source.scale);
  return absl::OkStatus();
}

absl::Status LoraSet::AddTo(const GgufTensor& tensor, uint64_t first, uint64_t count,
                            float* rows) const {
  const auto found = deltas_.find(tensor.name);
  if (found == deltas_.end()) return absl::OkStatus();
  for (const Delta& delta : found->second) {
    RETURN_IF_ERROR(AddDelta(delta, tensor.first_row + first, count, tensor.columns(), rows));
  }
  return absl::OkStatus();
}

absl::Status LoraSet::AddDelta(const Delta& delta, uint64_t first, uint64_t count, uint64_t columns,
                               float* rows) {
  const uint64_t rank = delta.a->rows();
  std::vector<float> b(count * rank);
  RETURN_IF_ERROR(delta.file->ReadRows(*delta.b, first, count, b.data()));
  const uint64_t step = std::clamp<uint64_t>(kChunkBytes / (columns * sizeof(float)), 1, rank);
  std::vector<float> a(step * columns);
  for (uint64_t k = 0; k < rank; k += step) {
    const uint64_t n = std::min(step, rank - k);
    RETURN_IF_ERROR(delta.file->ReadRows(*delta.a, k, n, a.data()));
    for (uint64_t r = 0; r < count; ++r) {
      for (uint64_t i = 0; i < n; ++i) {
        const float weight = delta.factor * b[r * rank + k + i];
        const float* from = &a[i * columns];
        float* to = rows + r * columns;
        for (uint64_t c = 0; c < columns; ++c) to[c] += weight * from[c];
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace tidegate
