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

// Goes through the rows of positions [first, first + tokens), page by page.
template <typename T>
class PageRuns {
 public:
  // at: where the rows begin in a page, bytes.
  HWY_INLINE PageRuns(const KvView& kv, size_t at, size_t first, size_t tokens, size_t head_size)
      : page_(kv.pages + first / kv.page_tokens),
        at_(at),
        page_tokens_(kv.page_tokens),
        head_size_(head_size),
        tokens_(tokens),
        row_(first % kv.page_tokens) {
    Look();
  }

  HWY_INLINE bool done() const { return begin >= tokens_; }
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
    rows = reinterpret_cast<const T*>(*page_ + at_) + row_ * head_size_;
    end = std::min(tokens_, begin + page_tokens_ - row_);
    ahead = end < tokens_ ? reinterpret_cast<const T*>(page_[1] + at_) : rows;
  }

  const std::byte* const* page_;
  const size_t at_, page_tokens_, head_size_, tokens_;
  size_t row_;
};

// out[i] = factor * sum_t scores[t] * values[t][i] for `n` <= kVectors * kLanes elements from
// `element` on.
template <size_t kVectors, typename T>
HWY_INLINE void WeightedSum(const float* scores, PageRuns<T> values, size_t head_size,
                            size_t element, size_t n, float factor, float* out) {
  const FloatTag df;
  const size_t present = kVectors > 1 ? kLanes : n;
  FloatVec sum[kVectors];
  HWY_UNROLL(4)
  for (size_t v = 0; v < kVectors; ++v) sum[v] = hn::Zero(df);
  for (; !values.done(); values.Next()) {
    const T* row = values.rows + element;
    const T* ahead = values.ahead + element;
    for (size_t t = values.begin; t < values.end; ++t, row += head_size, ahead += head_size) {
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
void AttendTo(const float* query, const KvView& kv, size_t first, size_t tokens, size_t head_size,
              float scale, float cap, float* scores, float* out) {
  for (PageRuns<T> keys(kv, kv.keys, first, tokens, head_size); !keys.done(); keys.Next()) {
    const T* row = keys.rows;
    const T* ahead = keys.ahead;
    for (size_t t = keys.begin; t < keys.end; ++t, row += head_size, ahead += head_size) {
      PrefetchElements(ahead, head_size);
      scores[t] = scale * Dot(query, row, head_size);
    }
  }
  if (cap != 0) SoftCap(tokens, cap, scores);
  const float factor = 1.0f / ExpOfDifferences(Largest(tokens, scores), tokens, scores);
  const PageRuns<T> values(kv, kv.values, first, tokens, head_size);
  size_t i = 0;
  for (; i + 4 * kLanes <= head_size; i += 4 * kLanes) {
    WeightedSum<4>(scores, values, head_size, i, 4 * kLanes, factor, out);
  }
  for (; i < head_size; i += kLanes) {
    WeightedSum<1>(scores, values, head_size, i, std::min(kLanes, head_size - i), factor, out);
  }
}

inline void Attend(const float* query, const KvView& kv, size_t first, size_t tokens,
                   size_t head_size, float scale, float cap, float* scores, float* out) {
  if (kv.type == KvType::kF16) {
    AttendTo<uint16_t>(query, kv, first, tokens, head_size, scale, cap, scores, out);
  } else {
    AttendTo<float>(query, kv, first, tokens, head_size, scale, cap, scores, out);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_KERNELS_VECTOR_INL_H_
