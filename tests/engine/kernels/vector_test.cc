// The vector kernels of every table against doubles: normalisation, activation, rounding.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "engine/kernels/kernels.h"
#include "proto/gguf/finite.h"
#include "tests/support/random_values.h"

namespace tidegate::vector_test {

constexpr size_t kSizes[] = {1,  2,  7,  8,  9,  15,  16,  17,  31,  32,
                             33, 63, 64, 65, 96, 127, 129, 768, 1000};

class VectorTest : public testing::TestWithParam<SupportedKernelTable> {
 protected:
  const Kernels& kernels() const { return *GetParam().kernels; }
  std::mt19937 random_{5};
};

TEST(Tables, ScalarOnesComeFirstAndTheBestAreTheLastOfTheirArithmetic) {
  const auto tables = SupportedKernels();
  ASSERT_GE(tables.size(), 2u);
  const Kernels* best[2] = {};
  for (const Precision precision : {Precision::kExact, Precision::kFast}) {
    const bool fast = precision == Precision::kFast;
    EXPECT_EQ(tables[fast].kernels, &ScalarKernels(precision));
    EXPECT_EQ(tables[fast].kernels->name, fast ? "scalar_bf16" : "scalar_f32");
    for (size_t i = fast ? 2 : 0; i < tables.size(); ++i) {
      if (tables[i].scalar == &ScalarKernels(precision)) best[fast] = tables[i].kernels;
    }
  }
  EXPECT_EQ(&BestKernels(Precision::kExact), best[0]);
  // Without the instruction, fast is exact: the scalar bf16 table is for comparison only.
  EXPECT_EQ(&BestKernels(Precision::kFast), best[1] != nullptr ? best[1] : best[0]);
  std::set<std::string_view> names;
  for (const SupportedKernelTable& table : tables) names.insert(table.kernels->name);
  EXPECT_EQ(names.size(), tables.size());
}

TEST_P(VectorTest, RmsNorm) {
  for (const size_t n : kSizes) {
    const std::vector<float> x = RandomFloats(n, random_);
    const std::vector<float> weight = RandomFloats(n, random_);
    double squares = 0;
    for (const float v : x) squares += static_cast<double>(v) * v;
    const double factor = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
    std::vector<float> out(n + 1, std::numeric_limits<float>::quiet_NaN());
    kernels().rms_norm(x.data(), weight.data(), n, 1e-5f, out.data());
    EXPECT_TRUE(std::isnan(out[n]));
    std::vector<float> in_place = x;
    kernels().rms_norm(in_place.data(), weight.data(), n, 1e-5f, in_place.data());
    for (size_t i = 0; i < n; ++i) {
      const double exact = factor * x[i] * weight[i];
      // n terms of one sign, halved by the root; and four more roundings.
      const double bound = (static_cast<double>(n) / 2 + 4) * 0x1p-23 * std::fabs(exact);
      EXPECT_NEAR(out[i], exact, bound) << n << " at " << i;
      EXPECT_EQ(out[i], in_place[i]);
    }
  }
}

TEST_P(VectorTest, Softmax) {
  for (const size_t n : kSizes) {
    std::vector<float> scores = RandomFloats(n + 1, random_);
    for (float& score : scores) score *= 20;
    const float past_the_end = scores[n];
    double largest = scores[0], total = 0;
    for (size_t i = 0; i < n; ++i) largest = std::max<double>(largest, scores[i]);
    std::vector<double> exact;
    for (size_t i = 0; i < n; ++i) total += exact.emplace_back(std::exp(scores[i] - largest));
    // The difference of two scores below 100 loses up to 2^-18 before the exponential.
    const double bound = (static_cast<double>(n) + 8) * 0x1p-23 + 0x1p-17;
    kernels().softmax(n, scores.data());
    for (size_t i = 0; i < n; ++i) {
      EXPECT_NEAR(scores[i], exact[i] / total, bound * exact[i] / total + 1e-37)
          << n << " at " << i;
    }
    EXPECT_EQ(scores[n], past_the_end);
  }
}

TEST_P(VectorTest, Add) {
  for (const size_t n : kSizes) {
    const std::vector<float> x = RandomFloats(n, random_);
    const std::vector<float> start = RandomFloats(n, random_);
    std::vector<float> y = start;
    y.push_back(std::numeric_limits<float>::quiet_NaN());
    kernels().add(x.data(), n, y.data());
    for (size_t i = 0; i < n; ++i) EXPECT_EQ(y[i], start[i] + x[i]);
    EXPECT_TRUE(std::isnan(y[n]));
  }
}

// silu(z) = z - z / (1 + exp(z)): exact in double where exp does not overflow.
double ExactSilu(double z) {
  return z < 0 ? z * std::exp(z) / (1 + std::exp(z)) : z / (1 + std::exp(-z));
}

TEST_P(VectorTest, SiluIsAccurateOverTheWholeRange) {
  std::vector<float> gate;
  for (float z = -87.0f; z <= 87.0f; z += 0.00317f) gate.push_back(z);
  for (const float z : {0.0f, 1e-30f, -1e-30f, 3e38f}) gate.push_back(z);
  const std::vector<float> up(gate.size(), 1.0f);
  std::vector<float> h(gate.size());
  kernels().silu_multiply(gate.data(), up.data(), gate.size(), h.data());
  for (size_t i = 0; i < gate.size(); ++i) {
    const double exact = ExactSilu(gate[i]);
    // exp (4e-7) and four roundings.
    ASSERT_NEAR(h[i], exact, (4e-7 + 4 * 0x1p-24) * std::fabs(exact) + 1e-38) << gate[i];
  }
}

TEST_P(VectorTest, SiluOfExtremesIsFinite) {
  const std::vector<float> gate = {-88.0f, -100.0f, -104.0f, -1e4f, -3e38f, 3e38f, 104.0f};
  const std::vector<float> up(gate.size(), 0.5f);
  std::vector<float> h(gate.size());
  kernels().silu_multiply(gate.data(), up.data(), gate.size(), h.data());
  for (size_t i = 0; i < gate.size(); ++i) {
    EXPECT_NEAR(h[i], gate[i] > 0 ? 0.5f * gate[i] : 0.0f, std::fabs(gate[i]) * 1e-30f) << gate[i];
  }
}

TEST_P(VectorTest, SiluMultipliesInPlace) {
  for (const size_t n : kSizes) {
    const std::vector<float> gate = RandomFloats(n, random_);
    const std::vector<float> up = RandomFloats(n, random_);
    std::vector<float> h(n + 1, std::numeric_limits<float>::quiet_NaN());
    kernels().silu_multiply(gate.data(), up.data(), n, h.data());
    EXPECT_TRUE(std::isnan(h[n]));
    std::vector<float> into_gate = gate;
    kernels().silu_multiply(into_gate.data(), up.data(), n, into_gate.data());
    std::vector<float> into_up = up;
    kernels().silu_multiply(gate.data(), into_up.data(), n, into_up.data());
    for (size_t i = 0; i < n; ++i) {
      EXPECT_NEAR(h[i], ExactSilu(gate[i]) * up[i], 1e-6 * std::fabs(gate[i] * up[i]));
      EXPECT_EQ(h[i], into_gate[i]);
      EXPECT_EQ(h[i], into_up[i]);
    }
  }
}

double ExactGelu(double z) {
  const double u = std::sqrt(2 / std::acos(-1.0)) * (z + 0.044715 * z * z * z);
  return z / (1 + std::exp(-2 * u));
}

TEST_P(VectorTest, GeluIsAccurateOverTheWholeRange) {
  std::vector<float> gate;
  for (float z = -9.0f; z <= 40.0f; z += 0.00117f) gate.push_back(z);
  for (const float z : {0.0f, 1e-30f, -1e-30f, 1e5f}) gate.push_back(z);
  const std::vector<float> up(gate.size(), 1.0f);
  std::vector<float> h(gate.size());
  kernels().gelu_multiply(gate.data(), up.data(), gate.size(), h.data());
  for (size_t i = 0; i < gate.size(); ++i) {
    const double z = gate[i], exact = ExactGelu(z);
    const double u = std::min(100.0, std::fabs(0.8 * (z + 0.044715 * z * z * z)));
    ASSERT_NEAR(h[i], exact, (4e-7 + (4 + u) * 0x1p-21) * std::fabs(exact) + 1e-37) << z;
  }
}

TEST_P(VectorTest, GeluOfExtremesIsFinite) {
  const std::vector<float> gate = {-10.0f, -20.0f, -1e4f, -1e13f, -3e38f, 3e38f, 1e13f};
  const std::vector<float> up(gate.size(), 0.5f);
  std::vector<float> h(gate.size());
  kernels().gelu_multiply(gate.data(), up.data(), gate.size(), h.data());
  for (size_t i = 0; i < gate.size(); ++i) {
    EXPECT_NEAR(h[i], gate[i] > 0 ? 0.5f * gate[i] : 0.0f, std::fabs(gate[i]) * 1e-20f) << gate[i];
  }
}

TEST_P(VectorTest, GeluMultipliesInPlace) {
  for (const size_t n : kSizes) {
    const std::vector<float> gate = RandomFloats(n, random_);
    const std::vector<float> up = RandomFloats(n, random_);
    std::vector<float> h(n + 1, std::numeric_limits<float>::quiet_NaN());
    kernels().gelu_multiply(gate.data(), up.data(), n, h.data());
    EXPECT_TRUE(std::isnan(h[n]));
    std::vector<float> into_gate = gate, into_up = up;
    kernels().gelu_multiply(into_gate.data(), up.data(), n, into_gate.data());
    kernels().gelu_multiply(gate.data(), into_up.data(), n, into_up.data());
    for (size_t i = 0; i < n; ++i) {
      EXPECT_NEAR(h[i], ExactGelu(gate[i]) * up[i], 4e-6 * std::fabs(gate[i] * up[i]));
      EXPECT_EQ(h[i], into_gate[i]);
      EXPECT_EQ(h[i], into_up[i]);
    }
  }
}

TEST_P(VectorTest, SoftCap) {
  for (const size_t n : kSizes) {
    for (const float cap : {0.5f, 30.0f}) {
      std::vector<float> x = RandomFloats(n + 1, random_);
      for (size_t i = 0; i < n; ++i) x[i] *= i % 3 == 0 ? 100.0f : 1.0f;
      const std::vector<float> before = x;
      kernels().soft_cap(n, cap, x.data());
      for (size_t i = 0; i < n; ++i) {
        const double exact = cap * std::tanh(static_cast<double>(before[i]) / cap);
        EXPECT_NEAR(x[i], exact, 2e-6 * std::fabs(exact)) << before[i];
      }
      EXPECT_EQ(x[n], before[n]);
    }
  }
  std::vector<float> far = {1e30f, -1e30f, 0.0f};
  kernels().soft_cap(far.size(), 8, far.data());
  EXPECT_EQ(far, (std::vector<float>{8, -8, 0}));
}

void ExpectHalves(const Kernels& kernels, const std::vector<float>& values) {
  std::vector<uint16_t> halves(values.size());
  kernels.to_half(values.data(), values.size(), halves.data());
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(halves[i], FloatToHalf(values[i])) << "of " << values[i];
  }
}

TEST_P(VectorTest, ToHalfRoundsEveryHalfAndItsNeighbourhood) {
  std::vector<float> values;
  for (uint32_t half = 0; half < 0x10000; ++half) {
    if ((half & 0x7c00) == 0x7c00) continue;  // Infinities and NaN.
    const float exact = HalfToFloat(static_cast<uint16_t>(half));
    const float next = HalfToFloat(static_cast<uint16_t>(half + 1));
    const float middle = std::isfinite(next) ? (exact + next) / 2 : exact * (1 + 0x1p-12f);
    for (const float value : {exact, middle}) {
      values.push_back(value);
      values.push_back(std::nextafter(value, INFINITY));
      values.push_back(std::nextafter(value, -INFINITY));
    }
  }
  ExpectHalves(kernels(), values);
}

TEST_P(VectorTest, ToHalfOfAnyFiniteFloat) {
  std::vector<float> values;
  while (values.size() < 300000) {
    const auto value = std::bit_cast<float>(static_cast<uint32_t>(random_()));
    if (std::isfinite(value)) values.push_back(value);
  }
  for (const float value : {65504.0f, 65519.9f, 65520.0f, 65536.0f, 3.4e38f, 1e-45f, 0x1p-25f}) {
    values.push_back(value);
    values.push_back(-value);
  }
  ExpectHalves(kernels(), values);
}

// Blocks around every magnitude that a half scale can have, of zeros, and of ties.
std::vector<float> ManyBlocks(std::mt19937& random) {
  std::vector<float> values(2 * kKvBlock);
  values[kKvBlock] = -0.0f;
  const auto append = [&](const std::vector<float>& more) {
    values.insert(values.end(), more.begin(), more.end());
  };
  for (int exponent = -40; exponent <= 20; ++exponent) {
    append(RandomFloats(20 * kKvBlock, random, std::ldexp(1.0f, exponent)));
  }
  for (const float power : {1.0f, 0x1p-20f, -0x1p-24f, 0x1p10f}) {
    values.push_back(127 * power);  // The scale is `power`.
    for (size_t i = 1; i < kKvBlock; ++i) {
      values.push_back(power * (static_cast<float>(i) / 2 - 8));
    }
  }
  std::vector<float> tiny(kKvBlock);
  for (const float value : {1e-45f, 1e-30f, 0x1p-25f * 127, 0x1p-24f, -8.0e6f}) {
    tiny[7] = value;
    append(tiny);
  }
  return values;
}

TEST_P(VectorTest, ToQ8IsWhatUnitsOfEightBitsAreEncodedAs) {
  const std::vector<float> values = ManyBlocks(random_);
  std::vector<uint8_t> blocks(values.size() / kKvBlock * kKvBlockBytes + 1, 0xee);
  kernels().to_q8(values.data(), values.size(), blocks.data());
  EXPECT_EQ(blocks.back(), 0xee);
  for (size_t at = 0; at < values.size(); at += kKvBlock) {
    uint8_t column[48];  // The scale, padded to 16 bytes, and the codes.
    EncodeColumn(UnitEncoding::kQ8, values.data() + at, kKvBlock, column);
    const uint8_t* block = blocks.data() + at / kKvBlock * kKvBlockBytes;
    ASSERT_EQ(std::memcmp(block, column, 2), 0) << "scale of block " << at / kKvBlock;
    ASSERT_EQ(std::memcmp(block + 2, column + 16, kKvBlock), 0) << "block " << at / kKvBlock;
    float decoded[kKvBlock];
    DecodeGgmlRow(GgmlType::kQ8_0, block, kKvBlock, decoded);
    float largest = 0;
    for (size_t i = 0; i < kKvBlock; ++i) largest = std::max(largest, std::fabs(values[at + i]));
    for (size_t i = 0; i < kKvBlock; ++i) {
      // Half a step; what is tiny, by the steps of a half, the smallest of which is 2^-24.
      ASSERT_NEAR(decoded[i], values[at + i], largest / 127 * 0.57 + 0x1p-25 * 128);
    }
  }
}

TEST_P(VectorTest, ToQ8TellsOfNumbersThatAreNotFinite) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad : {INFINITY, -INFINITY, nan, -nan, 8.4e6f, -1e30f}) {
    for (size_t at = 0; at < kKvBlock; ++at) {
      std::vector<float> values = RandomFloats(3 * kKvBlock, random_);
      values[kKvBlock + at] = bad;
      std::vector<uint8_t> blocks(3 * kKvBlockBytes, 0xee);
      kernels().to_q8(values.data(), values.size(), blocks.data());
      EXPECT_EQ(FirstNotFinite(GgmlType::kQ8_0, blocks.data(), values.size()), kKvBlock) << bad;
      EXPECT_EQ(FirstNotFinite(GgmlType::kQ8_0, blocks.data() + 2 * kKvBlockBytes, kKvBlock),
                std::nullopt);
      const auto begin = blocks.begin() + kKvBlockBytes + 2;
      EXPECT_EQ(std::count(begin, begin + kKvBlock, 0), 32) << bad;
    }
  }
}

TEST_P(VectorTest, ToHalfOfEverySize) {
  for (const size_t n : kSizes) {
    const std::vector<float> x = RandomFloats(n, random_);
    std::vector<uint16_t> out(n + 1, 0xffff);
    kernels().to_half(x.data(), n, out.data());
    for (size_t i = 0; i < n; ++i) EXPECT_EQ(out[i], FloatToHalf(x[i]));
    EXPECT_EQ(out[n], 0xffff);
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, VectorTest,
                         testing::ValuesIn(SupportedKernels().begin(), SupportedKernels().end()),
                         [](const auto& instance) {
                           return std::string(instance.param.kernels->name);
                         });

}  // namespace tidegate::vector_test
