#include "packer/merged_source.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "packer/parallel_for.h"
#include "packer/weight_check.h"

namespace tidegate {

absl::Status MergedSource::ReadRows(const GgufTensor& tensor, uint64_t first, uint64_t count,
                                    float* out) const {
  return ParallelFor(RowPieces(count), PackThreads(), [&](uint64_t piece) -> absl::Status {
    const uint64_t row = piece * kPieceRows, n = std::min(kPieceRows, count - row);
    float* const rows = out + row * tensor.columns();
    RETURN_IF_ERROR(model_.ReadRows(tensor, first + row, n, rows));
    RETURN_IF_ERROR(CheckRows(tensor, first + row, n, GgmlType::kF32, rows));
    if (!adapters_.Touches(tensor.name)) return absl::OkStatus();
    RETURN_IF_ERROR(adapters_.AddTo(tensor, first + row, n, rows));
    const absl::Status sum = CheckRows(tensor, first + row, n, GgmlType::kF32, rows);
    if (sum.ok()) return sum;
    return absl::InvalidArgumentError(
        absl::StrCat("an adapter is merged with too large a scale: ", sum.message()));
  });
}

}  // namespace tidegate
