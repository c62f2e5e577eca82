#include "packer/lora.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "packer/pack_writer.h"
#include "proto/store/v1/unit_codec.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::lora_test {

using ::testing::HasSubstr;

GgufBuilder Adapter() {
  GgufBuilder gguf;
  gguf.SetString("general.architecture", "llama");
  gguf.SetString("general.type", "adapter");
  gguf.SetString("adapter.type", "lora");
  gguf.SetFloat("adapter.lora.alpha", 8);
  std::vector<float> a(2 * 64), b(96 * 2);
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i % 7) - 3;
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i % 5) - 2;
  gguf.AddTensor("blk.1.ffn_up.weight.lora_a", GgmlType::kF32, {64, 2}, a);
  gguf.AddTensor("blk.1.ffn_up.weight.lora_b", GgmlType::kF32, {2, 96}, b);
  gguf.AddTensor("blk.0.attn_q.weight.lora_a", GgmlType::kF16, {64, 1},
                 std::vector<float>(64, 0.5f));
  gguf.AddTensor("blk.0.attn_q.weight.lora_b", GgmlType::kF32, {1, 64}, std::vector<float>(64, 1));
  return gguf;
}

class LoraTest : public ::testing::Test {
 protected:
  void SetUp() override {
    LlamaGguf({.matrices = GgmlType::kF16}).WriteTo(dir_.File("m.gguf"));
    Adapter().WriteTo(dir_.File("a.gguf"));
    model_ = std::make_unique<SourceModel>(*SourceModel::Open(dir_.File("m.gguf")));
  }

  TempDir dir_;
  std::unique_ptr<SourceModel> model_;
};

TEST_F(LoraTest, AddsScaledProducts) {
  const auto set = LoraSet::Open(*model_, {{dir_.File("a.gguf"), 0.5f}});
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_TRUE(set->Touches("blk.1.ffn_up.weight"));
  EXPECT_FALSE(set->Touches("blk.0.ffn_up.weight"));
  EXPECT_EQ(set->names(), std::vector<std::string>{"a.gguf=0.5"});
  const GgufTensor& up = *model_->FindTensor("blk.1.ffn_up.weight");
  std::vector<float> rows(10 * 64, 100), sliced = rows;
  ASSERT_TRUE(set->AddTo(up, 20, 10, rows.data()).ok());
  ASSERT_TRUE(set->AddTo(SliceRows(up, 15, 30), 5, 10, sliced.data()).ok());
  EXPECT_EQ(sliced, rows);
  for (int r = 0; r < 10; ++r) {
    for (int c = 0; c < 64; ++c) {
      float product = 0;
      for (int k = 0; k < 2; ++k) {
        product += (static_cast<float>(((20 + r) * 2 + k) % 5) - 2) *
                   (static_cast<float>((k * 64 + c) % 7) - 3);
      }
      ASSERT_EQ(rows[r * 64 + c], 100 + 0.5f * 8 / 2 * product) << r << " " << c;
    }
  }
  std::vector<float> same(64, 1);
  ASSERT_TRUE(set->AddTo(*model_->FindTensor("blk.0.ffn_up.weight"), 0, 1, same.data()).ok());
  EXPECT_EQ(same, std::vector<float>(64, 1));
}

TEST_F(LoraTest, PacksHoldTheSum) {
  const auto report =
      WritePack(*model_, dir_.File("p"),
                {.units = UnitEncoding::kF32,
                 .adapters = {{dir_.File("a.gguf"), 1.5f}, {dir_.File("a.gguf"), 0.5f}}},
                nullptr);
  ASSERT_TRUE(report.ok()) << report.status();
  const auto fd = UniqueFd::Open(dir_.File("p"), O_RDONLY);
  const auto index = ReadPackIndex(fd->get(), "p");
  ASSERT_TRUE(index.ok()) << index.status();
  const store::v1::Source& origin = index->manifest.source();
  EXPECT_EQ(origin.file_name(), "m.gguf");
  EXPECT_THAT(origin.adapters(), ::testing::ElementsAre("a.gguf=1.5", "a.gguf=0.5"));
  for (const auto& tensor : index->manifest.static_tensors()) {
    if (tensor.name() == "blk.0.attn_k.weight") {
      EXPECT_EQ(tensor.type(), 1u);  // untouched: F16
    }
    if (tensor.name() != "blk.0.attn_q.weight") continue;
    EXPECT_EQ(tensor.type(), 0u);  // merged: F32
    std::vector<float> stored(64 * 64), source(64 * 64);
    ASSERT_TRUE(ReadAt(fd->get(), index->header.static_offset + tensor.offset(), stored.data(),
                       tensor.bytes())
                    .ok());
    ASSERT_TRUE(model_->ReadRows(*model_->FindTensor(tensor.name()), 0, 64, source.data()).ok());
    for (size_t i = 0; i < stored.size(); ++i) ASSERT_FLOAT_EQ(stored[i], source[i] + 2 * 8 * 0.5f);
    EXPECT_EQ(Checksum(stored.data(), tensor.bytes()), tensor.xxh3());
  }
  // Input unit 5 of layer 1: its up column is the second of the unit.
  const KindGeometry& kind = index->geometry.kinds[0];
  std::vector<float> unit(2 * 96), rows(96 * 64);
  const uint64_t offset =
      index->header.blocks_offset +
      index->geometry.BlockOffset(1, UnitKind::kInput, 5 / kind.units_per_block) +
      5 % kind.units_per_block * kind.unit_bytes;
  ASSERT_TRUE(ReadAt(fd->get(), offset, unit.data(), kind.unit_bytes).ok());
  ASSERT_TRUE(
      model_->ReadRows(*model_->FindTensor("blk.1.ffn_up.weight"), 0, 96, rows.data()).ok());
  for (int r = 0; r < 96; ++r) {
    const float delta =
        (static_cast<float>(2 * r % 5) - 2) * 2 + (static_cast<float>((2 * r + 1) % 5) - 2) * 3;
    ASSERT_NEAR(unit[96 + r], rows[r * 64 + 5] + 2 * 4 * delta, 1e-5)
        << r;  // A[:, 5] is 2 and 69 % 7 - 3
  }
}

struct BadAdapter {
  const char* name;
  std::function<void(GgufBuilder&)> damage;
  const char* message;
};

class BadAdapterTest : public LoraTest, public ::testing::WithParamInterface<BadAdapter> {};

TEST_P(BadAdapterTest, IsRefused) {
  GgufBuilder adapter = Adapter();
  GetParam().damage(adapter);
  adapter.WriteTo(dir_.File("a.gguf"));
  const auto report =
      WritePack(*model_, dir_.File("p"), {.adapters = {{dir_.File("a.gguf"), 1}}}, nullptr);
  EXPECT_EQ(report.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("a.gguf: "));
  EXPECT_THAT(std::string(report.status().message()), HasSubstr(GetParam().message));
  EXPECT_FALSE(FileExists(dir_.File("p")));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadAdapterTest,
    ::testing::Values(
        BadAdapter{"AModel", [](GgufBuilder& g) { g.Remove("adapter.type"); },
                   "not a LoRA adapter"},
        BadAdapter{"OtherArchitecture",
                   [](GgufBuilder& g) { g.SetString("general.architecture", "qwen2"); },
                   "this model is 'llama'"},
        BadAdapter{"NoB", [](GgufBuilder& g) { g.RemoveTensor("blk.1.ffn_up.weight.lora_b"); },
                   "lora_b is missing"},
        BadAdapter{"NoA", [](GgufBuilder& g) { g.RemoveTensor("blk.1.ffn_up.weight.lora_a"); },
                   "blk.1.ffn_up.weight.lora_b is not half of a pair"},
        BadAdapter{"WholeTensor",
                   [](GgufBuilder& g) {
                     g.AddTensor("output_norm.weight", GgmlType::kF32, {4}, {1, 1, 1, 1});
                   },
                   "output_norm.weight is not half"},
        BadAdapter{
            "OtherModel",
            [](GgufBuilder& g) {
              g.AddTensor("blk.7.attn_q.weight.lora_a", GgmlType::kF32, {4}, {1, 1, 1, 1});
              g.AddTensor("blk.7.attn_q.weight.lora_b", GgmlType::kF32, {1}, {1});
            },
            "it changes blk.7.attn_q.weight: the adapter has a layer 7, the model only 2 layers"},
        BadAdapter{"Embedding",
                   [](GgufBuilder& g) {
                     g.AddTensor("token_embd.weight.lora_a", GgmlType::kF32, {64, 1},
                                 std::vector<float>(64));
                     g.AddTensor("token_embd.weight.lora_b", GgmlType::kF32, {1, 100},
                                 std::vector<float>(100));
                   },
                   "it changes token_embd.weight"},
        BadAdapter{"OtherShape",
                   [](GgufBuilder& g) {
                     g.AddTensor("blk.1.ffn_up.weight.lora_b", GgmlType::kF32, {2, 90},
                                 std::vector<float>(180));
                   },
                   "do not fit the model's [96, 64]"},
        BadAdapter{
            "OtherType",
            [](GgufBuilder& g) {
              g.AddRawTensor("blk.1.ffn_up.weight.lora_a", 24, {64, 2}, std::string(128, 'x'));
            },
            "I8"}),
    [](const auto& row) { return std::string(row.param.name); });

TEST_F(LoraTest, AMissingAdapterIsNamed) {
  const auto set = LoraSet::Open(*model_, {{dir_.File("none.gguf"), 1}});
  EXPECT_THAT(std::string(set.status().message()), HasSubstr("none.gguf"));
  EXPECT_FALSE(LoraSet::Open(*model_, {{dir_.File("a.gguf"), INFINITY}}).ok());
}

}  // namespace tidegate::lora_test
