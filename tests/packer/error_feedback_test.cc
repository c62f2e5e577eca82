#include "packer/error_feedback.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "tests/support/random_values.h"

namespace tidegate::error_feedback_test {

constexpr uint32_t kInputs = 96, kTokens = 400;
constexpr uint64_t kOutputs = 64;

// Inputs that go together: each is the mean of a few hidden causes and something of its own.
std::vector<float> Inputs() {
  constexpr uint32_t kCauses = 12;
  const auto mix = Normals(kInputs * kCauses, 1, 1), causes = Normals(kTokens * kCauses, 1, 2);
  std::vector<float> x = Normals(kTokens * kInputs, 1, 3);
  for (uint32_t t = 0; t < kTokens; ++t) {
    for (uint32_t i = 0; i < kInputs; ++i) {
      float& value = x[t * kInputs + i] *= 0.3f;
      for (uint32_t c = 0; c < kCauses; ++c) {
        value += mix[i * kCauses + c] * causes[t * kCauses + c];
      }
    }
  }
  return x;
}

InputMoments Moments(const std::vector<float>& x, uint32_t block) {
  InputMoments moments(kInputs, block);
  moments.Add(x.data(), kTokens);
  return moments;
}

std::vector<uint32_t> InOrder() {
  std::vector<uint32_t> units(kInputs);
  std::iota(units.begin(), units.end(), 0u);
  return units;
}

// Columns [inputs, outputs] as they come back from storage.
std::vector<float> Stored(const std::vector<float>& columns, UnitEncoding encoding) {
  std::vector<uint8_t> bytes(ColumnBytes(encoding, kOutputs));
  std::vector<float> stored(columns.size());
  for (size_t c = 0; c < columns.size(); c += kOutputs) {
    EncodeColumn(encoding, &columns[c], kOutputs, bytes.data());
    DecodeColumn(encoding, bytes.data(), kOutputs, &stored[c]);
  }
  return stored;
}

// Mean squared difference of the outputs for the inputs x.
double OutputError(const std::vector<float>& a, const std::vector<float>& b,
                   const std::vector<float>& x) {
  double sum = 0;
  for (uint32_t t = 0; t < kTokens; ++t) {
    for (uint64_t o = 0; o < kOutputs; ++o) {
      double y = 0;
      for (uint32_t i = 0; i < kInputs; ++i) {
        y += (a[i * kOutputs + o] - b[i * kOutputs + o]) * x[t * kInputs + i];
      }
      sum += y * y;
    }
  }
  return sum / kTokens;
}

TEST(ErrorFeedbackTest, OutputsChangeLess) {
  const auto x = Inputs();
  const auto source = Normals(kInputs * kOutputs, 1, 4);
  for (const UnitEncoding encoding : {UnitEncoding::kQ4, UnitEncoding::kQ8}) {
    const double plain = OutputError(Stored(source, encoding), source, x);
    double narrower = plain;
    for (const uint32_t block : {8u, 32u, 96u}) {  // The wider the blocks, the better.
      auto columns = source;
      ASSERT_TRUE(
          AdjustForRounding(encoding, Moments(x, block), InOrder(), kOutputs, 2, columns.data())
              .ok());
      const double error = OutputError(Stored(columns, encoding), source, x);
      EXPECT_LT(error, narrower * 0.95) << UnitEncodingName(encoding) << " " << block;
      narrower = error;
    }
    EXPECT_LT(narrower, 0.2 * plain) << UnitEncodingName(encoding);
  }
}

TEST(ErrorFeedbackTest, NeitherThreadsNorTheOrderOfColumnsMatter) {
  const auto moments = Moments(Inputs(), 40);
  const auto source = Normals(kInputs * kOutputs, 1, 5);
  auto expected = source;
  ASSERT_TRUE(
      AdjustForRounding(UnitEncoding::kQ4, moments, InOrder(), kOutputs, 1, expected.data()).ok());
  for (const uint32_t threads : {1u, 3u}) {
    std::vector<uint32_t> units = InOrder();
    std::mt19937 random(threads);
    std::shuffle(units.begin(), units.end(), random);
    std::vector<float> columns(source.size());
    for (size_t c = 0; c < units.size(); ++c) {
      std::copy_n(&source[units[c] * kOutputs], kOutputs, &columns[c * kOutputs]);
    }
    ASSERT_TRUE(
        AdjustForRounding(UnitEncoding::kQ4, moments, units, kOutputs, threads, columns.data())
            .ok());
    for (size_t i = 0; i < columns.size(); ++i) {
      ASSERT_EQ(columns[i], expected[units[i / kOutputs] * kOutputs + i % kOutputs]);
    }
  }
}

TEST(ErrorFeedbackTest, WithoutAnythingToGoByNothingChanges) {
  const auto source = Normals(kInputs * kOutputs, 1, 6);
  const std::vector<float> silent(kInputs * kTokens, 0.0f);
  std::vector<float> apart(kInputs * kInputs, 0.0f);  // one input at a time
  for (uint32_t i = 0; i < kInputs; ++i) apart[i * kInputs + i] = 1;
  InputMoments unrelated(kInputs, kInputs);
  unrelated.Add(apart.data(), kInputs);
  for (const InputMoments& moments :
       {InputMoments(kInputs, kInputs), Moments(silent, kInputs), unrelated}) {
    auto columns = source;
    ASSERT_TRUE(
        AdjustForRounding(UnitEncoding::kQ4, moments, InOrder(), kOutputs, 2, columns.data()).ok());
    EXPECT_EQ(columns, source);
  }
}

TEST(ErrorFeedbackTest, InputsThatAreCopiesOrSilentAreHarmless) {
  auto x = Inputs();
  for (uint32_t t = 0; t < kTokens; ++t) {
    x[t * kInputs + 7] = x[t * kInputs + 6];
    x[t * kInputs + 20] = 0;
  }
  const auto source = Normals(kInputs * kOutputs, 1, 7);
  auto columns = source;
  ASSERT_TRUE(AdjustForRounding(UnitEncoding::kQ4, Moments(x, kInputs), InOrder(), kOutputs, 2,
                                columns.data())
                  .ok());
  EXPECT_LT(OutputError(Stored(columns, UnitEncoding::kQ4), source, x),
            0.2 * OutputError(Stored(source, UnitEncoding::kQ4), source, x));
}

TEST(ErrorFeedbackTest, MomentsThatAreNotFiniteAreRefused) {
  auto x = Inputs();
  x[5] = std::numeric_limits<float>::infinity();
  auto columns = Normals(kInputs * kOutputs, 1, 8);
  const absl::Status status = AdjustForRounding(UnitEncoding::kQ4, Moments(x, kInputs), InOrder(),
                                                kOutputs, 2, columns.data());
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
}

}  // namespace tidegate::error_feedback_test
