// Every table against the scalar one, bit by bit.
#include "packer/kernels/pack_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

namespace tidegate::pack_kernels_test {

constexpr UnitEncoding kEncodings[] = {UnitEncoding::kF32, UnitEncoding::kF16, UnitEncoding::kQ8,
                                       UnitEncoding::kQ4};
constexpr GgmlType kTypes[] = {
    GgmlType::kF32,  GgmlType::kF16,  GgmlType::kBF16,   GgmlType::kQ4_0,
    GgmlType::kQ4_1, GgmlType::kQ5_0, GgmlType::kQ5_1,   GgmlType::kQ8_0,
    GgmlType::kQ2_K, GgmlType::kQ3_K, GgmlType::kQ4_K,   GgmlType::kQ5_K,
    GgmlType::kQ6_K, GgmlType::kQ8_K, GgmlType::kIQ4_NL, GgmlType::kIQ4_XS};

struct Encoded {
  std::unique_ptr<EncodedSlab> slab = std::make_unique<EncodedSlab>();
  std::vector<double> difference, source, stored;
};

Encoded EncodeWith(const PackKernels& kernels, UnitEncoding encoding,
                   const std::vector<float>& rows, size_t stride, size_t columns) {
  Encoded result;
  std::memset(result.slab.get(), 0xee, sizeof(EncodedSlab));
  // Not empty: sums go on from where the slab before ended.
  for (auto* sums : {&result.difference, &result.source, &result.stored}) {
    sums->assign(columns, 0.125);
  }
  kernels.encode(encoding, rows.data(), stride, columns,
                 {result.difference.data(), result.source.data(), result.stored.data()},
                 *result.slab);
  return result;
}

void ExpectSameAsScalar(const PackKernels& kernels, const std::vector<float>& rows, size_t stride,
                        size_t columns) {
  for (const UnitEncoding encoding : kEncodings) {
    SCOPED_TRACE(std::string(kernels.name) + " " + std::string(UnitEncodingName(encoding)));
    const Encoded expected = EncodeWith(ScalarPackKernels(), encoding, rows, stride, columns);
    const Encoded got = EncodeWith(kernels, encoding, rows, stride, columns);
    for (size_t k = 0; k < SlabChunks(encoding); ++k) {
      ASSERT_EQ(std::memcmp(got.slab->chunks[k], expected.slab->chunks[k], columns * kChunkBytes),
                0)
          << "chunk " << k;
    }
    if (IsGrouped(encoding)) {
      ASSERT_EQ(std::memcmp(got.slab->scales, expected.slab->scales, columns * 2), 0);
    }
    ASSERT_EQ(got.difference, expected.difference);
    ASSERT_EQ(got.source, expected.source);
    ASSERT_EQ(got.stored, expected.stored);
  }
}

TEST(PackKernelsTest, RandomColumnsEncodeToTheSameBits) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> exponent(-30, 12);
  for (const PackKernels* kernels : SupportedPackKernels()) {
    for (const size_t columns : {16u, 48u, 256u}) {
      for (int repeat = 0; repeat < 8; ++repeat) {
        const size_t stride = columns + 5;
        std::vector<float> rows(kSlabRows * stride);
        for (float& v : rows) v = normal(random);
        // Columns of all magnitudes: also where scales are subnormal halves, or vanish.
        for (size_t c = 0; c < stride; ++c) {
          const float factor = std::ldexp(1.0f, exponent(random));
          for (size_t r = 0; r < kSlabRows; ++r) rows[r * stride + c] *= factor;
        }
        ExpectSameAsScalar(*kernels, rows, stride, columns);
      }
    }
  }
}

TEST(PackKernelsTest, AwkwardColumnsEncodeToTheSameBits) {
  constexpr size_t kColumns = 64;
  std::mt19937 random(2);
  std::vector<float> rows(kSlabRows * kColumns);
  for (size_t c = 0; c < kColumns; ++c) {
    for (size_t r = 0; r < kSlabRows; ++r) {
      const auto i = static_cast<float>(random() % 31) - 15;
      float& v = rows[r * kColumns + c];
      switch (c % 8) {
        case 0:
          v = r % 2 == 0 ? 0.0f : -0.0f;
          break;
        case 1:
          v = i / 2;  // ties: halves of a step, and equal extremes of both signs
          break;
        case 2:
          v = r == 7 ? 1e-41f : 0;  // no half float is that small
          break;
        case 3:
          v = i * 0x1p-25f;  // the scale is a few of the smallest half floats
          break;
        case 4:
          v = r == c % kSlabRows ? -65504.0f * 8 : i;  // the largest scale of q4
          break;
        case 5:
          v = i * 1e30f;  // too large for half floats and their scales
          break;
        case 6:
          v = -4;  // all equal
          break;
        default:
          v = i * 0.1f;
      }
    }
  }
  for (const PackKernels* kernels : SupportedPackKernels()) {
    std::vector<float> finite = rows;
    for (size_t c = 5; c < kColumns; c += 8) {
      for (size_t r = 0; r < kSlabRows; ++r) finite[r * kColumns + c] = 1;
    }
    ExpectSameAsScalar(*kernels, finite, kColumns, kColumns);
    // Sums of the others are not numbers; they only have to say so.
    for (const UnitEncoding encoding : {UnitEncoding::kF16, UnitEncoding::kQ8, UnitEncoding::kQ4}) {
      const Encoded encoded = EncodeWith(*kernels, encoding, rows, kColumns, kColumns);
      for (size_t c = 0; c < kColumns; ++c) {
        EXPECT_EQ(std::isfinite(encoded.difference[c]),
                  c % 8 != 5 && (c % 8 != 4 || encoding != UnitEncoding::kF16))
            << kernels->name << " " << UnitEncodingName(encoding) << " column " << c;
      }
    }
  }
}

TEST(PackKernelsTest, WhatIsNoNumberShowsInTheSums) {
  for (const PackKernels* kernels : SupportedPackKernels()) {
    for (const UnitEncoding encoding : kEncodings) {
      for (const float bad : {NAN, INFINITY, -INFINITY}) {
        std::vector<float> rows(kSlabRows * kSlabLanes, 1.0f);
        rows[9 * kSlabLanes + 3] = bad;
        const Encoded encoded = EncodeWith(*kernels, encoding, rows, kSlabLanes, kSlabLanes);
        for (size_t c = 0; c < kSlabLanes; ++c) {
          EXPECT_EQ(std::isfinite(encoded.difference[c]), c != 3) << kernels->name;
          EXPECT_EQ(std::isfinite(encoded.source[c]), c != 3) << kernels->name;
        }
      }
    }
  }
}

TEST(PackKernelsTest, RowsDecodeToTheSameBits) {
  std::mt19937 random(3);
  for (const PackKernels* kernels : SupportedPackKernels()) {
    for (const GgmlType type : kTypes) {
      const size_t block = GgmlBlockElements(type);
      for (const size_t blocks : {1u, 2u, 3u, 7u, 8u, 17u, 77u}) {
        const size_t elements = blocks * block;
        std::vector<uint8_t> row(GgmlRowBytes(type, elements));
        // 0x38 and less in upper bytes: no exponent of a half, a bfloat16 or a float is full.
        for (uint8_t& byte : row) byte = static_cast<uint8_t>(random() & 0xbb);
        std::vector<float> expected(elements), got(elements + 1, -7);
        DecodeGgmlRow(type, row.data(), elements, expected.data());
        kernels->decode(type, row.data(), elements, got.data());
        ASSERT_EQ(std::memcmp(got.data(), expected.data(), elements * sizeof(float)), 0)
            << kernels->name << " " << GgmlTypeName(static_cast<uint32_t>(type)) << " " << elements;
        EXPECT_EQ(got.back(), -7);
      }
    }
  }
}

}  // namespace tidegate::pack_kernels_test
