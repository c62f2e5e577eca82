// The arithmetic of packing as a table of functions, chosen once for the CPU: rows of a source
// become floats, and 32 rows at a time become stored columns. No memory, no threads, no files.
//
// A column of a matrix runs across rows. Vectors therefore hold neighbouring columns, one per lane,
// and walk down the rows: nothing is transposed but the finished codes. Every lane does what
// EncodeColumn() and DecodeColumn() of unit_codec.h do for its column, operation by operation, so
// that all tables give the same bytes and the same sums; ScalarPackKernels(), which calls those
// two, is the specification. NaN aside: which NaN comes out is not specified. Safe to call from any
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "proto/gguf/ggml_type.h"
#include "proto/store/v1/unit_codec.h"

namespace tidegate {

// Rows and columns that one call of `encode` takes. Columns are padded with zeros to a multiple of
// kSlabLanes.
inline constexpr size_t kSlabRows = kQuantGroup;
inline constexpr size_t kSlabColumns = 256;
inline constexpr size_t kSlabLanes = 16;
inline constexpr size_t kChunkBytes = 16;
inline constexpr size_t kMaxChunks = kSlabRows * sizeof(float) / kChunkBytes;

// What a slab becomes. A column's part of it is `SlabChunks(encoding)` chunks of 16 bytes, which
// follow one another in the stored column, and a half scale where the encoding has groups.
struct EncodedSlab {
  alignas(64) uint8_t chunks[kMaxChunks][kSlabColumns][kChunkBytes];
  alignas(64) uint16_t scales[kSlabColumns];
};

constexpr size_t SlabChunks(UnitEncoding encoding) {
  return encoding == UnitEncoding::kQ4    ? 1
         : encoding == UnitEncoding::kQ8  ? 2
         : encoding == UnitEncoding::kF16 ? 4
                                          : kMaxChunks;
}

// Per column, over all its rows so far; `encode` adds to them row by row.
struct SlabSums {
  double* difference;  // (stored - source)^2
  double* source;      // source^2
  double* stored;      // stored^2
};

struct PackKernels {
  std::string_view name;
  // As DecodeGgmlRow().
  void (*decode)(GgmlType type, const void* row, size_t elements, float* out);
  // rows [kSlabRows, stride], of which the first `columns` <= kSlabColumns take part.
  void (*encode)(UnitEncoding encoding, const float* rows, size_t stride, size_t columns,
                 SlabSums sums, EncodedSlab& out);
};

const PackKernels& ScalarPackKernels();
// The fastest table that this CPU runs.
const PackKernels& BestPackKernels();
// All that it runs, for tests; the scalar one first.
std::span<const PackKernels* const> SupportedPackKernels();

}  // namespace tidegate
