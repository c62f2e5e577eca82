#include "packer/weight_check.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "packer/parallel_for.h"
#include "packer/read_ahead.h"
#include "proto/gguf/finite.h"

namespace tidegate {
namespace {

constexpr uint64_t kCheckedBandBytes = 8 << 20;  // read at a time

// "row 3, column 7 is nan"; vectors have elements.
absl::Status Refuse(const GgufTensor& tensor, uint64_t row, uint64_t column, float value,
                    const char* why) {
  const std::string place = tensor.dims.size() < 2
                                ? absl::StrCat("element ", column)
                                : absl::StrCat("row ", tensor.first_row + row, ", column ", column);
  return absl::DataLossError(absl::StrCat(
      "tensor ", tensor.name, ": ", place, " is ", value, ", ", why,
      "; the file is damaged or was converted wrongly: copy, download or convert it again"));
}

bool IsRotation(const GgufTensor& tensor) { return absl::StartsWith(tensor.name, "rope_f"); }

bool IsVector(const GgufTensor& tensor) { return tensor.rows() == 1; }

// Every tensor of the plan once, in the order of the files.
std::vector<const GgufTensor*> TensorsOf(const SourceModel& source, const PackPlan& plan) {
  std::vector<const GgufTensor*> tensors;
  const auto add = [&](const GgufTensor* part) {  // a slice has the name of the whole
    if (part != nullptr) tensors.push_back(source.FindTensor(part->name));
  };
  for (const GgufTensor* tensor : plan.statics) add(tensor);
  for (const LayerMatrices& layer : plan.layers) {
    for (const GgufTensor* matrix : {layer.gate, layer.up, layer.down}) add(matrix);
  }
  std::sort(tensors.begin(), tensors.end());
  tensors.erase(std::unique(tensors.begin(), tensors.end()), tensors.end());
  return tensors;
}

uint64_t BandRows(const GgufTensor& tensor) {
  const uint64_t row_bytes = std::max<uint64_t>(1, tensor.bytes / tensor.rows());
  return std::clamp<uint64_t>(kCheckedBandBytes / row_bytes, 1, tensor.rows());
}

absl::Status CheckBand(const SourceModel& source, const GgufTensor& tensor, uint64_t first,
                       uint64_t count, ReadAhead& input) {
  if (tensor.translated()) {
    std::vector<float> rows(count * tensor.columns());
    RETURN_IF_ERROR(source.ReadRows(tensor, first, count, rows.data()));
    return CheckRows(tensor, first, count, GgmlType::kF32, rows.data());
  }
  ASSIGN_OR_RETURN(const std::span<const uint8_t> rows, input.Take(tensor, first, count));
  const uint64_t row_bytes = rows.size() / count;
  return ParallelFor(RowPieces(count), PackThreads(), [&](uint64_t piece) {
    const uint64_t row = piece * kPieceRows;
    return CheckRows(tensor, first + row, std::min(kPieceRows, count - row),
                     static_cast<GgmlType>(tensor.type), &rows[row * row_bytes]);
  });
}

}  // namespace

absl::Status CheckRows(const GgufTensor& tensor, uint64_t first, uint64_t count, GgmlType type,
                       const void* rows) {
  const uint64_t columns = tensor.columns();
  if (const auto bad = FirstNotFinite(type, rows, count * columns)) {
    const uint64_t row = *bad / columns;
    std::vector<float> decoded(columns);
    DecodeGgmlRow(type, static_cast<const uint8_t*>(rows) + row * GgmlRowBytes(type, columns),
                  columns, decoded.data());
    return Refuse(tensor, first + row, *bad % columns, decoded[*bad % columns],
                  "not a finite number");
  }
  if (!IsRotation(tensor)) return absl::OkStatus();
  std::vector<float> divisors(count * columns);
  DecodeGgmlRow(type, rows, divisors.size(), divisors.data());
  for (uint64_t i = 0; i < divisors.size(); ++i) {
    if (divisors[i] > 0) continue;
    return Refuse(tensor, first + i / columns, i % columns, divisors[i], "not positive");
  }
  return absl::OkStatus();
}

uint64_t WeightBytes(const PackPlan& plan) {
  uint64_t bytes = plan.static_bytes;
  for (const LayerMatrices& layer : plan.layers) {
    for (const GgufTensor* matrix : {layer.gate, layer.up, layer.down}) {
      if (matrix != nullptr) bytes += matrix->bytes;
    }
  }
  return bytes;
}

absl::Status CheckWeights(const SourceModel& source, const PackPlan& plan, bool only_vectors,
                          const PackProgress& progress) {
  std::vector<const GgufTensor*> tensors = TensorsOf(source, plan);
  if (only_vectors) std::erase_if(tensors, [](const GgufTensor* t) { return !IsVector(*t); });
  ReadAhead input(source);
  uint64_t done = 0, total = 0;
  for (const GgufTensor* tensor : tensors) {
    total += tensor->bytes;
    const uint64_t rows = tensor->rows(), band = BandRows(*tensor);
    for (uint64_t row = 0; row < rows && !tensor->translated(); row += band) {
      input.Expect(*tensor, row, std::min(band, rows - row));
    }
  }
  for (const GgufTensor* tensor : tensors) {
    const uint64_t rows = tensor->rows(), band = BandRows(*tensor);
    for (uint64_t row = 0; row < rows; row += band) {
      RETURN_IF_ERROR(CheckBand(source, *tensor, row, std::min(band, rows - row), input));
    }
    done += tensor->bytes;
    if (progress) progress(done, total);
  }
  return absl::OkStatus();
}

}  // namespace tidegate
