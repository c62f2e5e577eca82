#include "engine/generation.h"

#include <gtest/gtest.h>

#include <set>

#include "engine/kernels/precision.h"

namespace tidegate::generation_test {

TEST(GenerationTest, ModeNamesRoundTrip) {
  for (const DecodeMode mode : {DecodeMode::kDense, DecodeMode::kDip, DecodeMode::kDipCa}) {
    EXPECT_EQ(*ParseDecodeMode(DecodeModeName(mode)), mode);
  }
  EXPECT_EQ(ParseDecodeMode("sparse").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(PrecisionTest, NamesRoundTrip) {
  for (const Precision precision : {Precision::kFast, Precision::kExact}) {
    EXPECT_EQ(*ParsePrecision(PrecisionName(precision)), precision);
  }
  EXPECT_EQ(ParsePrecision("slow").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(GenerationTest, FinishReasonNamesAreDistinct) {
  std::set<std::string_view> names;
  for (uint32_t r = 1; r <= static_cast<uint32_t>(FinishReason::kError); ++r) {
    names.insert(FinishReasonName(static_cast<FinishReason>(r)));
  }
  EXPECT_EQ(names.size(), static_cast<size_t>(FinishReason::kError));
}

}  // namespace tidegate::generation_test
