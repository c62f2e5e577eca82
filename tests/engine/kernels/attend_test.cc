// Attention of one token, in every table, against doubles; the same bits however rows lie.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "engine/kernels/kernels.h"
#include "tests/support/random_values.h"

namespace tidegate::attend_test {

class AttendTest : public testing::TestWithParam<SupportedKernelTable> {
 protected:
  const Kernels& kernels() const { return *GetParam().kernels; }
  std::mt19937 random_{5};
};

// Keys and values of some positions, exact in halves.
struct Rows {
  Rows(size_t positions, size_t size, std::mt19937& random) : head_size(size) {
    std::normal_distribution<float> normal;
    for (std::vector<float>* rows : {&keys, &values}) {
      for (size_t i = 0; i < positions * size; ++i) {
        rows->push_back(HalfToFloat(FloatToHalf(normal(random))));
      }
    }
  }
  const size_t head_size;
  std::vector<float> keys, values;  // [positions, head_size]
};

// As blocks of Q8_0 give them back.
Rows Rounded(Rows rows) {
  std::vector<uint8_t> blocks(rows.keys.size() / kKvBlock * kKvBlockBytes);
  for (std::vector<float>* values : {&rows.keys, &rows.values}) {
    ScalarKernels(Precision::kExact).to_q8(values->data(), values->size(), blocks.data());
    DecodeGgmlRow(GgmlType::kQ8_0, blocks.data(), values->size(), values->data());
  }
  return rows;
}

// The same in pages, with NaN around what is theirs.
class Pages {
 public:
  Pages(const Rows& rows, KvType type, size_t page_tokens) {
    const size_t row_bytes = KvRowBytes(type, rows.head_size);
    view_ = {.keys = 8,
             .values = 16 + page_tokens * row_bytes,
             .page_tokens = page_tokens,
             .type = type};
    const size_t page_bytes = view_.values + page_tokens * row_bytes + 8;
    const size_t positions = rows.keys.size() / rows.head_size;
    for (size_t p = 0; p < positions; ++p) {
      if (p % page_tokens == 0) pages_.emplace_back(page_bytes, std::byte{0xff});
      std::byte* const row = pages_.back().data() + p % page_tokens * row_bytes;
      Put(type, rows.keys.data() + p * rows.head_size, rows.head_size, row + view_.keys);
      Put(type, rows.values.data() + p * rows.head_size, rows.head_size, row + view_.values);
    }
    for (const std::vector<std::byte>& page : pages_) pointers_.push_back(page.data());
    view_.pages = pointers_.data();
  }
  const KvView& view() const { return view_; }

 private:
  static void Put(KvType type, const float* from, size_t n, std::byte* to) {
    if (type == KvType::kQ8) {
      return ScalarKernels(Precision::kExact).to_q8(from, n, reinterpret_cast<uint8_t*>(to));
    }
    for (size_t i = 0; i < n; ++i) {
      const uint16_t half = FloatToHalf(from[i]);
      if (type == KvType::kF16) std::memcpy(to + 2 * i, &half, 2);
      if (type == KvType::kF32) std::memcpy(to + 4 * i, from + i, 4);
    }
  }

  KvView view_;
  std::vector<std::vector<std::byte>> pages_;
  std::vector<const std::byte*> pointers_;
};

std::vector<double> ExactAttention(const std::vector<float>& query, const Rows& rows, size_t first,
                                   size_t tokens, double scale, double cap) {
  std::vector<double> weights(tokens);
  const size_t n = query.size();
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t i = 0; i < n; ++i) {
      weights[t] += scale * query[i] * rows.keys[(first + t) * n + i];
    }
  }
  for (double& weight : weights) {
    if (cap != 0) weight = cap * std::tanh(weight / cap);
  }
  const double largest = *std::max_element(weights.begin(), weights.end());
  double total = 0;
  for (double& weight : weights) total += weight = std::exp(weight - largest);
  std::vector<double> out(n);
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t i = 0; i < n; ++i) out[i] += weights[t] / total * rows.values[(first + t) * n + i];
  }
  return out;
}

// With NaN behind the results.
std::vector<float> Attend(const Kernels& kernels, const std::vector<float>& query,
                          const Pages& pages, size_t first, size_t tokens, float scale, float cap) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> scores(tokens + 1, nan), out(query.size() + 1, nan);
  kernels.attend(query.data(), pages.view(), first, tokens, query.size(), scale, cap, scores.data(),
                 out.data());
  EXPECT_TRUE(std::isnan(scores[tokens]));
  EXPECT_TRUE(std::isnan(out.back()));
  out.pop_back();
  return out;
}

TEST_P(AttendTest, AttendIsSoftmaxAttention) {
  for (const size_t head_size : {1, 7, 8, 31, 48, 64, 80, 128, 129}) {
    for (const size_t tokens : {1, 2, 15, 16, 17, 100}) {
      const size_t first = tokens % 3;
      const Rows rows(first + tokens, head_size, random_);
      const std::vector<float> query = RandomFloats(head_size, random_);
      const float scale = 1.0f / std::sqrt(static_cast<float>(head_size));
      for (const KvType type : {KvType::kF32, KvType::kF16}) {
        const Pages pages(rows, type, 8);
        for (const float cap : {0.0f, 0.7f}) {
          const std::vector<double> exact = ExactAttention(query, rows, first, tokens, scale, cap);
          const std::vector<float> out = Attend(kernels(), query, pages, first, tokens, scale, cap);
          for (size_t i = 0; i < head_size; ++i) {
            // Scores and values are of order one; each of their sums errs by its length in ulps.
            ASSERT_NEAR(out[i], exact[i], 2e-6 * std::sqrt(static_cast<double>(head_size + tokens)))
                << head_size << " x " << tokens << " at " << i;
          }
        }
      }
    }
  }
}

TEST_P(AttendTest, AttendOfEightBitsIsThatOfTheFloatsTheyStandFor) {
  for (const size_t head_size : {32, 64, 96, 128, 160, 256, 288}) {
    for (const size_t tokens : {1, 2, 17, 100}) {
      const size_t first = tokens % 3;
      const Rows given(first + tokens, head_size, random_);
      const Rows rounded = Rounded(given);
      const Pages pages(given, KvType::kQ8, 8);
      const std::vector<float> query = RandomFloats(head_size, random_);
      const float scale = 1.0f / std::sqrt(static_cast<float>(head_size));
      for (const float cap : {0.0f, 0.7f}) {
        const std::vector<float> out = Attend(kernels(), query, pages, first, tokens, scale, cap);
        EXPECT_EQ(out, Attend(kernels(), query, Pages(rounded, KvType::kF32, 8), first, tokens,
                              scale, cap))
            << head_size << " x " << tokens;
        const std::vector<double> exact = ExactAttention(query, rounded, first, tokens, scale, cap);
        const std::vector<float> twin =
            Attend(*GetParam().scalar, query, pages, first, tokens, scale, cap);
        const double limit = 2e-6 * std::sqrt(static_cast<double>(head_size + tokens));
        for (size_t i = 0; i < head_size; ++i) {
          ASSERT_NEAR(out[i], exact[i], limit) << head_size << " x " << tokens << " at " << i;
          ASSERT_NEAR(out[i], twin[i], 2 * limit) << head_size << " x " << tokens << " at " << i;
        }
      }
    }
  }
}

TEST_P(AttendTest, PagesChangeNoBitOfAttend) {
  for (const size_t head_size : {7, 64, 128, 200}) {
    const Rows rows(150, head_size, random_);
    const std::vector<float> query = RandomFloats(head_size, random_);
    for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8}) {
      if (!CheckKvType(type, head_size).ok()) continue;
      const Pages one(rows, type, 150);
      for (const size_t page_tokens : {1, 7, 32, 149}) {
        const Pages pages(rows, type, page_tokens);
        for (const auto& [first, tokens] :
             {std::pair<size_t, size_t>(0, 150), {0, 32}, {31, 2}, {32, 64}, {33, 117}}) {
          EXPECT_EQ(Attend(kernels(), query, pages, first, tokens, 0.1f, 0),
                    Attend(kernels(), query, one, first, tokens, 0.1f, 0))
              << page_tokens << ": " << first << " + " << tokens;
        }
      }
    }
  }
}

TEST_P(AttendTest, AttendSurvivesLargeScores) {
  // exp(score) alone would overflow; the softmax must not.
  Rows rows(3, 2, random_);
  rows.keys = {100.0f, 100.0f, -100.0f, -100.0f, 99.99f, 100.0f};
  rows.values = {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f};
  const std::vector<float> out =
      Attend(kernels(), {100.0f, 100.0f}, Pages(rows, KvType::kF32, 2), 0, 3, 1.0f, 0);
  const double e = std::exp(-1.0);
  EXPECT_NEAR(out[0], (1 + 5 * e) / (1 + e), 1e-2);  // The scores are 2e4: 1 ulp is 2e-3.
  EXPECT_NEAR(out[1], (2 + 6 * e) / (1 + e), 1e-2);
}

INSTANTIATE_TEST_SUITE_P(Tables, AttendTest,
                         testing::ValuesIn(SupportedKernels().begin(), SupportedKernels().end()),
                         [](const auto& instance) {
                           return std::string(instance.param.kernels->name);
                         });

}  // namespace tidegate::attend_test
