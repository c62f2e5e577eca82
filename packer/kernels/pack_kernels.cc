#include "packer/kernels/pack_kernels.h"

#include <array>
#include <cstring>

#include "packer/kernels/simd_pack_kernels.h"

namespace tidegate {
namespace {

// A column's share of a slab, as its sums see it.
void AddToSums(const float* source, const float* stored, size_t column, SlabSums sums) {
  for (size_t r = 0; r < kSlabRows; ++r) {
    const double delta = static_cast<double>(stored[r]) - source[r];
    sums.difference[column] += delta * delta;
    sums.source[column] += static_cast<double>(source[r]) * source[r];
    sums.stored[column] += static_cast<double>(stored[r]) * stored[r];
  }
}

void EncodeScalar(UnitEncoding encoding, const float* rows, size_t stride, size_t columns,
                  SlabSums sums, EncodedSlab& out) {
  constexpr size_t kMaxBytes = kChunkBytes * (1 + kMaxChunks);
  const size_t scale_bytes = ColumnScaleBytes(encoding, kSlabRows);
  for (size_t c = 0; c < columns; ++c) {
    float source[kSlabRows], decoded[kSlabRows];
    for (size_t r = 0; r < kSlabRows; ++r) source[r] = rows[r * stride + c];
    uint8_t stored[kMaxBytes];
    EncodeColumn(encoding, source, kSlabRows, stored);
    DecodeColumn(encoding, stored, kSlabRows, decoded);
    if (scale_bytes > 0) std::memcpy(&out.scales[c], stored, sizeof(out.scales[c]));
    for (size_t k = 0; k < SlabChunks(encoding); ++k) {
      std::memcpy(out.chunks[k][c], stored + scale_bytes + k * kChunkBytes, kChunkBytes);
    }
    AddToSums(source, decoded, c, sums);
  }
}

struct Supported {
  Supported() {
    tables[count++] = &ScalarPackKernels();
    count += RunnableSimdPackKernels(std::span(tables).last<kMaxSimdPackKernels>());
  }
  std::array<const PackKernels*, 1 + kMaxSimdPackKernels> tables{};
  size_t count = 0;
};

const Supported& Tables() {
  static const Supported supported;  // Asks the CPU once.
  return supported;
}

}  // namespace

const PackKernels& ScalarPackKernels() {
  static const PackKernels table = {
      .name = "scalar", .decode = DecodeGgmlRow, .encode = EncodeScalar};
  return table;
}

std::span<const PackKernels* const> SupportedPackKernels() {
  return std::span(Tables().tables).first(Tables().count);
}

const PackKernels& BestPackKernels() { return *SupportedPackKernels().back(); }

}  // namespace tidegate
