#include "proto/store/v1/static_rows.h"

#include <cstring>

#include "proto/store/v1/unit_codec.h"

namespace tidegate {
namespace {

// The unit encoding whose scales and codes are those of `type`. REQUIRES: HasColumnLayout(type).
UnitEncoding SameCodes(GgmlType type) {
  return type == GgmlType::kQ4_0 ? UnitEncoding::kQ4 : UnitEncoding::kQ8;
}

}  // namespace

bool HasColumnLayout(GgmlType type) { return type == GgmlType::kQ8_0 || type == GgmlType::kQ4_0; }

size_t StaticRowBytes(GgmlType type, size_t columns) {
  return HasColumnLayout(type) ? ColumnBytes(SameCodes(type), columns)
                               : GgmlRowBytes(type, columns);
}

size_t StaticScaleBytes(GgmlType type, size_t columns) {
  return HasColumnLayout(type) ? ColumnScaleBytes(SameCodes(type), columns) : 0;
}

void StoreStaticRow(GgmlType type, const uint8_t* gguf_row, size_t columns, uint8_t* out) {
  if (!HasColumnLayout(type)) {
    std::memcpy(out, gguf_row, GgmlRowBytes(type, columns));
    return;
  }
  const size_t block_bytes = GgmlBlockBytes(type);
  const size_t code_bytes = block_bytes - sizeof(uint16_t);
  const size_t scale_bytes = StaticScaleBytes(type, columns);
  const size_t blocks = columns / GgmlBlockElements(type);
  std::memset(out, 0, scale_bytes);
  for (size_t b = 0; b < blocks; ++b) {
    const uint8_t* block = gguf_row + b * block_bytes;
    std::memcpy(out + b * sizeof(uint16_t), block, sizeof(uint16_t));
    std::memcpy(out + scale_bytes + b * code_bytes, block + sizeof(uint16_t), code_bytes);
  }
}

void DecodeStaticRow(GgmlType type, const void* row, size_t columns, float* out) {
  if (HasColumnLayout(type)) {
    DecodeColumn(SameCodes(type), static_cast<const uint8_t*>(row), columns, out);
  } else {
    DecodeGgmlRow(type, row, columns, out);
  }
}

}  // namespace tidegate
