// The specification of matmul.h: a packed token is a row of floats, rounded where the arithmetic
// says so, and every output one chain of fused multiply-adds. Slow.
#include <cmath>
#include <vector>

#include "engine/kernels/matmul_panel.h"
#include "proto/store/v1/static_rows.h"

namespace tidegate {

namespace {

template <bool kBf16>
float Operand(float value) {
  return kBf16 ? RoundToBf16(value) : value;
}

size_t PackedBytes(size_t tokens, size_t depth) { return tokens * depth * sizeof(float); }

template <bool kBf16>
void Pack(const TokensView& x, size_t begin, size_t end, void* packed) {
  for (size_t t = begin; t < end; ++t) {
    for (size_t k = 0; k < x.depth; ++k) {
      const float value = x.data[t * x.stride + (x.index == nullptr ? k : x.index[k])];
      static_cast<float*>(packed)[t * x.depth + k] = Operand<kBf16>(value);
    }
  }
}

template <bool kBf16>
void MultiplyRows(const MatrixView& w, size_t begin, size_t end, const void* packed, size_t tokens,
                  float* y, size_t y_stride) {
  const auto* x = static_cast<const float*>(packed);
  std::vector<float> row(w.columns);
  for (size_t r = begin; r < end; ++r) {
    DecodeStaticRow(w.type, w.Row(r), w.columns, row.data());
    for (size_t t = 0; t < tokens; ++t) {
      float sum = 0;
      for (size_t c = 0; c < w.columns; ++c) {
        sum = std::fma(Operand<kBf16>(row[c]), x[t * w.columns + c], sum);
      }
      y[t * y_stride + r] = sum;
    }
  }
}

template <bool kBf16>
void AddColumns(const ColumnsView& w, size_t begin, size_t end, const void* packed, size_t tokens,
                float* y, size_t y_stride) {
  const auto* x = static_cast<const float*>(packed);
  std::vector<float> column(w.elements);
  for (size_t k = 0; k < w.count; ++k) {
    DecodeColumn(w.encoding, w.columns[k], w.elements, column.data());
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t j = begin; j < end; ++j) {
        float& sum = y[t * y_stride + j];
        sum = std::fma(Operand<kBf16>(column[j]), x[t * w.count + k], sum);
      }
    }
  }
}

template <bool kBf16>
constexpr MatmulKernels kTable = {.name = kBf16 ? "scalar_bf16" : "scalar_f32",
                                  .packed_bytes = PackedBytes,
                                  .pack = Pack<kBf16>,
                                  .multiply_rows = MultiplyRows<kBf16>,
                                  .add_columns = AddColumns<kBf16>};

}  // namespace

const MatmulKernels& ScalarMatmul(bool bf16) { return bf16 ? kTable<true> : kTable<false>; }

}  // namespace tidegate
