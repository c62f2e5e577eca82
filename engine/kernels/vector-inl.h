// The kernels over plain vectors and the KV cache, compiled once per instruction set
// (kernels_simd.cc). The last, incomplete vector goes through a zero-padded buffer.
//
// clang-format off
#if defined(TIDEGATE_KERNELS_VECTOR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TIDEGATE_KERNELS_VECTOR_INL_H_
#undef TIDEGATE_KERNELS_VECTOR_INL_H_
#else
#define TIDEGATE_KERNELS_VECTOR_INL_H_
#endif
// clang-format on

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "engine/kernels/decode-inl.h"
#include "engine/kernels/kernels.h"
#include "hwy/cache_control.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

// n: how many elements of the vector exist, at most kLanes.
HWY_INLINE FloatVec LoadFirst(const float* from, size_t n) {
  const FloatTag df;
  if (n >= kLanes) return hn::LoadU(df, from);
  HWY_ALIGN float padded[kLanes] = {};
  std::memcpy(padded, from, n * sizeof(float));
  return hn::Load(df, padded);
}

HWY_INLINE FloatVec LoadFirst(const uint16_t* from, size_t n) {
  const uint16_t* source = from;
  uint16_t padded[kLanes] = {};
  if (n < kLanes) {
    std::memcpy(padded, from, n * sizeof(uint16_t));
    source = padded;
  }
  return hn::PromoteTo(FloatTag(),
                       LoadNarrow<hwy::float16_t>(reinterpret_cast<const uint8_t*>(source)));
}

HWY_INLINE void StoreFirst(FloatVec value, float* to, size_t n) {
  const FloatTag df;
  if (n >= kLanes) {
    hn::StoreU(value, df, to);
    return;
  }
  HWY_ALIGN float padded[kLanes];
  hn::Store(value, df, padded);
  std::memcpy(to, padded, n * sizeof(float));
}

HWY_INLINE float Sum(FloatVec v) {
  const FloatTag df;
  return hn::GetLane(hn::SumOfLanes(df, v));
}

inline void RmsNorm(const float* x, const float* weight, size_t n, float epsilon, float* out) {
  const FloatTag df;
  FloatVec squares[4] = {hn::Zero(df), hn::Zero(df), hn::Zero(df), hn::Zero(df)};
  for (size_t i = 0; i < n; i += kLanes) {
    const auto v = LoadFirst(x + i, n - i);
    auto& sum = squares[i / kLanes % 4];
    sum = hn::MulAdd(v, v, sum);
  }
  const float total =
      Sum(hn::Add(hn::Add(squares[0], squares[1]), hn::Add(squares[2], squares[3])));
  const auto factor = hn::Set(df, 1.0f / std::sqrt(total / static_cast<float>(n) + epsilon));
  for (size_t i = 0; i < n; i += kLanes) {
    const auto scaled = hn::Mul(LoadFirst(x + i, n - i), factor);
    StoreFirst(hn::Mul(scaled, LoadFirst(weight + i, n - i)), out + i, n - i);
  }
}

// 1 / (1 + exp(-z)), with the exponential of -|z|: nothing overflows, and both signs keep their
// relative accuracy.
HWY_INLINE FloatVec Sigmoid(FloatVec z) {
  const FloatTag df;
  const auto one = hn::Set(df, 1.0f);
  const auto e = hn::Exp(df, hn::Neg(hn::Abs(z)));
  const auto numerator = hn::IfThenElse(hn::Lt(z, hn::Zero(df)), e, one);
  return hn::Div(numerator, hn::Add(one, e));
}

inline void SiluMultiply(const float* gate, const float* up, size_t n, float* h) {
  for (size_t i = 0; i < n; i += kLanes) {
    const auto z = LoadFirst(gate + i, n - i);
    StoreFirst(hn::Mul(hn::Mul(z, Sigmoid(z)), LoadFirst(up + i, n - i)), h + i, n - i);
  }
}

inline void GeluMultiply(const float* gate, const float* up, size_t n, float* h) {
  const FloatTag df;
  const auto linear = hn::Set(df, 1.5957691216f);  // 2 sqrt(2 / pi)
  const auto cubic = hn::Set(df, 1.5957691216f * 0.044715f);
  for (size_t i = 0; i < n; i += kLanes) {
    const auto z = LoadFirst(gate + i, n - i);
    const auto twice_u = hn::Mul(z, hn::MulAdd(cubic, hn::Mul(z, z), linear));
    StoreFirst(hn::Mul(hn::Mul(z, Sigmoid(twice_u)), LoadFirst(up + i, n - i)), h + i, n - i);
  }
}

inline void SoftCap(size_t n, float cap, float* x) {
  const FloatTag df;
  const auto scale = hn::Set(df, cap);
  const auto inverse = hn::Set(df, 1.0f / cap);
  for (size_t i = 0; i < n; i += kLanes) {
    const auto capped = hn::Mul(scale, hn::Tanh(df, hn::Mul(LoadFirst(x + i, n - i), inverse)));
    StoreFirst(capped, x + i, n - i);
  }
}

inline void Add(const float* x, size_t n, float* y) {
  for (size_t i = 0; i < n; i += kLanes) {
    StoreFirst(hn::Add(LoadFirst(y + i, n - i), LoadFirst(x + i, n - i)), y + i, n - i);
  }
}

inline void ToHalf(const float* x, size_t n, uint16_t* out) {
  const hn::Rebind<hwy::float16_t, FloatTag> dh;
  const hn::Rebind<uint16_t, FloatTag> du;
  for (size_t i = 0; i < n; i += kLanes) {
    const auto half = hn::BitCast(du, hn::DemoteTo(dh, LoadFirst(x + i, n - i)));
    if (n - i >= kLanes) {
      hn::StoreU(half, du, out + i);
    } else {
      uint16_t padded[kLanes];
      hn::StoreU(half, du, padded);
      std::memcpy(out + i, padded, (n - i) * sizeof(uint16_t));
    }
  }
}

// The scale and codes of one block of Q8_0.
HWY_INLINE void ToQ8Block(const float* x, uint8_t* out) {
  const hn::Simd<float, 1, 0> one;
  const IntTag di;
  FloatVec values[kVecs];
  auto largest = hn::Zero(di);  // Magnitudes are ordered as their bits are, NaN above infinity.
  HWY_UNROLL(8)
  for (size_t v = 0; v < kVecs; ++v) {
    values[v] = hn::LoadU(FloatTag(), x + v * kLanes);
    largest = hn::Max(largest, hn::BitCast(di, hn::Abs(values[v])));
  }
  const auto magnitude = hn::BitCast(
      one, hn::Set(hn::RebindToSigned<decltype(one)>(), hn::GetLane(hn::MaxOfLanes(di, largest))));
  const auto half = hn::DemoteTo(hn::Rebind<hwy::float16_t, decltype(one)>(),
                                 hn::Div(magnitude, hn::Set(one, 127.0f)));
  const uint16_t bits = hn::GetLane(hn::BitCast(hn::Rebind<uint16_t, decltype(one)>(), half));
  std::memcpy(out, &bits, sizeof(bits));
  uint8_t* const codes = out + sizeof(bits);
  if (bits == 0 || bits >= 0x7c00) {
    std::memset(codes, 0, kGroup);
    return;
  }
  const auto scale = hn::Set(FloatTag(), HalfAt(out));
  HWY_UNROLL(8)
  for (size_t v = 0; v < kVecs; ++v) {
    const auto nearest = hn::NearestInt(hn::Div(values[v], scale));
    const auto code = hn::Max(hn::Min(nearest, hn::Set(di, 127)), hn::Set(di, -127));
    const hn::Rebind<int8_t, IntTag> d8;
    hn::StoreU(hn::DemoteTo(d8, code), d8, reinterpret_cast<int8_t*>(codes) + v * kLanes);
  }
}

inline void ToQ8(const float* x, size_t n, uint8_t* out) {
  for (size_t i = 0; i < n; i += kGroup, out += kKvBlockBytes) ToQ8Block(x + i, out);
}

// Elements [v * kLanes, (v + 1) * kLanes) of a block of Q8_0. The product is exact.
HWY_INLINE FloatVec BlockVector(const uint8_t* block, FloatVec scale, size_t v) {
  return hn::Mul(scale, DecodeVector<Codes::kInt8>(block + sizeof(uint16_t), v));
}

template <typename T>
HWY_INLINE float Dot(const float* query, const T* key, size_t n) {
  const FloatTag df;
  auto even = hn::Zero(df);
  auto odd = hn::Zero(df);
  size_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    even = hn::MulAdd(hn::LoadU(df, query + i), LoadFirst(key + i, kLanes), even);
    odd = hn::MulAdd(hn::LoadU(df, query + i + kLanes), LoadFirst(key + i + kLanes, kLanes), odd);
  }
  for (; i < n; i += kLanes) {
    even = hn::MulAdd(LoadFirst(query + i, n - i), LoadFirst(key + i, n - i), even);
  }
  return Sum(hn::Add(even, odd));
}

// The same of blocks of Q8_0, in the same order.
HWY_INLINE float Dot(const float* query, const uint8_t* key, size_t n) {
  const FloatTag df;
  FloatVec sums[2] = {hn::Zero(df), hn::Zero(df)};
  for (size_t i = 0; i < n; i += kGroup, key += kKvBlockBytes) {
    const auto scale = hn::Set(df, HalfAt(key));
    HWY_UNROLL(8)
    for (size_t v = 0; v < kVecs; ++v) {
      sums[v % 2] = hn::MulAdd(hn::LoadU(df, query + i + v * kLanes), BlockVector(key, scale, v),
                               sums[v % 2]);
    }
  }
  return Sum(hn::Add(sums[0], sums[1]));
}

// scores[t] = exp(scores[t] - largest); returns their sum.
HWY_INLINE float ExpOfDifferences(float largest, size_t tokens, float* scores) {
  const FloatTag df;
  const auto shift = hn::Set(df, largest);
  auto total = hn::Zero(df);
  size_t t = 0;
  for (; t + kLanes <= tokens; t += kLanes) {
    const auto e = hn::Exp(df, hn::Sub(hn::LoadU(df, scores + t), shift));
    hn::StoreU(e, df, scores + t);
    total = hn::Add(total, e);
  }
  float sum = Sum(total);
  if (t < tokens) {
    const size_t n = tokens - t;
    StoreFirst(hn::Exp(df, hn::Sub(LoadFirst(scores + t, n), shift)), scores + t, n);
    for (; t < tokens; ++t) sum += scores[t];
  }
  return sum;
}

HWY_INLINE float Largest(size_t n, const float* scores) {
  const FloatTag df;
  auto largest = hn::Set(df, -INFINITY);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) largest = hn::Max(largest, hn::LoadU(df, scores + i));
  float most = hn::GetLane(hn::MaxOfLanes(df, largest));
  for (; i < n; ++i) most = std::max(most, scores[i]);
  return most;
}

inline void Softmax(size_t n, float* scores) {
  const FloatTag df;
  const float factor = 1.0f / ExpOfDifferences(Largest(n, scores), n, scores);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    hn::StoreU(hn::Mul(hn::LoadU(df, scores + i), hn::Set(df, factor)), df, scores + i);
  }
  for (; i < n; ++i) scores[i] *= factor;
}

template <typename T>
HWY_INLINE void PrefetchElements(const T* from, size_t n) {
  for (size_t i = 0; i < n; i += 64 / sizeof(T)) hwy::Prefetch(from + i);
}

// Goes through the rows of positions [first, first + tokens), page by page. T: float, uint16_t for
// halves, uint8_t for blocks of Q8_0.
template <typename T>
class PageRuns {
 public:
  // at: where the rows begin in a page, bytes.
  HWY_INLINE PageRuns(const KvView& kv, size_t at, size_t first, size_t tokens, size_t head_size)
      : page_(kv.pages + first / kv.page_tokens),
        at_(at),
        page_tokens_(kv.page_tokens),
        stride_(KvRowBytes(kv.type, head_size) / sizeof(T)),
        tokens_(tokens),
        row_(first % kv.page_tokens) {
    Look();
  }

  HWY_INLINE bool done() const { return begin >= tokens_; }
  HWY_INLINE size_t stride() const { return stride_; }  // from row to row
  HWY_INLINE void Next() {
    begin = end;
    row_ = 0;
    ++page_;
    if (!done()) Look();
  }

  // Tokens [begin, end) have the rows from `rows` on.
  size_t begin = 0, end = 0;
  const T* rows = nullptr;
  // Those of the next page, or the same ones at the end: the hardware does not see where the rows
  // go on, so that they are prefetched a page ahead.
  const T* ahead = nullptr;

 private:
  HWY_INLINE void Look() {
    rows = reinterpret_cast<const T*>(*page_ + at_) + row_ * stride_;
    end = std::min(tokens_, begin + page_tokens_ - row_);
    ahead = end < tokens_ ? reinterpret_cast<const T*>(page_[1] + at_) : rows;
  }

  const std::byte* const* page_;
  const size_t at_, page_tokens_, stride_, tokens_;
  size_t row_;
};

// out[i] = factor * sum_t scores[t] * values[t][i] for `n` <= kVectors * kLanes elements from
// `element` on.
template <size_t kVectors, typename T>
HWY_INLINE void WeightedSum(const float* scores, PageRuns<T> values, size_t element, size_t n,
                            float factor, float* out) {
  const FloatTag df;
  const size_t present = kVectors > 1 ? kLanes : n;
  FloatVec sum[kVectors];
  HWY_UNROLL(4)
  for (size_t v = 0; v < kVectors; ++v) sum[v] = hn::Zero(df);
  const size_t stride = values.stride();
  for (; !values.done(); values.Next()) {
    const T* row = values.rows + element;
    const T* ahead = values.ahead + element;
    for (size_t t = values.begin; t < values.end; ++t, row += stride, ahead += stride) {
      PrefetchElements(ahead, kVectors * kLanes);
      const auto score = hn::Set(df, scores[t]);
      HWY_UNROLL(4)
      for (size_t v = 0; v < kVectors; ++v) {
        sum[v] = hn::MulAdd(score, LoadFirst(row + v * kLanes, present), sum[v]);
      }
    }
  }
  HWY_UNROLL(4)
  for (size_t v = 0; v < kVectors; ++v) {
    StoreFirst(hn::Mul(sum[v], hn::Set(df, factor)), out + element + v * kLanes, present);
  }
}

template <typename T>
HWY_INLINE void WeightedRow(const float* scores, const PageRuns<T>& values, size_t head_size,
                            float factor, float* out) {
  size_t i = 0;
  for (; i + 4 * kLanes <= head_size; i += 4 * kLanes) {
    WeightedSum<4>(scores, values, i, 4 * kLanes, factor, out);
  }
  for (; i < head_size; i += kLanes) {
    WeightedSum<1>(scores, values, i, std::min(kLanes, head_size - i), factor, out);
  }
}

// The same of kBlocks blocks of Q8_0, from `block` on.
template <size_t kBlocks>
HWY_INLINE void WeightedBlocks(const float* scores, PageRuns<uint8_t> values, size_t block,
                               float factor, float* out) {
  const FloatTag df;
  FloatVec sum[kBlocks][kVecs];
  for (auto& vectors : sum) {
    for (auto& vector : vectors) vector = hn::Zero(df);
  }
  const size_t stride = values.stride();
  for (; !values.done(); values.Next()) {
    const uint8_t* row = values.rows + block * kKvBlockBytes;
    const uint8_t* ahead = values.ahead + block * kKvBlockBytes;
    for (size_t t = values.begin; t < values.end; ++t, row += stride, ahead += stride) {
      PrefetchElements(ahead, kBlocks * kKvBlockBytes);
      const auto score = hn::Set(df, scores[t]);
      HWY_UNROLL(4)
      for (size_t b = 0; b < kBlocks; ++b) {
        const uint8_t* const at = row + b * kKvBlockBytes;
        const auto scale = hn::Set(df, HalfAt(at));
        HWY_UNROLL(8)
        for (size_t v = 0; v < kVecs; ++v) {
          sum[b][v] = hn::MulAdd(score, BlockVector(at, scale, v), sum[b][v]);
        }
      }
    }
  }
  for (size_t b = 0; b < kBlocks; ++b) {
    for (size_t v = 0; v < kVecs; ++v) {
      hn::StoreU(hn::Mul(sum[b][v], hn::Set(df, factor)), df,
                 out + (block + b) * kGroup + v * kLanes);
    }
  }
}

HWY_INLINE void WeightedRow(const float* scores, const PageRuns<uint8_t>& values, size_t head_size,
                            float factor, float* out) {
  constexpr size_t kWide = kLanes == 16 ? 4 : 2;  // sums in 8 vectors, or 16 of 32 registers
  const size_t blocks = head_size / kGroup;
  size_t b = 0;
  for (; b + kWide <= blocks; b += kWide) WeightedBlocks<kWide>(scores, values, b, factor, out);
  for (; b < blocks; ++b) WeightedBlocks<1>(scores, values, b, factor, out);
}

template <typename T>
void AttendTo(const float* query, const KvView& kv, size_t first, size_t tokens, size_t head_size,
              float scale, float cap, float* scores, float* out) {
  for (PageRuns<T> keys(kv, kv.keys, first, tokens, head_size); !keys.done(); keys.Next()) {
    const T* row = keys.rows;
    const T* ahead = keys.ahead;
    const size_t stride = keys.stride();
    for (size_t t = keys.begin; t < keys.end; ++t, row += stride, ahead += stride) {
      PrefetchElements(ahead, stride);
      scores[t] = scale * Dot(query, row, head_size);
    }
  }
  if (cap != 0) SoftCap(tokens, cap, scores);
  const float factor = 1.0f / ExpOfDifferences(Largest(tokens, scores), tokens, scores);
  WeightedRow(scores, PageRuns<T>(kv, kv.values, first, tokens, head_size), head_size, factor, out);
}

inline void Attend(const float* query, const KvView& kv, size_t first, size_t tokens,
                   size_t head_size, float scale, float cap, float* scores, float* out) {
  const auto run = [&](auto attend) {
    attend(query, kv, first, tokens, head_size, scale, cap, scores, out);
  };
  switch (kv.type) {
    case KvType::kF32:
      return run(AttendTo<float>);
    case KvType::kF16:
      return run(AttendTo<uint16_t>);
    case KvType::kQ8:
      return run(AttendTo<uint8_t>);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_KERNELS_VECTOR_INL_H_
