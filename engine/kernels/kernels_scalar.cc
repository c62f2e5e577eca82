// The specification: one loop per formula of kernels.h, no instruction set, no blocking. Slow.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "engine/kernels/kernels.h"
#include "proto/store/v1/static_rows.h"

namespace tidegate {
namespace {

uint16_t LoadU16(const void* at) {
  uint16_t value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

// Element j of a column is scale * code; the scale is 1 for the float encodings.
struct Element {
  float scale;
  float code;
};

Element ColumnElement(UnitEncoding encoding, const uint8_t* column, size_t elements, size_t j) {
  const size_t group = j / kQuantGroup;
  const size_t in_group = j % kQuantGroup;
  const uint8_t* codes = column + ColumnScaleBytes(encoding, elements);
  float value = 0;
  switch (encoding) {
    case UnitEncoding::kF32:
      std::memcpy(&value, column + sizeof(float) * j, sizeof(value));
      return {1.0f, value};
    case UnitEncoding::kF16:
      return {1.0f, HalfToFloat(LoadU16(column + 2 * j))};
    case UnitEncoding::kQ8:
      return {HalfToFloat(LoadU16(column + 2 * group)),
              static_cast<float>(static_cast<int8_t>(codes[j]))};
    case UnitEncoding::kQ4:
      break;
  }
  const uint8_t byte = codes[kQuantGroup / 2 * group + in_group % 16];
  const int nibble = in_group < 16 ? byte & 15 : byte >> 4;
  return {HalfToFloat(LoadU16(column + 2 * group)), static_cast<float>(nibble - 8)};
}

template <bool kBf16>
void AddColumns(UnitEncoding encoding, const uint8_t* const* columns, const float* coefficients,
                size_t count, size_t elements, size_t begin, size_t end, float* y) {
  const bool rounded = kBf16 && encoding == UnitEncoding::kQ4;
  for (size_t j = begin; j < end; ++j) {
    for (size_t k = 0; k < count; ++k) {
      const Element w = ColumnElement(encoding, columns[k], elements, j);
      const float factor = coefficients[k] * w.scale;
      y[j] = std::fma(rounded ? RoundToBf16(factor) : factor, w.code, y[j]);
    }
  }
}

template <bool kBf16>
void MatVec(const MatrixView& w, size_t row_begin, size_t row_end, const float* x, float* y) {
  const bool rounded = kBf16 && w.type == GgmlType::kQ4_0;
  std::vector<float> row(w.columns);
  for (size_t r = row_begin; r < row_end; ++r) {
    DecodeStaticRow(w.type, w.Row(r), w.columns, row.data());
    float sum = 0;
    for (size_t c = 0; c < w.columns; ++c) {
      sum = std::fma(row[c], rounded ? RoundToBf16(x[c]) : x[c], sum);
    }
    y[r] = sum;
  }
}

template <bool kBf16>
void AddColumnsLanes(UnitEncoding encoding, const uint8_t* const* columns,
                     const float* const* coefficients, size_t count, size_t elements, size_t begin,
                     size_t end, float* const* y, size_t lanes) {
  for (size_t l = 0; l < lanes; ++l) {
    AddColumns<kBf16>(encoding, columns, coefficients[l], count, elements, begin, end, y[l]);
  }
}

template <bool kBf16>
void MatVecLanes(const MatrixView& w, size_t row_begin, size_t row_end, const float* const* x,
                 float* const* y, size_t lanes) {
  for (size_t l = 0; l < lanes; ++l) MatVec<kBf16>(w, row_begin, row_end, x[l], y[l]);
}

void RmsNorm(const float* x, const float* weight, size_t n, float epsilon, float* out) {
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  const double mean = sum / static_cast<double>(n);
  const auto factor = static_cast<float>(1.0 / std::sqrt(mean + epsilon));
  for (size_t i = 0; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

// 1 / (1 + exp(-z)), with the exponential of -|z| so that nothing overflows.
float Sigmoid(float z) {
  const float e = std::exp(-std::fabs(z));
  return (z < 0 ? e : 1.0f) / (1.0f + e);
}

void SiluMultiply(const float* gate, const float* up, size_t n, float* h) {
  for (size_t i = 0; i < n; ++i) h[i] = gate[i] * Sigmoid(gate[i]) * up[i];
}

void GeluMultiply(const float* gate, const float* up, size_t n, float* h) {
  constexpr float kTwiceRootOf2OverPi = 1.5957691216f;
  for (size_t i = 0; i < n; ++i) {
    const float z = gate[i];
    h[i] = z * Sigmoid(kTwiceRootOf2OverPi * (z + 0.044715f * z * z * z)) * up[i];
  }
}

void SoftCap(size_t n, float cap, float* x) {
  for (size_t i = 0; i < n; ++i) x[i] = cap * std::tanh(x[i] / cap);
}

void Add(const float* x, size_t n, float* y) {
  for (size_t i = 0; i < n; ++i) y[i] += x[i];
}

// Element i of the key or value of a position; `at`: where these begin in a page.
float CacheElement(const KvView& kv, size_t at, size_t position, size_t head_size, size_t i) {
  const std::byte* row = kv.pages[position / kv.page_tokens] + at +
                         position % kv.page_tokens * KvRowBytes(kv.type, head_size);
  switch (kv.type) {
    case KvType::kF32:
      return reinterpret_cast<const float*>(row)[i];
    case KvType::kF16:
      return HalfToFloat(reinterpret_cast<const uint16_t*>(row)[i]);
    case KvType::kQ8:
      break;
  }
  const std::byte* block = row + i / kKvBlock * kKvBlockBytes;
  const auto code = static_cast<int8_t>(block[sizeof(uint16_t) + i % kKvBlock]);
  return HalfToFloat(LoadU16(block)) * static_cast<float>(code);
}

void Attend(const float* query, const KvView& kv, size_t first, size_t tokens, size_t head_size,
            float scale, float cap, float* scores, float* out) {
  for (size_t t = 0; t < tokens; ++t) {
    float sum = 0;
    for (size_t i = 0; i < head_size; ++i) {
      sum = std::fma(query[i], CacheElement(kv, kv.keys, first + t, head_size, i), sum);
    }
    scores[t] = scale * sum;
  }
  if (cap != 0) SoftCap(tokens, cap, scores);
  const float largest = *std::max_element(scores, scores + tokens);
  float total = 0;
  for (size_t t = 0; t < tokens; ++t) {
    scores[t] = std::exp(scores[t] - largest);
    total += scores[t];
  }
  for (size_t i = 0; i < head_size; ++i) {
    float sum = 0;
    for (size_t t = 0; t < tokens; ++t) {
      sum = std::fma(scores[t], CacheElement(kv, kv.values, first + t, head_size, i), sum);
    }
    out[i] = sum / total;
  }
}

void Softmax(size_t n, float* scores) {
  const float largest = *std::max_element(scores, scores + n);
  float total = 0;
  for (size_t i = 0; i < n; ++i) {
    scores[i] = std::exp(scores[i] - largest);
    total += scores[i];
  }
  for (size_t i = 0; i < n; ++i) scores[i] /= total;
}

void ToHalf(const float* x, size_t n, uint16_t* out) {
  for (size_t i = 0; i < n; ++i) out[i] = FloatToHalf(x[i]);
}

void ToQ8(const float* x, size_t n, uint8_t* out) {
  for (size_t i = 0; i < n; i += kKvBlock, x += kKvBlock, out += kKvBlockBytes) {
    // Magnitudes are ordered as their bits are: NaN lies above infinity, which lies above all else.
    uint32_t largest = 0;
    for (size_t j = 0; j < kKvBlock; ++j) {
      largest = std::max(largest, std::bit_cast<uint32_t>(x[j]) & 0x7fffffffu);
    }
    const uint16_t half = FloatToHalf(std::bit_cast<float>(largest) / 127.0f);
    std::memcpy(out, &half, sizeof(half));
    const float scale = HalfToFloat(half);
    const bool usable = scale > 0 && std::isfinite(scale);
    for (size_t j = 0; j < kKvBlock; ++j) {
      const long code = usable ? std::clamp(std::lrintf(x[j] / scale), -127L, 127L) : 0;
      out[sizeof(half) + j] = static_cast<uint8_t>(static_cast<int8_t>(code));
    }
  }
}

template <bool kBf16>
constexpr Kernels kScalar = {
    .name = kBf16 ? "scalar_bf16" : "scalar_f32",
    .mat_vec = MatVec<kBf16>,
    .add_columns = AddColumns<kBf16>,
    .mat_vec_lanes = MatVecLanes<kBf16>,
    .add_columns_lanes = AddColumnsLanes<kBf16>,
    .rms_norm = RmsNorm,
    .silu_multiply = SiluMultiply,
    .gelu_multiply = GeluMultiply,
    .soft_cap = SoftCap,
    .add = Add,
    .attend = Attend,
    .softmax = Softmax,
    .to_half = ToHalf,
    .to_q8 = ToQ8,
};

}  // namespace

const Kernels& ScalarKernels(Precision precision) {
  return precision == Precision::kFast ? kScalar<true> : kScalar<false>;
}

}  // namespace tidegate
