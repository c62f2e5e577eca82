// Which models can be packed, and what is said about those that cannot.
#include "packer/pack_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "base/units.h"
#include "packer/architecture.h"
#include "packer/hyper_parameters.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::pack_plan_test {

using ::testing::HasSubstr;

class PlanTest : public ::testing::Test {
 protected:
  absl::StatusOr<PackPlan> Plan(const GgufBuilder& gguf, const PackOptions& options = {}) {
    gguf.WriteTo(dir_.File("m.gguf"));
    auto file = SourceModel::Open(dir_.File("m.gguf"));
    if (!file.ok()) return file.status();
    file_ = std::make_unique<SourceModel>(*std::move(file));
    return PlanPack(*file_, options);
  }

  TempDir dir_;
  std::unique_ptr<SourceModel> file_;  // The plan points into it.
};

TEST_F(PlanTest, TakesHyperParametersAndTheirDefaults) {
  GgufBuilder gguf = LlamaGguf({});
  gguf.Remove(
      "llama.attention.head_count_kv");  // Defaults to head_count, but k and v are narrower:
  EXPECT_THAT(std::string(Plan(gguf).status().message()),
              HasSubstr("blk.0.attn_k.weight has the shape [64, 32], not [64, 64]"));
  const auto plan = Plan(LlamaGguf({}));
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto& hp = plan->manifest.hyper_parameters();
  EXPECT_EQ(hp.layer_count(), 2u);
  EXPECT_EQ(hp.hidden_size(), 64u);
  EXPECT_EQ(hp.intermediate_size(), 96u);
  EXPECT_EQ(hp.query_heads(), 4u);
  EXPECT_EQ(hp.kv_heads(), 2u);
  EXPECT_EQ(hp.head_size(), 16u);
  EXPECT_EQ(hp.rope_dims(), 16u);
  EXPECT_EQ(hp.rope_base(), 10000.0f);
  EXPECT_EQ(hp.embedding_rows(), 320u);
  EXPECT_EQ(hp.context_length(), 128u);
  EXPECT_EQ(hp.rms_epsilon(), 1e-5f);
  EXPECT_EQ(hp.rope_scaling().kind(), store::v1::RopeScaling::KIND_NONE);
  EXPECT_EQ(plan->manifest.model_name(), "test-llama");
  EXPECT_EQ(plan->manifest.static_tensors_size(), 1 + 2 * 6 + 2);
  EXPECT_FALSE(plan->requantised);
}

TEST_F(PlanTest, TakesTokenizerAndTemplate) {
  GgufBuilder gguf = LlamaGguf({});
  gguf.SetString("tokenizer.chat_template", "{{ messages }}");
  gguf.SetBool("tokenizer.ggml.add_eos_token", true);
  gguf.SetBool("tokenizer.ggml.add_space_prefix", false);
  gguf.SetUint32("tokenizer.ggml.eot_token_id", 5);
  const auto plan = Plan(gguf);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const store::v1::Tokenizer& tokenizer = plan->manifest.tokenizer();
  EXPECT_EQ(tokenizer.tokens_size(), 320);
  EXPECT_EQ(tokenizer.tokens(259), "\xe2\x96\x81");
  EXPECT_EQ(tokenizer.scores(260), -260.0f);
  EXPECT_EQ(tokenizer.types(0), 2u);
  EXPECT_EQ(tokenizer.types(3), 6u);
  EXPECT_EQ(tokenizer.unknown_id(), 0u);
  EXPECT_EQ(tokenizer.eot_id(), 5u);
  EXPECT_TRUE(tokenizer.add_bos());
  EXPECT_TRUE(tokenizer.add_eos());
  EXPECT_FALSE(tokenizer.add_space_prefix());
  EXPECT_EQ(plan->manifest.chat_template(), "{{ messages }}");
}

TEST_F(PlanTest, LinearRopeScalingInItsThreeSpellings) {
  GgufBuilder named = LlamaGguf({}), bare = LlamaGguf({}), old = LlamaGguf({}), off = LlamaGguf({});
  named.SetString("llama.rope.scaling.type", "linear");
  named.SetFloat("llama.rope.scaling.factor", 4);
  bare.SetFloat("llama.rope.scaling.factor", 4);
  old.SetFloat("llama.rope.scale_linear", 4);
  for (const GgufBuilder* gguf : {&named, &bare, &old}) {
    const auto plan = Plan(*gguf);
    ASSERT_TRUE(plan.ok()) << plan.status();
    const auto& scaling = plan->manifest.hyper_parameters().rope_scaling();
    EXPECT_EQ(scaling.kind(), store::v1::RopeScaling::KIND_LINEAR);
    EXPECT_EQ(scaling.factor(), 4);
  }
  off.SetString("llama.rope.scaling.type", "none");
  off.SetFloat("llama.rope.scaling.factor", 4);
  EXPECT_EQ(Plan(off)->manifest.hyper_parameters().rope_scaling().kind(),
            store::v1::RopeScaling::KIND_NONE);
}

TEST_F(PlanTest, TiedOutputAndRopeFactorsAreOptional) {
  const auto plan = Plan(LlamaGguf({.tied = true, .rope_freqs = true}));
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto& last = plan->manifest.static_tensors(plan->manifest.static_tensors_size() - 1);
  EXPECT_EQ(last.name(), "rope_freqs.weight");
  EXPECT_EQ(last.columns(), 8u);
}

TEST_F(PlanTest, BlocksHoldWholeSectorsAndAsManyUnitsAsFit) {
  // q8: a column of 96 is 16 + 96 bytes, a column of 64 is 16 + 64.
  auto plan = Plan(LlamaGguf({}));
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->geometry.kinds[0].unit_bytes, 224u);
  EXPECT_EQ(plan->geometry.kinds[0].block_bytes, 512u);
  EXPECT_EQ(plan->geometry.kinds[0].units_per_block, 2u);
  EXPECT_EQ(plan->geometry.kinds[0].block_count, 32u);
  EXPECT_EQ(plan->geometry.kinds[1].unit_bytes, 80u);
  EXPECT_EQ(plan->geometry.kinds[1].units_per_block, 6u);
  EXPECT_EQ(plan->geometry.kinds[1].block_count, 16u);
  // One block may not claim more units than there are.
  plan = Plan(LlamaGguf({}), {.block_bytes = 64 * kKiB});
  EXPECT_EQ(plan->geometry.kinds[0].units_per_block, 64u);
  EXPECT_EQ(plan->geometry.kinds[1].units_per_block, 96u);
  plan = Plan(LlamaGguf({}), {.one_unit_per_block = true});
  EXPECT_EQ(plan->geometry.kinds[0].units_per_block, 1u);
  EXPECT_EQ(plan->geometry.kinds[0].block_count, 64u);
}

TEST_F(PlanTest, SmallHiddenUnitsShareBlocksWhereALayerHasEnough) {
  // f16: an input unit takes 8 KiB, a hidden unit 4.5 KiB.
  const TestModel large = {.layers = 1, .hidden = 2304, .intermediate = 2048};
  auto plan = Plan(LlamaGguf(large), {.units = UnitEncoding::kF16});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->geometry.kinds[0].units_per_block, 1u);
  EXPECT_EQ(plan->geometry.kinds[1].units_per_block, 8u);
  EXPECT_EQ(plan->geometry.kinds[1].block_bytes, 8u * 4608);
  plan = Plan(LlamaGguf(large), {.units = UnitEncoding::kF16, .one_unit_per_block = true});
  EXPECT_EQ(plan->geometry.kinds[1].units_per_block, 1u);
  const TestModel few = {.layers = 1, .hidden = 2304, .intermediate = 800};
  plan = Plan(LlamaGguf(few), {.units = UnitEncoding::kF16});
  EXPECT_EQ(plan->geometry.kinds[1].units_per_block, 3u);  // 267 blocks
  const TestModel wide = {.layers = 1, .hidden = 6400, .intermediate = 2048};
  plan = Plan(LlamaGguf(wide), {.units = UnitEncoding::kF16});
  EXPECT_EQ(plan->geometry.kinds[1].units_per_block, 1u);
}

TEST_F(PlanTest, BlockBytesMustHoldAUnit) {
  const TestModel wide = {.layers = 1, .hidden = 32, .intermediate = 4096};
  // One f32 input unit: 2 * 4096 * 4 bytes.
  auto plan = Plan(LlamaGguf(wide), {.units = UnitEncoding::kF32, .block_bytes = 16 * kKiB});
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("the smallest that works is 32768"));
  plan = Plan(LlamaGguf(wide), {.units = UnitEncoding::kF32, .block_bytes = 32 * kKiB});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->geometry.kinds[0].units_per_block, 1u);
  EXPECT_EQ(plan->geometry.kinds[1].units_per_block, 256u);
  EXPECT_FALSE(Plan(LlamaGguf(wide), {.block_bytes = 5000}).ok());
  EXPECT_FALSE(Plan(LlamaGguf(wide), {.block_bytes = 16 << 20}).ok());
}

TEST_F(PlanTest, GroupsNeedWholeColumns) {
  const TestModel odd = {.hidden = 64, .intermediate = 100};
  auto plan = Plan(LlamaGguf(odd));
  EXPECT_THAT(std::string(plan.status().message()),
              HasSubstr("ffn_up.weight have 100 elements, not a multiple of the 32 that q8 groups; "
                        "use --units f16"));
  EXPECT_TRUE(Plan(LlamaGguf(odd), {.units = UnitEncoding::kF16}).ok());
  plan = Plan(LlamaGguf({.hidden = 48, .intermediate = 96}), {.units = UnitEncoding::kQ4});
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("ffn_down.weight have 48"));
}

TEST_F(PlanTest, SaysWhenQuantisedMatricesAreRoundedAgain) {
  for (const GgmlType type : {GgmlType::kQ8_0, GgmlType::kQ4_0}) {
    const GgufBuilder gguf = LlamaGguf({.matrices = type});
    EXPECT_TRUE(Plan(gguf)->requantised);
    EXPECT_FALSE(Plan(gguf, {.units = UnitEncoding::kF16})->requantised);
  }
}

TEST_F(PlanTest, NamesThatAreNotUtf8AreEscaped) {
  GgufBuilder gguf = LlamaGguf({});
  gguf.SetString("general.name", "caf\xe9");
  const auto plan = Plan(gguf);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->manifest.model_name(), "caf\\xe9");
  gguf.SetString("general.name", "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x8c\x8a");
  EXPECT_EQ(Plan(gguf)->manifest.model_name(), "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x8c\x8a");
  gguf.SetString("general.name", "m\n2026 info: forged\x1b[2J" + std::string(300000, 'x'));
  EXPECT_EQ(Plan(gguf)->manifest.model_name().substr(0, 29), "m\\n2026 info: forged\\u{1b}[2J");
  EXPECT_EQ(Plan(gguf)->manifest.model_name().size(), 256u);
  gguf.Remove("general.name");
  EXPECT_EQ(Plan(gguf)->manifest.model_name(), "m");
}

struct Refusal {
  const char* name;
  std::function<void(GgufBuilder&)> damage;
  const char* message;
};

std::vector<Refusal> Refusals() {
  using B = GgufBuilder;
  const std::vector<float> ones(64 * 96, 1.0f);
  return {
      {"OtherArchitecture", [](B& g) { g.SetString("general.architecture", "mamba"); },
       "'mamba' is not supported; this release packs llama, phi3, qwen2, qwen3, qwen2moe, "
       "qwen3moe, gemma"},
      {"ParallelResidual", [](B& g) { g.SetBool("llama.use_parallel_residual", true); },
       "llama.use_parallel_residual is set"},
      {"LatentAttention", [](B& g) { g.SetUint32("llama.attention.kv_lora_rank", 512); },
       "llama.attention.kv_lora_rank is 512: latent attention (MLA) is not supported"},
      {"WindowsOfAnotherNumberOfLayers",
       [](B& g) {
         g.SetUint32("llama.attention.sliding_window", 16);
         g.SetRaw("llama.attention.sliding_window_pattern", 9,
                  std::string("\7\0\0\0\3\0\0\0\0\0\0\0\1\0\1", 15));
       },
       "sliding_window_pattern has 3 entries for 2 layers"},
      {"OwnBaseOfWindows", [](B& g) { g.SetFloat("llama.rope.freq_base_swa", 1e4f); },
       "llama.rope.freq_base_swa is set"},
      {"NoArchitecture", [](B& g) { g.Remove("general.architecture"); },
       "general.architecture is missing"},
      {"NegativeSoftCap", [](B& g) { g.SetFloat("llama.final_logit_softcapping", -30); },
       "impossible value -30"},
      {"YarnShrinks",
       [](B& g) {
         g.SetString("llama.rope.scaling.type", "yarn");
         g.SetFloat("llama.rope.scaling.factor", 0.5f);
       },
       "YaRN stretches"},
      {"YarnBase",
       [](B& g) {
         g.SetString("llama.rope.scaling.type", "yarn");
         g.SetFloat("llama.rope.scaling.factor", 4);
         g.SetFloat("llama.rope.freq_base", 1);
       },
       "must exceed 1"},
      {"NanScale", [](B& g) { g.SetFloat("llama.attention.scale", NAN); }, "impossible value nan"},
      {"InfiniteBase", [](B& g) { g.SetFloat("llama.rope.freq_base", INFINITY); },
       "impossible value inf"},
      {"ZeroEpsilon", [](B& g) { g.SetFloat("llama.attention.layer_norm_rms_epsilon", 0); },
       "impossible value 0"},
      {"LogitScale", [](B& g) { g.SetFloat("llama.logit_scale", 8); }, "llama.logit_scale"},
      {"OtherScaling", [](B& g) { g.SetString("llama.rope.scaling.type", "dynamic"); },
       "'dynamic' scaling"},
      {"OtherYarn",
       [](B& g) {
         g.SetString("llama.rope.scaling.type", "yarn");
         g.SetFloat("llama.rope.scaling.factor", 4);
         g.SetFloat("llama.rope.scaling.yarn_ext_factor", 0.5f);
       },
       "yarn_ext_factor is 0.5"},
      {"LongRope", [](B& g) { g.SetString("llama.rope.scaling.type", "longrope"); },
       "rope_factors_long.weight is missing"},
      {"LongRopeAndFactor",
       [](B& g) {
         g.SetString("llama.rope.scaling.type", "longrope");
         g.SetFloat("llama.rope.scaling.factor", 4);
       },
       "beside long-RoPE factors"},
      {"LinearWithoutFactor", [](B& g) { g.SetString("llama.rope.scaling.type", "linear"); },
       "llama.rope.scale_linear is missing"},
      {"NegativeFactor", [](B& g) { g.SetFloat("llama.rope.scaling.factor", -2); },
       "impossible value -2"},
      {"Split", [](B& g) { g.SetUint32("split.count", 3); }, "by which the others are found"},
      {"NoLayers", [](B& g) { g.SetUint32("llama.block_count", 0); }, "llama.block_count is 0"},
      {"TooManyLayers", [](B& g) { g.SetUint32("llama.block_count", 5000); }, "[1, 1024]"},
      {"NoBlockCount", [](B& g) { g.Remove("llama.block_count"); }, "llama.block_count is missing"},
      {"NoContext", [](B& g) { g.Remove("llama.context_length"); }, "context_length is missing"},
      {"NoEpsilon", [](B& g) { g.Remove("llama.attention.layer_norm_rms_epsilon"); },
       "rms_epsilon is missing"},
      {"NegativeEpsilon", [](B& g) { g.SetFloat("llama.attention.layer_norm_rms_epsilon", -1); },
       "impossible"},
      {"PerLayerWidths",
       [](B& g) {
         g.SetInt32s("llama.feed_forward_length", {96, 64});
       },
       "llama.feed_forward_length is an array"},
      {"HeadsDoNotDivide", [](B& g) { g.SetUint32("llama.attention.head_count", 5); },
       "not a multiple of head_count_kv"},
      {"OddHeads",
       [](B& g) {
         g.SetUint32("llama.attention.head_count", 6);
         g.SetUint32("llama.attention.head_count_kv", 2);
       },
       "not a multiple of head_count (6)"},
      {"DifferentValues", [](B& g) { g.SetUint32("llama.attention.value_length", 8); },
       "keys of 16 and values of 8"},
      {"OddRope", [](B& g) { g.SetUint32("llama.rope.dimension_count", 7); }, "is odd"},
      {"WideRope", [](B& g) { g.SetUint32("llama.rope.dimension_count", 64); }, "outside [0, 16]"},
      {"ZeroRopeBase", [](B& g) { g.SetFloat("llama.rope.freq_base", 0); }, "rope.freq_base"},
      {"NoTensor", [](B& g) { g.RemoveTensor("blk.1.ffn_down.weight"); },
       "tensor blk.1.ffn_down.weight is missing"},
      {"NoEmbedding", [](B& g) { g.RemoveTensor("token_embd.weight"); },
       "token_embd.weight is missing"},
      {"WrongShape",
       [=](B& g) {
         g.AddTensor("blk.0.ffn_up.weight", GgmlType::kF32, {96, 64}, ones);
       },
       "blk.0.ffn_up.weight has the shape [96, 64], not [64, 96]"},
      {"WrongOutput",
       [=](B& g) {
         g.AddTensor("output.weight", GgmlType::kF32, {64, 96}, ones);
       },
       "output.weight has the shape"},
      {"TypeNotReadable",
       [](B& g) {
         g.AddRawTensor("blk.0.ffn_up.weight", 39, {64, 96}, std::string(96 * 2 * 17, 'x'));
       },
       "blk.0.ffn_up.weight: tensor type MXFP4 is not supported"},
      {"StaticTypeNotReadable",
       [](B& g) {
         g.AddRawTensor("output.weight", 9, {64, 320}, std::string(320 * 2 * 36, 'x'));
       },
       "output.weight: tensor type Q8_1"},
      {"Bias",
       [](B& g) { g.AddTensor("blk.0.ffn_up.bias", GgmlType::kF32, {96}, std::vector<float>(96)); },
       "blk.0.ffn_up.bias is not part of a llama model as this release knows it"},
      {"ShortBias",
       [](B& g) { g.AddTensor("blk.0.attn_k.bias", GgmlType::kF32, {16}, std::vector<float>(16)); },
       "blk.0.attn_k.bias has the shape [16], not [32]"},
      {"UnknownTensor",
       [](B& g) {
         g.AddTensor("blk.0.attn_q_norm.weight", GgmlType::kF32, {16}, std::vector<float>(16));
       },
       "blk.0.attn_q_norm.weight is not part of a llama model"},
      {"OtherTokenizer", [](B& g) { g.SetString("tokenizer.ggml.model", "bert"); },
       "tokenizer 'bert'"},
      {"NoTokenizer", [](B& g) { g.Remove("tokenizer.ggml.model"); },
       "tokenizer.ggml.model is missing"},
      {"NoTokens", [](B& g) { g.Remove("tokenizer.ggml.tokens"); }, "tokens is missing or empty"},
      {"FewScores",
       [](B& g) {
         g.SetFloats("tokenizer.ggml.scores", {1, 2});
       },
       "2 entries for 320 tokens"},
      {"FewTypes", [](B& g) { g.SetInt32s("tokenizer.ggml.token_type", {1}); },
       "1 entries for 320"},
      {"ScoresAreTexts", [](B& g) { g.SetStrings("tokenizer.ggml.scores", {"a"}); },
       "not an array of"},
      {"BosOutside", [](B& g) { g.SetUint32("tokenizer.ggml.bos_token_id", 320); },
       "bos_token_id is 320, outside the 320 tokens"},
      {"TemplateNotUtf8", [](B& g) { g.SetString("tokenizer.chat_template", "\xff"); },
       "not UTF-8"},
      {"MoreTokensThanRows",
       [](B& g) {
         g.AddTensor("token_embd.weight", GgmlType::kF32, {64, 300}, std::vector<float>(64 * 300));
         g.AddTensor("output.weight", GgmlType::kF32, {64, 300}, std::vector<float>(64 * 300));
       },
       "320 tokens, token_embd.weight only 300 rows"},
  };
}

class RefusalTest : public PlanTest, public ::testing::WithParamInterface<Refusal> {};

TEST_P(RefusalTest, NamesWhatStandsInTheWay) {
  GgufBuilder gguf = LlamaGguf({});
  GetParam().damage(gguf);
  const auto plan = Plan(gguf);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument) << plan.status();
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(All, RefusalTest, ::testing::ValuesIn(Refusals()),
                         [](const auto& row) { return std::string(row.param.name); });

TEST_F(PlanTest, ZeroMeansOff) {
  GgufBuilder gguf = LlamaGguf({});
  gguf.SetUint32("llama.expert_count", 0);
  gguf.SetUint32("llama.attention.sliding_window", 0);
  EXPECT_TRUE(Plan(gguf).ok());
}

TEST_F(PlanTest, AVocabularyAloneCannotBePacked) {
  GgufBuilder gguf = LlamaGguf({});
  GgufBuilder vocabulary;
  vocabulary.SetString("general.architecture", "llama");
  for (const char* key : {"context_length", "embedding_length", "block_count",
                          "feed_forward_length", "attention.head_count"}) {
    vocabulary.SetUint32(std::string("llama.") + key, 4);
  }
  vocabulary.SetFloat("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  vocabulary.SetUint32("llama.attention.key_length", 4);
  vocabulary.SetUint32("llama.attention.value_length", 4);
  EXPECT_THAT(std::string(Plan(vocabulary).status().message()), HasSubstr("only a vocabulary"));
}

TEST(ArchitectureTest, IsFoundByItsWholeName) {
  ASSERT_NE(FindArchitecture("gemma2"), nullptr);
  EXPECT_EQ(FindArchitecture("gemma2")->name, "gemma2");
  EXPECT_EQ(FindArchitecture("gemma4"), nullptr);
  EXPECT_EQ(FindArchitecture(""), nullptr);
  EXPECT_EQ(FindArchitecture("Llama"), nullptr);
}

TEST(ArchitectureTest, NamesAreThoseOfTheTable) {
  EXPECT_THAT(ArchitectureNames(), testing::HasSubstr("llama, phi3, qwen2, qwen3"));
  EXPECT_THAT(ArchitectureNames(), testing::HasSubstr("gemma3"));
}

TEST(ArchitectureTest, OnlyLlamaFilesKeepPairsTogether) {
  EXPECT_EQ(FindArchitecture("llama")->rope_pairs, Architecture::Hp::ROPE_PAIRS_ADJACENT);
  for (const char* name : {"phi3", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"}) {
    EXPECT_EQ(FindArchitecture(name)->rope_pairs, Architecture::Hp::ROPE_PAIRS_HALVES) << name;
  }
}

// Facts that a file need not state.
TEST_F(PlanTest, ArchitecturesHaveTheirFacts) {
  TG_REQUIRE_SHARED("data/golden/arch");
  using Hp = store::v1::HyperParameters;
  const auto facts = [&](const std::string& name) {
    const auto file = SourceModel::Open(SharedPath("data/golden/arch/" + name + ".gguf"));
    EXPECT_TRUE(file.ok()) << file.status();
    const auto hp = HyperParametersOf(*file);
    EXPECT_TRUE(hp.ok()) << hp.status();
    return *hp;
  };
  EXPECT_EQ(facts("llama").rope_pairs(), Hp::ROPE_PAIRS_ADJACENT);
  EXPECT_EQ(facts("llama").attention_scale(), 0.25f);
  EXPECT_EQ(facts("llama").windows_size(), 0);
  EXPECT_EQ(facts("mistral-window").windows(1), 16u);
  EXPECT_EQ(facts("qwen2").rope_pairs(), Hp::ROPE_PAIRS_HALVES);
  EXPECT_EQ(facts("llama-yarn").rope_scaling().kind(), store::v1::RopeScaling::KIND_YARN);
  EXPECT_EQ(facts("llama-yarn").rope_scaling().yarn_beta_fast(), 32);
  EXPECT_EQ(facts("phi3-longrope").rope_scaling().kind(), store::v1::RopeScaling::KIND_LONG);
  EXPECT_EQ(facts("phi3-longrope").rope_scaling().original_context(), 256u);
  EXPECT_NEAR(facts("phi3-longrope").rope_scaling().magnitude(), 1.2247449, 1e-6);
  EXPECT_EQ(facts("gemma").embedding_scale(), 8);
  EXPECT_EQ(facts("gemma").activation(), Hp::ACTIVATION_GELU_TANH);
  EXPECT_EQ(facts("gemma2").attention_cap(), 8);
  EXPECT_EQ(facts("gemma2").logit_cap(), 12);
  const Hp gemma3 = facts("gemma3");
  EXPECT_EQ(std::vector<uint32_t>(gemma3.windows().begin(), gemma3.windows().end()),
            (std::vector<uint32_t>{16, 16, 16, 16, 16, 0}));
  EXPECT_EQ(gemma3.windowed_rope_base(), 10000);
}

TEST_F(PlanTest, WindowsGoByTheFilesPattern) {
  GgufBuilder gguf = LlamaGguf({.layers = 3, .window = 16});
  const auto windows = [&] {
    const auto plan = Plan(gguf);
    EXPECT_TRUE(plan.ok()) << plan.status();
    const auto& from = plan->manifest.hyper_parameters().windows();
    return std::vector<uint32_t>(from.begin(), from.end());
  };
  EXPECT_EQ(windows(), (std::vector<uint32_t>{16, 16, 16}));
  gguf.SetUint32("llama.attention.sliding_window_pattern", 2);
  EXPECT_EQ(windows(), (std::vector<uint32_t>{16, 0, 16}));
  gguf.SetUint32("llama.attention.sliding_window_pattern", 1);
  EXPECT_EQ(windows(), (std::vector<uint32_t>{0, 0, 0}));
  gguf.SetRaw("llama.attention.sliding_window_pattern", 9,
              std::string("\7\0\0\0\3\0\0\0\0\0\0\0\0\0\1", 15));
  EXPECT_EQ(windows(), (std::vector<uint32_t>{0, 0, 16}));
}

TEST_F(PlanTest, FusedMatricesAreTakenApart) {
  TG_REQUIRE_SHARED("data/golden/arch");
  const auto file = SourceModel::Open(SharedPath("data/golden/arch/phi3.gguf"));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto plan = PlanPack(*file, PackOptions());
  ASSERT_TRUE(plan.ok()) << plan.status();
  const GgufTensor& fused = *file->FindTensor("blk.1.ffn_up.weight");
  const LayerMatrices& layer = plan->layers[1];
  std::vector<float> whole(2 * 192 * 64), gate(192 * 64), up(192 * 64);
  ASSERT_TRUE(file->ReadRows(fused, 0, 384, whole.data()).ok());
  ASSERT_TRUE(file->ReadRows(*layer.gate, 0, 192, gate.data()).ok());
  ASSERT_TRUE(file->ReadRows(*layer.up, 0, 192, up.data()).ok());
  gate.insert(gate.end(), up.begin(), up.end());
  EXPECT_EQ(gate, whole);
  EXPECT_FALSE(file->ReadRows(*layer.gate, 0, 193, gate.data()).ok());
  std::vector<std::string> names;
  for (const auto& tensor : plan->manifest.static_tensors()) names.push_back(tensor.name());
  for (const char* name : {"blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"}) {
    EXPECT_THAT(names, ::testing::Contains(name));
  }
}

}  // namespace tidegate::pack_plan_test
