#include "engine/embedding.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "proto/store/v1/static_rows.h"

namespace tidegate {

absl::Status Embedding::Decode(std::span<const TokenId> tokens, float* out) const {
  std::vector<uint64_t> rows;
  for (const TokenId token : tokens) {
    if (token < 0 || static_cast<uint64_t>(token) >= tensor_->rows()) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", token, " has no row: the ", "embedding has ", tensor_->rows()));
    }
    rows.push_back(static_cast<uint64_t>(token));
  }
  const size_t columns = tensor_->columns();
  const size_t row_bytes = StaticRowBytes(type_, columns);
  std::vector<std::byte> read;
  if (!client_->InRegion(*tensor_)) {
    read.resize(rows.size() * row_bytes);
    const absl::Status status = client_->ReadStaticRows(*tensor_, rows, read.data());
    // The store, which counts damaged blocks, knows nothing of it.
    if (absl::IsDataLoss(status) || absl::IsUnavailable(status)) LogError(status.message());
    RETURN_IF_ERROR(status);
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::byte* row =
        read.empty() ? client_->StaticData(*tensor_) + rows[i] * row_bytes : &read[i * row_bytes];
    DecodeStaticRow(type_, row, columns, out + i * columns);
  }
  return absl::OkStatus();
}

}  // namespace tidegate
