#include "proto/store/v1/static_tensors.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/text.h"
#include "proto/gguf/ggml_type.h"
#include "proto/store/v1/pack_format.h"
#include "proto/store/v1/static_rows.h"

namespace tidegate {
namespace {

absl::Status DamagedTensor(const store::v1::StaticTensor& tensor, const std::string& what) {
  return absl::DataLossError(absl::StrCat("damaged pack: static tensor ", Printable(tensor.name()),
                                          " ", what, "; pack the model again"));
}

}  // namespace

absl::Status CheckStaticTensors(const store::v1::Manifest& manifest, uint64_t static_bytes) {
  uint64_t end = 0;  // of those before
  for (const store::v1::StaticTensor& tensor : manifest.static_tensors()) {
    const absl::StatusOr<GgmlType> type = ToGgmlType(tensor.type());
    if (!type.ok())
      return DamagedTensor(tensor, absl::StrCat("has the unknown type ", tensor.type()));
    const bool fits = tensor.offset() % kStaticAlign == 0 && tensor.offset() <= static_bytes &&
                      tensor.bytes() <= static_bytes - tensor.offset() &&
                      tensor.rows() <= (4u << 20) && tensor.columns() <= (4u << 20) &&
                      tensor.columns() % GgmlBlockElements(*type) == 0 &&
                      tensor.rows() * StaticRowBytes(*type, tensor.columns()) == tensor.bytes();
    if (!fits) return DamagedTensor(tensor, "does not fit");
    const bool by_row = !tensor.row_xxh3().empty();
    const bool last = &tensor == &*manifest.static_tensors().rbegin() && tensor.offset() >= end;
    if (by_row && (!last || static_cast<uint64_t>(tensor.row_xxh3_size()) != tensor.rows())) {
      return DamagedTensor(tensor, "has checksums out of place");
    }
    end = std::max(end, tensor.offset() + tensor.bytes());
  }
  return absl::OkStatus();
}

}  // namespace tidegate
