// Numbers that are not finite, wherever a model may have them: a check of the weights alone and
// packing both refuse them, and name the place.
#include "packer/weight_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "packer/pack_writer.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::weight_check_test {

using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr uint64_t kSize = 256;  // hidden and intermediate size: whole blocks of every type

class WeightCheckTest : public ::testing::Test {
 protected:
  GgufBuilder Model() {
    return LlamaGguf({.layers = 1, .hidden = kSize, .intermediate = kSize, .rope_freqs = true});
  }
  // What both say, which must be the same place.
  void ExpectRefused(const GgufBuilder& gguf, const std::string& text, bool vector = false) {
    gguf.WriteTo(dir_.File("m.gguf"));
    const auto source = SourceModel::Open(dir_.File("m.gguf"));
    ASSERT_TRUE(source.ok()) << source.status();
    const auto plan = PlanPack(*source, PackOptions());
    ASSERT_TRUE(plan.ok()) << plan.status();
    const absl::Status checked = CheckWeights(*source, *plan, false, nullptr);
    EXPECT_EQ(checked.code(), absl::StatusCode::kDataLoss) << checked;
    EXPECT_THAT(std::string(checked.message()), HasSubstr(text));
    EXPECT_EQ(CheckWeights(*source, *plan, true, nullptr).ok(), !vector);
    const auto report = WritePack(*source, dir_.File("p"), {}, nullptr);
    EXPECT_EQ(report.status().code(), absl::StatusCode::kDataLoss) << report.status();
    EXPECT_THAT(std::string(report.status().message()), HasSubstr(text));
  }
  static std::vector<float> Spoilt(uint64_t size, uint64_t at, float value) {
    std::vector<float> values(size, 0.5f);
    values[at] = value;
    return values;
  }

  TempDir dir_;
};

TEST_F(WeightCheckTest, AGoodModelPasses) {
  Model().WriteTo(dir_.File("m.gguf"));
  const auto source = SourceModel::Open(dir_.File("m.gguf"));
  const auto plan = PlanPack(*source, PackOptions());
  ASSERT_TRUE(plan.ok()) << plan.status();
  uint64_t last = 0, total = 0;
  EXPECT_TRUE(CheckWeights(*source, *plan, false, [&](uint64_t done, uint64_t all) {
                EXPECT_GE(done, last);
                last = done;
                total = all;
              }).ok());
  EXPECT_EQ(last, total);
  EXPECT_GT(total, 7 * kSize * kSize);
}

TEST_F(WeightCheckTest, Vectors) {
  GgufBuilder norm = Model();
  norm.AddTensor("output_norm.weight", GgmlType::kF32, {kSize}, Spoilt(kSize, 5, kNan));
  ExpectRefused(norm, "tensor output_norm.weight: element 5 is nan", true);
  GgufBuilder half = Model();
  half.AddTensor("blk.0.attn_norm.weight", GgmlType::kF16, {kSize}, Spoilt(kSize, 255, kInfinity));
  ExpectRefused(half, "tensor blk.0.attn_norm.weight: element 255 is inf", true);
  GgufBuilder bias = Model();
  bias.AddTensor("blk.0.attn_q.bias", GgmlType::kF32, {kSize}, Spoilt(kSize, 0, -kInfinity));
  ExpectRefused(bias, "tensor blk.0.attn_q.bias: element 0 is -inf", true);
}

TEST_F(WeightCheckTest, RotationFactorsAreAlsoPositive) {
  const uint64_t pairs = kSize / 4 / 2;
  for (const auto& [value, text] :
       {std::pair(kNan, "is nan"), {0.0f, "is 0, not positive"}, {-8.0f, "is -8, not positive"}}) {
    GgufBuilder gguf = Model();
    gguf.AddTensor("rope_freqs.weight", GgmlType::kF32, {pairs}, Spoilt(pairs, 3, value));
    ExpectRefused(gguf, absl::StrCat("tensor rope_freqs.weight: element 3 ", text), true);
  }
}

TEST_F(WeightCheckTest, MatricesOfFloats) {
  for (const GgmlType type : {GgmlType::kF32, GgmlType::kF16, GgmlType::kBF16}) {
    GgufBuilder embedding = Model();
    embedding.AddTensor("token_embd.weight", type, {kSize, 320},
                        Spoilt(320 * kSize, 300 * kSize + 9, kInfinity));
    ExpectRefused(embedding, "tensor token_embd.weight: row 300, column 9 is inf");
    GgufBuilder head = Model();
    head.AddTensor("output.weight", type, {kSize, 320}, Spoilt(320 * kSize, 7, kNan));
    ExpectRefused(head, "tensor output.weight: row 0, column 7 is nan");
    // One of the MLP and one of the others for each type.
    const bool half = type == GgmlType::kF16;
    for (const char* matrix :
         {half ? "blk.0.ffn_gate.weight" : "blk.0.ffn_down.weight", "blk.0.attn_output.weight"}) {
      GgufBuilder gguf = Model();
      gguf.AddTensor(matrix, type, {kSize, kSize}, Spoilt(kSize * kSize, 3 * kSize + 7, kNan));
      ExpectRefused(gguf, absl::StrCat("tensor ", matrix, ": row 3, column 7 is nan"));
    }
  }
}

// A scale that is not finite spoils the whole block.
TEST_F(WeightCheckTest, ScalesOfEveryQuantisedType) {
  for (uint32_t number = 2; number < 40; ++number) {
    if (!ToGgmlType(number).ok() || GgmlBlockElements(static_cast<GgmlType>(number)) < 2) continue;
    const auto type = static_cast<GgmlType>(number);
    const size_t row = GgmlRowBytes(type, kSize), block = GgmlBlockBytes(type);
    // Every place in a block that is a scale, by what the decoder makes of it.
    size_t scales = 0;
    const size_t width = type == GgmlType::kQ8_K ? 4 : 2;
    for (size_t at = 0; at + width <= block; at += 2) {
      std::string bytes(kSize * row, '\0');
      const uint32_t infinity = width == 4 ? 0x7f800000 : 0x7c00;
      std::memcpy(&bytes[2 * row + at], &infinity, width);
      std::vector<float> decoded(kSize);
      DecodeGgmlRow(type, &bytes[2 * row], kSize, decoded.data());
      if (std::all_of(decoded.begin(), decoded.end(), [](float v) { return std::isfinite(v); })) {
        continue;
      }
      ++scales;
      // Static matrices and units are read by different code; each sees every type's first scale.
      for (const char* matrix : {"blk.0.attn_output.weight", "blk.0.ffn_down.weight"}) {
        if (scales > 1 && matrix[6] == 'f') continue;
        GgufBuilder gguf = Model();
        gguf.AddRawTensor(matrix, number, {kSize, kSize}, bytes);
        ExpectRefused(gguf, absl::StrCat("tensor ", matrix, ": row 2, column 0 is "));
      }
    }
    EXPECT_GE(scales, 1u) << GgmlTypeName(number);
  }
}

}  // namespace tidegate::weight_check_test
