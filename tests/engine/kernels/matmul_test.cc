// The products of matmul.h: every table bitwise equal to its specification, within the stated error
// of the exact product, and independent of how tokens, outputs and columns are cut.
#include "engine/kernels/matmul.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <tuple>
#include <vector>

#include "proto/store/v1/static_rows.h"
#include "tests/support/random_blocks.h"
#include "tests/support/random_values.h"

namespace tidegate::matmul_test {

// Fills outputs that must stay: unlike NaN, it shows when something is added to it.
constexpr float kUntouched = 12345.0f;

// Weights of one kind, decodable one by one, however they are encoded.
struct Weights {
  size_t outputs = 0, depth = 0;
  std::vector<std::vector<uint8_t>> storage{};  // each ends where its allocation ends
  std::vector<const uint8_t*> columns{};
  std::vector<std::vector<float>> decoded{};  // by column or row
  MatrixView matrix{};
};

Weights RandomColumns(UnitEncoding encoding, size_t outputs, size_t depth, std::mt19937& random) {
  Weights w = {.outputs = outputs, .depth = depth};
  const size_t bytes = ColumnBytes(encoding, outputs);
  for (size_t k = 0; k < depth; ++k) {
    // 16-byte aligned but not better, as columns of a unit are.
    uint8_t* at = w.storage.emplace_back(kColumnAlign + bytes).data() + kColumnAlign;
    EncodeColumn(encoding, RandomFloats(outputs, random).data(), outputs, at);
    // The padding behind the last element is not zero but NaN: nothing may come from there.
    if (!IsGrouped(encoding)) {
      const size_t used = outputs * (encoding == UnitEncoding::kF32 ? 4 : 2);
      std::fill(at + used, at + bytes, uint8_t{0xff});
    }
    w.columns.push_back(at);
    DecodeColumn(encoding, at, outputs, w.decoded.emplace_back(outputs).data());
  }
  return w;
}

Weights RandomRows(GgmlType type, size_t outputs, size_t depth, std::mt19937& random) {
  Weights w = {.outputs = outputs, .depth = depth};
  const size_t row_bytes = StaticRowBytes(type, depth);
  std::vector<uint8_t>& storage = w.storage.emplace_back(outputs * row_bytes);
  for (size_t r = 0; r < outputs; ++r) {
    StoreStaticRow(type, RandomGgmlRow(type, depth, random).data(), depth,
                   storage.data() + r * row_bytes);
  }
  w.matrix = {.type = type,
              .data = reinterpret_cast<const std::byte*>(storage.data()),
              .rows = outputs,
              .columns = depth,
              .row_bytes = row_bytes};
  for (size_t r = 0; r < outputs; ++r) {
    DecodeStaticRow(type, w.matrix.Row(r), depth, w.decoded.emplace_back(depth).data());
  }
  return w;
}

// Tokens packed by a table, in memory as aligned as promised and no longer.
class Packed {
 public:
  Packed(const MatmulKernels& kernels, const TokensView& x)
      : memory_(static_cast<std::byte*>(std::aligned_alloc(
            kPackAlign,
            (kernels.packed_bytes(x.tokens, x.depth) + kPackAlign) / kPackAlign * kPackAlign))) {
    kernels.pack(x, 0, x.tokens, memory_.get());
  }
  const void* data() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
};

void ExpectSameBits(const std::vector<float>& expected, const std::vector<float>& actual,
                    const std::string& what) {
  ASSERT_EQ(expected.size(), actual.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(expected[i]), std::bit_cast<uint32_t>(actual[i]))
        << what << " at " << i << ": " << expected[i] << " and " << actual[i];
  }
}

std::string Shape(size_t outputs, size_t depth, size_t tokens) {
  std::string text = std::to_string(outputs);
  return text.append(" outputs, depth ")
      .append(std::to_string(depth))
      .append(", tokens ")
      .append(std::to_string(tokens));
}

// |actual - exact| of one output against doubles.
void ExpectWithinBound(const MatmulKernels& kernels, const Weights& w, bool rows,
                       const std::vector<float>& x, size_t tokens, const std::vector<float>& start,
                       const std::vector<float>& y) {
  const bool bf16 = kernels.name.ends_with("bf16");
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t j = 0; j < w.outputs; ++j) {
      double exact = start[t * w.outputs + j];
      double magnitude = std::fabs(exact);
      for (size_t k = 0; k < w.depth; ++k) {
        const float weight = rows ? w.decoded[j][k] : w.decoded[k][j];
        const double term = static_cast<double>(weight) * x[t * w.depth + k];
        exact += term;
        magnitude += std::fabs(term);
      }
      const double steps = static_cast<double>(w.depth + 1) * 0x1p-24;
      ASSERT_NEAR(y[t * w.outputs + j], exact, (steps + (bf16 ? 0x1.02p-7 : 0)) * magnitude)
          << Shape(w.outputs, w.depth, tokens) << ": output " << j << ", token " << t;
    }
  }
}

const size_t kTokenCounts[] = {1, 2, 5, 6, 7, 12, 17};

class MatMulColumnsTest : public testing::TestWithParam<std::tuple<UnitEncoding, SupportedMatmul>> {
 protected:
  UnitEncoding encoding() const { return std::get<0>(GetParam()); }
  const MatmulKernels& kernels() const { return *std::get<1>(GetParam()).kernels; }
  const MatmulKernels& scalar() const { return *std::get<1>(GetParam()).scalar; }

  // Adds all columns to outputs [begin, end) of y [tokens, outputs].
  void Add(const MatmulKernels& table, const Weights& w, const TokensView& x, size_t first,
           size_t begin, size_t end, std::vector<float>& y) const {
    const ColumnsView columns = {encoding(), w.columns.data() + first, x.depth, w.outputs};
    const Packed packed(table, x);
    table.add_columns(columns, begin, end, packed.data(), x.tokens, y.data(), w.outputs);
  }

  std::mt19937 random_{1234};
};

TEST_P(MatMulColumnsTest, EqualsScalarAndStaysWithinTheErrorBound) {
  const std::vector<size_t> grouped = {32, 64, 96, 128, 160, 288};
  const std::vector<size_t> any = {1, 15, 16, 17, 31, 33, 64, 65, 100, 127, 129, 200};
  for (const size_t outputs : IsGrouped(encoding()) ? grouped : any) {
    for (const size_t depth : {1, 2, 3, 19, 255, 256, 257, 515, 1030}) {
      const size_t tokens = kTokenCounts[random_() % std::size(kTokenCounts)];
      const Weights w = RandomColumns(encoding(), outputs, depth, random_);
      const std::vector<float> x = RandomFloats(tokens * depth, random_);
      const std::vector<float> start = RandomFloats(tokens * outputs, random_);
      const TokensView view = {x.data(), depth, nullptr, depth, tokens};
      std::vector<float> expected = start, y = start;
      Add(scalar(), w, view, 0, 0, outputs, expected);
      Add(kernels(), w, view, 0, 0, outputs, y);
      ExpectSameBits(expected, y, Shape(outputs, depth, tokens));
      ExpectWithinBound(kernels(), w, false, x, tokens, start, y);
    }
  }
}

TEST_P(MatMulColumnsTest, TokensOfAnyOrderAndStride) {
  const size_t outputs = 96, depth = 21, tokens = 8, stride = 40;
  const Weights w = RandomColumns(encoding(), outputs, depth, random_);
  const std::vector<float> x = RandomFloats(tokens * stride, random_);
  std::vector<uint32_t> index(depth);
  for (uint32_t& i : index) i = static_cast<uint32_t>(random_() % stride);
  std::vector<float> gathered;
  for (size_t t = 0; t < tokens; ++t) {
    for (const uint32_t i : index) gathered.push_back(x[t * stride + i]);
  }
  std::vector<float> expected(tokens * outputs, 0.5f), y = expected;
  Add(scalar(), w, {gathered.data(), depth, nullptr, depth, tokens}, 0, 0, outputs, expected);
  Add(kernels(), w, {x.data(), stride, index.data(), depth, tokens}, 0, 0, outputs, y);
  ExpectSameBits(expected, y, "gathered");
}

TEST_P(MatMulColumnsTest, CuttingTokensColumnsAndRangesChangesNothing) {
  const size_t outputs = 352, depth = 75, tokens = 13;
  const Weights w = RandomColumns(encoding(), outputs, depth, random_);
  const std::vector<float> x = RandomFloats(tokens * depth, random_);
  const std::vector<float> start = RandomFloats(tokens * outputs, random_);
  std::vector<float> whole = start;
  Add(kernels(), w, {x.data(), depth, nullptr, depth, tokens}, 0, 0, outputs, whole);
  for (int round = 0; round < 20; ++round) {
    std::vector<float> y = start;
    for (size_t k = 0; k < depth;) {
      const size_t count = std::min(depth - k, 1 + random_() % 30);
      for (size_t begin = 0; begin < outputs;) {
        const size_t end = std::min(outputs, begin + 32 * (1 + random_() % 8));
        for (size_t t = 0; t < tokens;) {
          const size_t few = std::min(tokens - t, 1 + random_() % 7);
          std::vector<float> part(y.begin() + static_cast<ptrdiff_t>(t * outputs),
                                  y.begin() + static_cast<ptrdiff_t>((t + few) * outputs));
          Add(kernels(), w, {x.data() + t * depth + k, depth, nullptr, count, few}, k, begin, end,
              part);
          std::copy(part.begin(), part.end(), y.begin() + static_cast<ptrdiff_t>(t * outputs));
          t += few;
        }
        begin = end;
      }
      k += count;
    }
    ExpectSameBits(whole, y, "round " + std::to_string(round));
  }
}

TEST_P(MatMulColumnsTest, WritesOnlyItsRange) {
  const size_t outputs = 320, depth = 9, tokens = 7;
  const Weights w = RandomColumns(encoding(), outputs, depth, random_);
  const std::vector<float> x = RandomFloats(tokens * depth, random_);
  const TokensView view = {x.data(), depth, nullptr, depth, tokens};
  for (const auto& [begin, end] :
       {std::pair<size_t, size_t>{0, 32}, {32, 288}, {96, 160}, {288, 320}, {64, 64}}) {
    std::vector<float> y(tokens * outputs, kUntouched);
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t j = begin; j < end; ++j) y[t * outputs + j] = 1.0f;
    }
    std::vector<float> expected = y;
    Add(scalar(), w, view, 0, begin, end, expected);
    Add(kernels(), w, view, 0, begin, end, y);
    ExpectSameBits(expected, y, std::to_string(begin) + " to " + std::to_string(end));
  }
}

class RowsTest : public testing::TestWithParam<std::tuple<GgmlType, SupportedMatmul>> {
 protected:
  GgmlType type() const { return std::get<0>(GetParam()); }
  const MatmulKernels& kernels() const { return *std::get<1>(GetParam()).kernels; }
  const MatmulKernels& scalar() const { return *std::get<1>(GetParam()).scalar; }

  // y [tokens, outputs], untouched outside of [begin, end).
  static std::vector<float> Multiply(const MatmulKernels& table, const Weights& w,
                                     const TokensView& x, size_t begin, size_t end) {
    std::vector<float> y(x.tokens * w.outputs, kUntouched);
    const Packed packed(table, x);
    table.multiply_rows(w.matrix, begin, end, packed.data(), x.tokens, y.data(), w.outputs);
    return y;
  }

  std::vector<size_t> Depths() const {
    if (GgmlBlockElements(type()) > 32) return {256, 768};
    if (GgmlBlockElements(type()) > 1) return {32, 64, 96, 512, 544, 1056};
    return {1, 2, 7, 31, 32, 33, 63, 65, 127, 256, 257, 600, 1100};
  }
  std::mt19937 random_{99};
};

TEST_P(RowsTest, EqualsScalarAndStaysWithinTheErrorBound) {
  for (const size_t outputs : {1, 7, 16, 17, 33, 63, 64, 65, 100, 131}) {
    for (const size_t depth : Depths()) {
      const size_t tokens = kTokenCounts[random_() % std::size(kTokenCounts)];
      const Weights w = RandomRows(type(), outputs, depth, random_);
      const std::vector<float> x = RandomFloats(tokens * depth, random_);
      const TokensView view = {x.data(), depth, nullptr, depth, tokens};
      const std::vector<float> y = Multiply(kernels(), w, view, 0, outputs);
      ExpectSameBits(Multiply(scalar(), w, view, 0, outputs), y, Shape(outputs, depth, tokens));
      const std::vector<float> zero(tokens * outputs);
      ExpectWithinBound(kernels(), w, true, x, tokens, zero, y);
    }
  }
}

TEST_P(RowsTest, TokensAndRowRangesChangeNoBit) {
  const size_t block = GgmlBlockElements(type());
  const size_t outputs = 150, depth = (576 + block - 1) / block * block, tokens = 17;
  const Weights w = RandomRows(type(), outputs, depth, random_);
  const std::vector<float> x = RandomFloats(tokens * depth, random_);
  const std::vector<float> whole =
      Multiply(kernels(), w, {x.data(), depth, nullptr, depth, tokens}, 0, outputs);
  for (const size_t few : {1, 3, 6, 11}) {
    for (const auto& [begin, end] :
         {std::pair<size_t, size_t>{0, 150}, {0, 4}, {3, 80}, {149, 150}, {64, 128}, {6, 6}}) {
      const std::vector<float> y =
          Multiply(kernels(), w, {x.data(), depth, nullptr, depth, few}, begin, end);
      std::vector<float> expected(few * outputs, kUntouched);
      for (size_t t = 0; t < few; ++t) {
        for (size_t r = begin; r < end; ++r) expected[t * outputs + r] = whole[t * outputs + r];
      }
      ExpectSameBits(expected, y, std::to_string(begin) + " to " + std::to_string(end));
    }
  }
}

TEST(MatmulTest, PackingInPiecesIsPacking) {
  std::mt19937 random(7);
  const size_t tokens = 20, depth = 77;
  const std::vector<float> x = RandomFloats(tokens * depth, random);
  const TokensView view = {x.data(), depth, nullptr, depth, tokens};
  for (const SupportedMatmul& supported : SupportedMatmuls()) {
    const MatmulKernels& kernels = *supported.kernels;
    std::vector<uint32_t> whole(kernels.packed_bytes(tokens, depth) / sizeof(uint32_t)), pieces;
    pieces = whole;
    kernels.pack(view, 0, tokens, whole.data());
    for (size_t begin = 0; begin < tokens; begin += kTokenTile) {
      kernels.pack(view, begin, std::min(tokens, begin + kTokenTile), pieces.data());
    }
    EXPECT_EQ(whole, pieces) << kernels.name;
  }
}

TEST(MatmulTest, ExactIsF32AndFastIsTheLastTable) {
  EXPECT_TRUE(BestMatmul(Precision::kExact).name.ends_with("_f32"));
  EXPECT_EQ(&BestMatmul(Precision::kFast), SupportedMatmuls().size() > 2
                                               ? SupportedMatmuls().back().kernels
                                               : &BestMatmul(Precision::kExact));
}

const auto kTables = testing::ValuesIn(SupportedMatmuls().begin(), SupportedMatmuls().end());

INSTANTIATE_TEST_SUITE_P(Tables, MatMulColumnsTest,
                         testing::Combine(testing::Values(UnitEncoding::kF32, UnitEncoding::kF16,
                                                          UnitEncoding::kQ8, UnitEncoding::kQ4),
                                          kTables),
                         [](const auto& instance) {
                           return std::string(UnitEncodingName(std::get<0>(instance.param))) + "_" +
                                  std::string(std::get<1>(instance.param).kernels->name);
                         });

INSTANTIATE_TEST_SUITE_P(Tables, RowsTest,
                         testing::Combine(testing::ValuesIn(AllGgmlTypes()), kTables),
                         [](const auto& instance) {
                           std::string name =
                               GgmlTypeName(static_cast<uint32_t>(std::get<0>(instance.param)));
                           return name.append("_").append(
                               std::get<1>(instance.param).kernels->name);
                         });

}  // namespace tidegate::matmul_test
