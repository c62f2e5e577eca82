#include "proto/store/v1/static_rows.h"

#include <cstring>

#include "proto/store/v1/unit_codec.h"

namespace tidegate {
namespace {

// The unit encoding whose scales and codes are those of `type`. REQUIRES: HasColumnLayout(type).
UnitEncoding SameCodes(GgmlType type) {
  return type == GgmlType::kQ4_0 ? UnitEncoding::kQ4 : UnitEncoding::kQ8;
}

// Blocks of a half scale and kCodeBytes of codes: all scales, all codes.
template <size_t kCodeBytes>
void SplitBlocks(const uint8_t* block, size_t blocks, uint8_t* scales, uint8_t* codes) {
  for (size_t b = 0; b < blocks; ++b) {
    std::memcpy(scales + b * sizeof(uint16_t), block, sizeof(uint16_t));
    std::memcpy(codes + b * kCodeBytes, block + sizeof(uint16_t), kCodeBytes);
    block += sizeof(uint16_t) + kCodeBytes;
  }
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
  const size_t scale_bytes = StaticScaleBytes(type, columns);
  const size_t blocks = columns / GgmlBlockElements(type);
  std::memset(out, 0, scale_bytes);
  if (type == GgmlType::kQ4_0) {
    SplitBlocks<16>(gguf_row, blocks, out, out + scale_bytes);
  } else {
    SplitBlocks<32>(gguf_row, blocks, out, out + scale_bytes);
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
