// add_columns: every table bitwise equal to the definition in kernels.h, however the work is cut.
// add_columns_lanes: bitwise equal to add_columns, whatever the company.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <tuple>
#include <vector>

#include "engine/kernels/kernels.h"
#include "tests/support/random_values.h"

namespace tidegate::columns_test {

// Fills outputs that must stay: unlike NaN, it shows when something is added to it.
constexpr float kUntouched = 12345.0f;

std::string RangeName(size_t begin, size_t end) {
  std::string name = std::to_string(begin);
  return name.append(" to ").append(std::to_string(end));
}

// `count` encoded columns, each 16-byte aligned but not better, and each ending where its
// allocation ends, so that the address sanitizer sees every read beyond it.
class Columns {
 public:
  Columns(UnitEncoding encoding, size_t elements, size_t count, std::mt19937& random) {
    const size_t bytes = ColumnBytes(encoding, elements);
    for (size_t k = 0; k < count; ++k) {
      uint8_t* at = storage_.emplace_back(kColumnAlign + bytes).data() + kColumnAlign;
      const std::vector<float> values = RandomFloats(elements, random);
      EncodeColumn(encoding, values.data(), elements, at);
      // The padding behind the last element is not zero but NaN: nothing may come from there.
      if (!IsGrouped(encoding)) {
        const size_t used = elements * (encoding == UnitEncoding::kF32 ? 4 : 2);
        std::fill(at + used, at + bytes, uint8_t{0xff});
      }
      pointers_.push_back(at);
      decoded_.emplace_back(elements);
      DecodeColumn(encoding, at, elements, decoded_.back().data());
    }
  }
  const uint8_t* const* pointers() const { return pointers_.data(); }
  float decoded(size_t k, size_t j) const { return decoded_[k][j]; }

 private:
  std::vector<std::vector<uint8_t>> storage_;
  std::vector<const uint8_t*> pointers_;
  std::vector<std::vector<float>> decoded_;
};

void ExpectSameBits(const std::vector<float>& expected, const std::vector<float>& actual,
                    const std::string& what) {
  ASSERT_EQ(expected.size(), actual.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(expected[i]), std::bit_cast<uint32_t>(actual[i]))
        << what << " at " << i << ": " << expected[i] << " and " << actual[i];
  }
}

class ColumnsTest : public testing::TestWithParam<std::tuple<UnitEncoding, SupportedKernelTable>> {
 protected:
  UnitEncoding encoding() const { return std::get<0>(GetParam()); }
  const Kernels& kernels() const { return *std::get<1>(GetParam()).kernels; }
  const Kernels& scalar() const { return *std::get<1>(GetParam()).scalar; }
  // Whether coefficient * scale is rounded to bfloat16.
  bool rounds() const {
    return encoding() == UnitEncoding::kQ4 && &scalar() == &ScalarKernels(Precision::kFast);
  }

  // y of `count` columns by the scalar table, from the same start.
  std::vector<float> Expected(const Columns& columns, const std::vector<float>& coefficients,
                              size_t elements, size_t begin, size_t end, std::vector<float> y) {
    scalar().add_columns(encoding(), columns.pointers(), coefficients.data(), coefficients.size(),
                         elements, begin, end, y.data());
    return y;
  }

  std::mt19937 random_{1234};
};

std::vector<size_t> Lengths(UnitEncoding encoding) {
  if (IsGrouped(encoding)) return {32, 64, 96, 128, 160, 512, 544, 768, 1024, 4096, 4128, 8224};
  return {1,  2,  7,  8,  9,   15,  16,  17,  31,   32,   33,
          63, 64, 65, 96, 127, 129, 511, 768, 1000, 4095, 4100};
}

// The scalar table against arithmetic that shares nothing with it: doubles over decoded columns.
TEST_P(ColumnsTest, IsTheWeightedSumOfColumns) {
  for (const size_t elements : Lengths(encoding())) {
    const size_t count = 13 + elements % 3 * 4;  // few and many columns go different ways
    const Columns columns(encoding(), elements, count, random_);
    const std::vector<float> coefficients = RandomFloats(count, random_);
    const std::vector<float> start = RandomFloats(elements, random_);
    std::vector<float> y = start;
    kernels().add_columns(encoding(), columns.pointers(), coefficients.data(), count, elements, 0,
                          elements, y.data());
    for (size_t j = 0; j < elements; ++j) {
      double exact = start[j];
      double magnitude = std::fabs(start[j]);
      for (size_t k = 0; k < count; ++k) {
        const double term = static_cast<double>(coefficients[k]) * columns.decoded(k, j);
        exact += term;
        magnitude += std::fabs(term);
      }
      // One rounding per step and one for coefficient * scale.
      const double rounding = rounds() ? 0x1p-8 : 0x1p-23;
      ASSERT_NEAR(y[j], exact, (count * 0x1p-23 + rounding) * magnitude) << elements << " at " << j;
    }
  }
}

TEST_P(ColumnsTest, EqualsScalarForEveryCount) {
  for (const size_t elements : Lengths(encoding())) {
    const size_t largest = elements > 1100 ? 9 : 19;
    const Columns columns(encoding(), elements, largest, random_);
    for (size_t count = 0; count <= largest; ++count) {
      const std::vector<float> coefficients = RandomFloats(count, random_);
      const std::vector<float> start = RandomFloats(elements, random_);
      std::vector<float> y = start;
      y.push_back(kUntouched);  // One past the end.
      kernels().add_columns(encoding(), columns.pointers(), coefficients.data(), count, elements, 0,
                            elements, y.data());
      ASSERT_EQ(y.back(), kUntouched);
      y.pop_back();
      ExpectSameBits(Expected(columns, coefficients, elements, 0, elements, start), y,
                     std::to_string(elements) + " elements, " + std::to_string(count) + " columns");
    }
  }
}

TEST_P(ColumnsTest, UnalignedOutputsAreFine) {
  const size_t elements = 416;
  const size_t count = 17;
  const Columns columns(encoding(), elements, count, random_);
  const std::vector<float> coefficients = RandomFloats(count, random_);
  for (size_t offset = 0; offset < 17; ++offset) {
    std::vector<float> y(elements + offset, 0.25f);
    kernels().add_columns(encoding(), columns.pointers(), coefficients.data(), count, elements, 0,
                          elements, y.data() + offset);
    const std::vector<float> start(elements, 0.25f);
    ExpectSameBits(Expected(columns, coefficients, elements, 0, elements, start),
                   std::vector<float>(y.begin() + static_cast<ptrdiff_t>(offset), y.end()),
                   "offset " + std::to_string(offset));
  }
}

TEST_P(ColumnsTest, WritesOnlyItsRange) {
  for (const size_t elements : {size_t{768}, size_t{8224}, size_t{1000}}) {
    if (IsGrouped(encoding()) && elements % kQuantGroup != 0) continue;
    const size_t count = 18;
    const Columns columns(encoding(), elements, count, random_);
    const std::vector<float> coefficients = RandomFloats(count, random_);
    for (const size_t begin : {size_t{0}, size_t{32}, size_t{352}, elements / 64 * 32, elements}) {
      for (const size_t end : {begin, begin + 32, begin + 544, elements}) {
        if (end > elements) continue;
        std::vector<float> start(elements, kUntouched);
        for (size_t j = begin; j < end; ++j) start[j] = 0.5f;
        std::vector<float> y = start;
        kernels().add_columns(encoding(), columns.pointers(), coefficients.data(), count, elements,
                              begin, end, y.data());
        ExpectSameBits(Expected(columns, coefficients, elements, begin, end, start), y,
                       RangeName(begin, end));
      }
    }
  }
}

TEST_P(ColumnsTest, CuttingIntoCallsAndRangesChangesNothing) {
  const size_t elements = 16384 + 4128;  // more than one tile of outputs
  const size_t count = 40;
  const Columns columns(encoding(), elements, count, random_);
  const std::vector<float> coefficients = RandomFloats(count, random_);
  const std::vector<float> start = RandomFloats(elements, random_);
  const std::vector<float> whole = Expected(columns, coefficients, elements, 0, elements, start);
  for (int round = 0; round < 8; ++round) {
    std::vector<float> y = start;
    for (size_t k = 0; k < count;) {
      const size_t n = std::min(count - k, 1 + random_() % 25);
      for (size_t begin = 0; begin < elements;) {
        const size_t end = std::min(elements, begin + 32 * (1 + random_() % 300));
        kernels().add_columns(encoding(), columns.pointers() + k, coefficients.data() + k, n,
                              elements, begin, end, y.data());
        begin = end;
      }
      k += n;
    }
    ExpectSameBits(whole, y, "round " + std::to_string(round));
  }
}

TEST_P(ColumnsTest, ExtremeCoefficientsStayExact) {
  // Products that underflow or lose bits: a decoder that folds the scale elsewhere would show.
  const size_t elements = 224;
  const size_t count = 24;
  const Columns columns(encoding(), elements, count, random_);
  std::vector<float> coefficients = {1e-38f, -1e-42f, 3e30f, -0.0f, 0x1p-149f, 1e-20f, 7.f, 0};
  while (coefficients.size() < count)
    coefficients.push_back(-coefficients[coefficients.size() - 7]);
  if (rounds()) {  // Denormal numbers may count as 0.
    for (float& c : coefficients) c = std::fabs(c) < 1e-30f ? 0.0f : c;
  }
  const std::vector<float> start(elements, 0.0f);
  std::vector<float> y = start;
  kernels().add_columns(encoding(), columns.pointers(), coefficients.data(), count, elements, 0,
                        elements, y.data());
  ExpectSameBits(Expected(columns, coefficients, elements, 0, elements, start), y, "extremes");
}

// Coefficients and outputs of several lanes. Every output vector begins at another address relative
// to a vector's size and has kUntouched in front of and behind what is written.
class Lanes {
 public:
  Lanes(size_t lanes, size_t count, size_t elements, std::mt19937& random) : elements_(elements) {
    for (size_t l = 0; l < lanes; ++l) {
      coefficients_.push_back(RandomFloats(count, random));
      outputs_.push_back(RandomFloats(elements + l % 16 + 2, random));
      std::fill_n(outputs_[l].begin(), l % 16 + 1, kUntouched);
      outputs_[l].back() = kUntouched;
      coefficient_pointers_.push_back(coefficients_[l].data());
      output_pointers_.push_back(outputs_[l].data() + l % 16 + 1);
    }
  }

  // Coefficients and outputs become so much smaller.
  void Scale(float factor) {
    for (auto* values : {&coefficients_, &outputs_}) {
      for (std::vector<float>& lane : *values) {
        for (float& value : lane) value = value == kUntouched ? value : value * factor;
      }
    }
  }

  // Adds `columns` to every lane, then compares each with what add_columns gives for it alone.
  void ExpectAsAlone(const Kernels& kernels, UnitEncoding encoding, const Columns& columns,
                     size_t begin, size_t end) {
    const size_t count = coefficients_.empty() ? 0 : coefficients_[0].size();
    std::vector<std::vector<float>> expected = outputs_;
    for (size_t l = 0; l < expected.size(); ++l) {
      kernels.add_columns(encoding, columns.pointers(), coefficients_[l].data(), count, elements_,
                          begin, end, expected[l].data() + l % 16 + 1);
    }
    kernels.add_columns_lanes(encoding, columns.pointers(), coefficient_pointers_.data(), count,
                              elements_, begin, end, output_pointers_.data(), outputs_.size());
    for (size_t l = 0; l < expected.size(); ++l) {
      ExpectSameBits(expected[l], outputs_[l],
                     "lane " + std::to_string(l) + " of " + std::to_string(expected.size()) + ", " +
                         std::to_string(count) + " columns, " + RangeName(begin, end));
    }
  }

 private:
  size_t elements_;
  std::vector<std::vector<float>> coefficients_;
  std::vector<std::vector<float>> outputs_;
  std::vector<const float*> coefficient_pointers_;
  std::vector<float*> output_pointers_;
};

TEST_P(ColumnsTest, ALaneGetsWhatItGetsAlone) {
  for (const size_t elements : Lengths(encoding())) {
    const size_t most = elements > 1100 ? 2 : 17;
    const Columns columns(encoding(), elements, 21, random_);
    for (size_t i = 0; i < most; ++i) {
      const size_t lanes = elements > 1100 ? 1 + random_() % 17 : i + 1;
      // Few and many columns go different ways, and so do whole batches and the rest.
      const size_t count = i % 3 == 0 ? 16 : 1 + random_() % 21;
      Lanes(lanes, count, elements, random_)
          .ExpectAsAlone(kernels(), encoding(), columns, 0, elements);
    }
  }
}

TEST_P(ColumnsTest, LanesWriteOnlyTheirRange) {
  const size_t elements = 1120;
  const Columns columns(encoding(), elements, 70, random_);
  for (const size_t lanes : {size_t{0}, size_t{1}, size_t{2}, size_t{7}, size_t{11}}) {
    for (const size_t begin : {size_t{0}, size_t{32}, size_t{352}, elements}) {
      for (const size_t end : {begin, begin + 32, begin + 544, elements}) {
        if (end > elements) continue;
        const size_t count = end - begin > 100 ? 19 : 70;
        Lanes(lanes, count, elements, random_)
            .ExpectAsAlone(kernels(), encoding(), columns, begin, end);
      }
    }
  }
}

// Denormal products may count as 0, but then for a lane as for its columns alone: 70 columns are
// neither whole batches nor, past 64 of them, many.
TEST_P(ColumnsTest, ALaneRoundsDenormalsAsAlone) {
  const size_t elements = 416;
  const size_t count = 71;
  const Columns columns(encoding(), elements, count, random_);
  Lanes lanes(7, count, elements, random_);
  lanes.Scale(0x1p-126f);
  lanes.ExpectAsAlone(kernels(), encoding(), columns, 0, elements);
}

TEST_P(ColumnsTest, LanesOfMoreThanOneTile) {
  const size_t elements = 16384 + 4128;
  const Columns columns(encoding(), elements, 18, random_);
  Lanes(9, 18, elements, random_).ExpectAsAlone(kernels(), encoding(), columns, 0, elements);
}

INSTANTIATE_TEST_SUITE_P(Tables, ColumnsTest,
                         testing::Combine(testing::Values(UnitEncoding::kF32, UnitEncoding::kF16,
                                                          UnitEncoding::kQ8, UnitEncoding::kQ4),
                                          testing::ValuesIn(SupportedKernels().begin(),
                                                            SupportedKernels().end())),
                         [](const auto& instance) {
                           return std::string(UnitEncodingName(std::get<0>(instance.param))) + "_" +
                                  std::string(std::get<1>(instance.param).kernels->name);
                         });

}  // namespace tidegate::columns_test
