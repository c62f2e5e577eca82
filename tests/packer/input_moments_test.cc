#include "packer/input_moments.h"

#include <gtest/gtest.h>

#include <random>

namespace tidegate::input_moments_test {

TEST(InputMomentsTest, SumsProductsWithinBlocks) {
  constexpr uint32_t kInputs = 10, kTokens = 7;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(kInputs * kTokens);
  for (float& v : x) v = normal(random);
  for (const uint32_t block : {1u, 4u, 10u, 64u}) {
    InputMoments moments(kInputs, block);
    EXPECT_EQ(moments.tokens(), 0u);
    moments.Add(x.data(), 5);
    moments.Add(x.data() + 5 * kInputs, 2);
    EXPECT_EQ(moments.tokens(), kTokens);
    for (uint32_t i = 0; i < kInputs; ++i) {
      for (uint32_t j = i / block * block; j < std::min(kInputs, (i / block + 1) * block); ++j) {
        double sum = 0;
        for (uint32_t t = 0; t < kTokens; ++t) sum += x[t * kInputs + i] * x[t * kInputs + j];
        EXPECT_NEAR(moments.At(i, j), sum, 1e-5) << block << " " << i << " " << j;
        EXPECT_EQ(moments.At(i, j), moments.At(j, i));
      }
    }
  }
}

TEST(InputMomentsTest, BlocksStayWithinTheMemoryGiven) {
  constexpr uint64_t kGiB = uint64_t{1} << 30;
  EXPECT_EQ(MomentBlock(6, 256, 1024, kGiB), 1024u);
  EXPECT_EQ(MomentBlock(32, 4096, 14336, kGiB), 448u);  // 8B
  EXPECT_EQ(MomentBlock(80, 8192, 28672, kGiB), 64u);   // 70B
  EXPECT_LE(InputMoments::Bytes((4096 + 14336) * 32, 448), kGiB);
  EXPECT_EQ(MomentBlock(1000, 100'000, 1'000'000, 1), 64u);
}

}  // namespace tidegate::input_moments_test
