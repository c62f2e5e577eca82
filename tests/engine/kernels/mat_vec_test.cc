// mat_vec of every table: within the error bound of kernels.h of the exact product, and bitwise
// independent of how rows are cut. mat_vec_lanes: bitwise equal to mat_vec, whatever the company.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <tuple>
#include <vector>

#include "engine/kernels/kernels.h"
#include "proto/store/v1/static_rows.h"
#include "tests/support/random_blocks.h"
#include "tests/support/random_values.h"

namespace tidegate::mat_vec_test {

// A matrix of random weights at an odd address, poison (0xff) between and after the rows.
class Matrix {
 public:
  Matrix(GgmlType type, size_t rows, size_t columns, std::mt19937& random) {
    const size_t bytes = StaticRowBytes(type, columns);
    const size_t stride = bytes + 6;
    storage_.assign(rows * stride + 64, 0xff);
    // Files may place rows anywhere a float or half may lie; quantised blocks need two bytes.
    const size_t offset = type == GgmlType::kF32 ? 4 : 2;
    view_ = {.type = type,
             .data = reinterpret_cast<const std::byte*>(storage_.data() + offset),
             .rows = rows,
             .columns = columns,
             .row_bytes = type == GgmlType::kF32 ? bytes + 8 : stride};
    storage_.resize(rows * view_.row_bytes + 64, 0xff);
    view_.data = reinterpret_cast<const std::byte*>(storage_.data() + offset);
    for (size_t r = 0; r < rows; ++r) {
      StoreStaticRow(type, RandomGgmlRow(type, columns, random).data(), columns,
                     storage_.data() + offset + r * view_.row_bytes);
      decoded_.emplace_back(columns);
      DecodeStaticRow(type, view_.Row(r), columns, decoded_.back().data());
    }
  }
  const MatrixView& view() const { return view_; }
  const std::vector<float>& row(size_t r) const { return decoded_[r]; }

 private:
  std::vector<uint8_t> storage_;
  MatrixView view_;
  std::vector<std::vector<float>> decoded_;
};

class MatVecTest : public testing::TestWithParam<std::tuple<GgmlType, SupportedKernelTable>> {
 protected:
  GgmlType type() const { return std::get<0>(GetParam()); }
  const Kernels& kernels() const { return *std::get<1>(GetParam()).kernels; }
  // x as the table multiplies it.
  float Operand(float x) const {
    const bool bf16 = std::get<1>(GetParam()).scalar == &ScalarKernels(Precision::kFast);
    return bf16 && type() == GgmlType::kQ4_0 ? RoundToBf16(x) : x;
  }
  std::vector<size_t> ColumnCounts() const {
    if (GgmlBlockElements(type()) > 32) return {256, 512, 4096, 4352};
    if (GgmlBlockElements(type()) > 1) return {32, 64, 96, 512, 768, 1024, 4128, 8448};
    return {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 127, 129, 768, 1000};
  }
  std::mt19937 random_{99};
};

TEST_P(MatVecTest, StaysWithinTheErrorBound) {
  for (const size_t columns : ColumnCounts()) {
    const size_t rows = 7;
    const Matrix matrix(type(), rows, columns, random_);
    const std::vector<float> x = RandomFloats(columns, random_);
    std::vector<float> y(rows + 2, std::numeric_limits<float>::quiet_NaN());
    kernels().mat_vec(matrix.view(), 0, rows, x.data(), y.data());
    for (size_t r = 0; r < rows; ++r) {
      double exact = 0;
      double magnitude = 0;
      for (size_t c = 0; c < columns; ++c) {
        const double term = static_cast<double>(matrix.row(r)[c]) * Operand(x[c]);
        exact += term;
        magnitude += std::fabs(term);
      }
      ASSERT_NEAR(y[r], exact, static_cast<double>(columns) * 0x1p-23 * magnitude)
          << columns << " columns, row " << r;
    }
    ASSERT_TRUE(std::isnan(y[rows])) << "wrote past the last row";
  }
}

TEST_P(MatVecTest, RowRangesChangeNoBit) {
  for (const size_t columns : ColumnCounts()) {
    const size_t rows = 11;
    const Matrix matrix(type(), rows, columns, random_);
    const std::vector<float> x = RandomFloats(columns, random_);
    std::vector<float> alone(rows);
    for (size_t r = 0; r < rows; ++r) {
      kernels().mat_vec(matrix.view(), r, r + 1, x.data(), alone.data());
    }
    for (const auto& [begin, end] :
         {std::pair<size_t, size_t>{0, 11}, {0, 4}, {3, 8}, {10, 11}, {6, 6}}) {
      std::vector<float> y(rows, std::numeric_limits<float>::quiet_NaN());
      kernels().mat_vec(matrix.view(), begin, end, x.data(), y.data());
      for (size_t r = 0; r < rows; ++r) {
        if (r < begin || r >= end) {
          ASSERT_TRUE(std::isnan(y[r])) << "row " << r << " outside the range was written";
          continue;
        }
        ASSERT_EQ(std::bit_cast<uint32_t>(y[r]), std::bit_cast<uint32_t>(alone[r]))
            << columns << " columns, row " << r;
      }
    }
  }
}

TEST_P(MatVecTest, ALaneGetsWhatItGetsAlone) {
  constexpr size_t kRows = 11;
  constexpr size_t kMostLanes = 17;
  const float kUntouched = 12345.0f;
  for (const size_t columns : ColumnCounts()) {
    const Matrix matrix(type(), kRows, columns, random_);
    std::vector<std::vector<float>> inputs;  // At another address relative to a vector's size each.
    std::vector<const float*> x;
    std::vector<std::vector<float>> alone(kMostLanes, std::vector<float>(kRows, kUntouched));
    for (size_t l = 0; l < kMostLanes; ++l) {
      inputs.push_back(RandomFloats(columns + l % 16, random_));
      x.push_back(inputs[l].data() + l % 16);
      kernels().mat_vec(matrix.view(), 0, kRows, x[l], alone[l].data());
    }
    for (size_t lanes = 0; lanes <= kMostLanes; ++lanes) {
      if (columns > 1000 && lanes % 4 == 0) continue;
      const size_t begin = lanes % 3 * 2;
      const size_t end = lanes % 2 == 0 ? kRows : begin + 5;
      std::vector<std::vector<float>> sums(lanes, std::vector<float>(kRows, kUntouched));
      std::vector<float*> y;
      for (std::vector<float>& sum : sums) y.push_back(sum.data());
      kernels().mat_vec_lanes(matrix.view(), begin, end, x.data(), y.data(), lanes);
      for (size_t l = 0; l < lanes; ++l) {
        for (size_t r = 0; r < kRows; ++r) {
          const float expected = r < begin || r >= end ? kUntouched : alone[l][r];
          ASSERT_EQ(std::bit_cast<uint32_t>(sums[l][r]), std::bit_cast<uint32_t>(expected))
              << columns << " columns, row " << r << ", lane " << l << " of " << lanes;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Tables, MatVecTest,
    testing::Combine(testing::ValuesIn(AllGgmlTypes()),
                     testing::ValuesIn(SupportedKernels().begin(), SupportedKernels().end())),
    [](const auto& instance) {
      std::string name = GgmlTypeName(static_cast<uint32_t>(std::get<0>(instance.param)));
      return name.append("_").append(std::get<1>(instance.param).kernels->name);
    });

}  // namespace tidegate::mat_vec_test
