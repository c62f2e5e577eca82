// Mixtures of experts: which can be packed, how their tensors become parts of a layer's units, and
// what is said about those that cannot.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "base/units.h"
#include "packer/hyper_parameters.h"
#include "packer/pack_plan.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::pack_plan_experts_test {

using ::testing::HasSubstr;
using B = GgufBuilder;

const TestModel kMixture = {.experts = 4, .experts_used = 2};

// A plan and the file it points into.
struct Planned {
  Planned(const GgufBuilder& gguf, const PackOptions& options = {}) {
    gguf.WriteTo(dir.File("m.gguf"));
    auto opened = SourceModel::Open(dir.File("m.gguf"));
    EXPECT_TRUE(opened.ok()) << opened.status();
    if (!opened.ok()) return;
    file = std::make_unique<SourceModel>(*std::move(opened));
    plan = PlanPack(*file, options);
  }
  std::vector<float> Floats(const GgufTensor& tensor) const {
    std::vector<float> values(tensor.rows() * tensor.columns());
    EXPECT_TRUE(file->ReadRows(tensor, 0, tensor.rows(), values.data()).ok());
    return values;
  }

  TempDir dir;
  std::unique_ptr<SourceModel> file;
  absl::StatusOr<PackPlan> plan = absl::UnknownError("no file");
};

TEST(ExpertPlanTest, ExpertsArePartsOfALayer) {
  const Planned planned(LlamaGguf(kMixture));
  ASSERT_TRUE(planned.plan.ok()) << planned.plan.status();
  const auto& hp = planned.plan->manifest.hyper_parameters();
  EXPECT_EQ(hp.expert_count(), 4u);
  EXPECT_EQ(hp.experts_used(), 2u);
  EXPECT_EQ(hp.shared_experts(), 0u);
  EXPECT_TRUE(hp.normalise_expert_weights());
  EXPECT_EQ(planned.plan->geometry.kinds[0].unit_count, 4 * 64u);
  EXPECT_EQ(planned.plan->geometry.kinds[1].unit_count, 4 * 96u);
  ASSERT_EQ(planned.plan->layers.size(), 2 * 4u);
  const LayerMatrices& expert = planned.plan->layers[4 + 3];  // the last of layer 1
  EXPECT_EQ(expert.down->dims, (std::vector<uint64_t>{96, 64}));
  const std::vector<float> all =
      planned.Floats(*planned.file->FindTensor("blk.1.ffn_down_exps.weight"));
  EXPECT_EQ(planned.Floats(*expert.down), std::vector<float>(all.begin() + 3 * 96 * 64, all.end()));
}

// Old files and Hugging Face folders have a tensor for each expert.
TEST(ExpertPlanTest, ExpertsApartAreThoseTogether) {
  TestModel model = kMixture;
  const Planned together(LlamaGguf(model));
  model.experts_apart = true;
  const Planned apart(LlamaGguf(model));
  ASSERT_TRUE(together.plan.ok() && apart.plan.ok()) << apart.plan.status();
  EXPECT_EQ(apart.plan->manifest.hyper_parameters().SerializeAsString(),
            together.plan->manifest.hyper_parameters().SerializeAsString());
  for (size_t i = 0; i < 2 * 4; ++i) {
    for (const auto matrix : {&LayerMatrices::gate, &LayerMatrices::up, &LayerMatrices::down}) {
      EXPECT_EQ(apart.Floats(*(apart.plan->layers[i].*matrix)),
                together.Floats(*(together.plan->layers[i].*matrix)));
    }
  }
}

TEST(ExpertPlanTest, NoBlockHoldsUnitsOfTwoExperts) {
  // 3072 hidden units of an expert would share blocks of eight, 1100 of four (not of five).
  for (const auto& [width, per_block] : {std::pair{3072u, 8u}, {1100u, 4u}, {300u, 1u}}) {
    TestModel model = kMixture;
    model.intermediate = width;
    model.hidden = 256;
    const Planned planned(LlamaGguf(model), {.units = UnitEncoding::kF16});
    ASSERT_TRUE(planned.plan.ok()) << planned.plan.status();
    const KindGeometry& hidden = planned.plan->geometry.kinds[1];
    EXPECT_EQ(hidden.units_per_block, per_block) << width;
    EXPECT_EQ(hidden.block_bytes, per_block * 512) << "no place for more than it holds";
  }
  const Planned wide(LlamaGguf(kMixture), {.units = UnitEncoding::kF32, .block_bytes = 14 * 512});
  ASSERT_TRUE(wide.plan.ok()) << wide.plan.status();
  EXPECT_EQ(wide.plan->geometry.kinds[1].units_per_block, 24u) << "28 would fit, 96 % 28 != 0";
}

TEST(ExpertPlanTest, ArchitecturesHaveTheirFacts) {
  TG_REQUIRE_SHARED("data/golden/arch");
  const auto facts = [&](const std::string& name) {
    const auto file = SourceModel::Open(SharedPath("data/golden/arch/" + name + ".gguf"));
    EXPECT_TRUE(file.ok()) << file.status();
    const auto hp = HyperParametersOf(*file);
    EXPECT_TRUE(hp.ok()) << hp.status();
    return *hp;
  };
  EXPECT_TRUE(facts("mixtral").normalise_expert_weights());
  EXPECT_EQ(facts("mixtral").expert_count(), 4u);
  const auto qwen2 = facts("qwen2moe");
  EXPECT_EQ(qwen2.intermediate_size(), 64u);
  EXPECT_EQ(qwen2.expert_count(), 6u);
  EXPECT_EQ(qwen2.experts_used(), 2u);
  EXPECT_EQ(qwen2.shared_experts(), 2u);
  EXPECT_FALSE(qwen2.normalise_expert_weights());
  EXPECT_EQ(facts("qwen3moe").shared_experts(), 0u);
  EXPECT_TRUE(facts("qwen3moe").normalise_expert_weights());
}

// A shared expert is cut into as many as it is wider than the others.
TEST(ExpertPlanTest, ASharedExpertIsTakenApart) {
  TG_REQUIRE_SHARED("data/golden/arch");
  const auto file = SourceModel::Open(SharedPath("data/golden/arch/qwen2moe.gguf"));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto plan = PlanPack(*file, PackOptions());
  ASSERT_TRUE(plan.ok()) << plan.status();
  const LayerMatrices &first = plan->layers[8 + 6], &second = plan->layers[8 + 7];
  EXPECT_EQ(first.up->name, "blk.1.ffn_up_shexp.weight");
  EXPECT_EQ(first.up->rows(), 64u);
  EXPECT_EQ(second.up->first_row, 64u);
  EXPECT_EQ(first.down->columns(), 128u) << "all of both";
  EXPECT_EQ(second.down, nullptr);
}

TEST(ExpertPlanTest, KeysThatChangeNothingAreTaken) {
  GgufBuilder gguf = LlamaGguf(kMixture);
  gguf.SetUint32("llama.expert_gating_func", 1);
  gguf.SetFloat("llama.expert_weights_scale", 1);
  gguf.SetBool("llama.expert_weights_norm", false);
  const Planned planned(gguf);
  ASSERT_TRUE(planned.plan.ok()) << planned.plan.status();
  EXPECT_FALSE(planned.plan->manifest.hyper_parameters().normalise_expert_weights());
}

struct Refusal {
  const char* name;
  std::function<void(GgufBuilder&)> damage;
  const char* message;
};

std::vector<Refusal> Refusals() {
  const auto ones = [](size_t n) { return std::vector<float>(n, 1.0f); };
  return {
      {"PlainModelThatUsesExperts", [](B& g) { g.SetUint32("llama.expert_count", 0); },
       "llama.expert_used_count is 2, but there are no experts"},
      {"NoUse", [](B& g) { g.Remove("llama.expert_used_count"); },
       "llama.expert_used_count is missing"},
      {"NoneUsed", [](B& g) { g.SetUint32("llama.expert_used_count", 0); },
       "llama.expert_used_count is 0, outside [1, 4]"},
      {"MoreUsedThanThereAre", [](B& g) { g.SetUint32("llama.expert_used_count", 5); },
       "llama.expert_used_count is 5, outside [1, 4]"},
      {"TooMany", [](B& g) { g.SetUint32("llama.expert_count", 5000); },
       "llama.expert_count is 5000, outside [0, 4096]"},
      {"TooManyInAll",
       [](B& g) {
         g.SetUint32("llama.expert_count", 4096);
         g.SetUint32("llama.block_count", 17);
       },
       "llama.expert_count is 4096: that makes 69632 experts in all layers, at most 65536"},
      {"SigmoidGates", [](B& g) { g.SetUint32("llama.expert_gating_func", 2); },
       "expert_gating_func is 2: only 1 (softmax) is supported"},
      {"ScaledWeights", [](B& g) { g.SetFloat("llama.expert_weights_scale", 2.5f); },
       "expert_weights_scale is 2.5: scaled expert weights are not supported"},
      {"SomeLayersPlain", [](B& g) { g.SetUint32("llama.leading_dense_block_count", 1); },
       "layers with and without experts are not supported"},
      {"NoRouter", [](B& g) { g.RemoveTensor("blk.1.ffn_gate_inp.weight"); },
       "tensor blk.1.ffn_gate_inp.weight is missing"},
      {"OtherRouter",
       [=](B& g) {
         g.AddTensor("blk.0.ffn_gate_inp.weight", GgmlType::kF32, {64, 3}, ones(192));
       },
       "blk.0.ffn_gate_inp.weight has the shape [64, 3], not [64, 4]"},
      {"NoExperts", [](B& g) { g.RemoveTensor("blk.0.ffn_up_exps.weight"); },
       "tensor blk.0.ffn_up_exps.weight is missing"},
      {"FewerExperts",
       [=](B& g) {
         g.AddTensor("blk.0.ffn_up_exps.weight", GgmlType::kF32, {64, 96, 3}, ones(64 * 96 * 3));
       },
       "blk.0.ffn_up_exps.weight has the shape [64, 96, 3], not [64, 96, 4]"},
      {"AllInOneMatrix",
       [=](B& g) {
         g.AddTensor("blk.0.ffn_up_exps.weight", GgmlType::kF32, {64, 384}, ones(64 * 384));
       },
       "blk.0.ffn_up_exps.weight has the shape [64, 384], not [64, 96, 4]"},
      {"OtherWidth", [](B& g) { g.SetUint32("llama.expert_feed_forward_length", 48); },
       "blk.0.ffn_gate_exps.weight has the shape [64, 96, 4], not [64, 48, 4]"},
      {"PlainMlpBesideThem",
       [=](B& g) {
         g.AddTensor("blk.0.ffn_up.weight", GgmlType::kF32, {64, 96}, ones(64 * 96));
       },
       "blk.0.ffn_up.weight is not part of a llama model"},
      {"SharedExpert",
       [=](B& g) {
         g.AddTensor("blk.0.ffn_up_shexp.weight", GgmlType::kF32, {64, 96}, ones(64 * 96));
       },
       "blk.0.ffn_up_shexp.weight is not part of a llama model"},
      {"OneApart",
       [=](B& g) {
         g.RemoveTensor("blk.0.ffn_up_exps.weight");
         g.AddTensor("blk.0.ffn_up.0.weight", GgmlType::kF32, {64, 96}, ones(64 * 96));
       },
       "tensor blk.0.ffn_up.1.weight is missing"},
  };
}

class ExpertRefusalTest : public ::testing::TestWithParam<Refusal> {};

TEST_P(ExpertRefusalTest, NamesWhatStandsInTheWay) {
  GgufBuilder gguf = LlamaGguf(kMixture);
  GetParam().damage(gguf);
  const Planned planned(gguf);
  EXPECT_EQ(planned.plan.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(planned.plan.status().message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(All, ExpertRefusalTest, ::testing::ValuesIn(Refusals()),
                         [](const auto& row) { return std::string(row.param.name); });

// Keys of an architecture that is always a mixture.
absl::Status QwenRefusal(const std::function<void(GgufBuilder&)>& damage) {
  GgufBuilder gguf;
  const auto key = [](const char* name) { return std::string("qwen2moe.") + name; };
  gguf.SetString("general.architecture", "qwen2moe");
  for (const auto& [name, value] : {std::pair("block_count", 1),
                                    {"embedding_length", 64},
                                    {"feed_forward_length", 96},
                                    {"attention.head_count", 4},
                                    {"context_length", 32},
                                    {"expert_count", 4},
                                    {"expert_used_count", 2},
                                    {"expert_feed_forward_length", 48},
                                    {"expert_shared_feed_forward_length", 96}}) {
    gguf.SetUint32(key(name), static_cast<uint32_t>(value));
  }
  gguf.SetFloat(key("attention.layer_norm_rms_epsilon"), 1e-5f);
  damage(gguf);
  TempDir dir;
  gguf.WriteTo(dir.File("m.gguf"));
  const auto file = SourceModel::Open(dir.File("m.gguf"));
  EXPECT_TRUE(file.ok()) << file.status();
  return HyperParametersOf(*file).status();
}

TEST(ExpertPlanTest, ArchitecturesThatAreAlwaysMixturesSayHowMany) {
  EXPECT_TRUE(QwenRefusal([](B&) {}).ok()) << QwenRefusal([](B&) {});
  const std::pair<std::function<void(B&)>, const char*> kCases[] = {
      {[](B& g) { g.SetUint32("qwen2moe.expert_count", 0); },
       "qwen2moe.expert_count is missing or 0: qwen2moe models are mixtures of experts"},
      {[](B& g) { g.Remove("qwen2moe.expert_count"); }, "qwen2moe.expert_count is missing or 0"},
      {[](B& g) { g.SetUint32("qwen2moe.expert_shared_feed_forward_length", 72); },
       "qwen2moe.expert_shared_feed_forward_length is 72: only 1 to 4096 times the width of an "
       "expert (48)"},
      {[](B& g) { g.SetUint32("qwen2moe.expert_shared_feed_forward_length", 0); },
       "qwen2moe.expert_shared_feed_forward_length is 0"},
      {[](B& g) { g.SetUint32("qwen2moe.expert_feed_forward_length", 0); },
       "qwen2moe.expert_feed_forward_length is 0"},
  };
  for (const auto& [damage, message] : kCases) {
    EXPECT_THAT(std::string(QwenRefusal(damage).message()), HasSubstr(message));
  }
}

TEST(ExpertPlanTest, OtherArchitecturesHaveNoExperts) {
  GgufBuilder gguf = LlamaGguf({});
  gguf.SetString("general.architecture", "gemma");
  for (const char* name : {"block_count", "embedding_length", "feed_forward_length",
                           "attention.head_count", "context_length", "expert_count"}) {
    gguf.SetUint32(std::string("gemma.") + name, 4);
  }
  const Planned planned(gguf);
  EXPECT_THAT(std::string(planned.plan.status().message()),
              HasSubstr("gemma.expert_count is 4: gemma models with experts are not supported"));
}

}  // namespace tidegate::pack_plan_experts_test
