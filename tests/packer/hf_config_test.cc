#include "packer/hf_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "packer/json_object.h"

namespace tidegate::hf_config_test {

using ::testing::HasSubstr;
using Json = nlohmann::json;

// Llama 3.1 8B, but for what the tests do not look at.
Json Llama() {
  return {{"model_type", "llama"},
          {"num_hidden_layers", 32},
          {"hidden_size", 4096},
          {"intermediate_size", 14336},
          {"max_position_embeddings", 131072},
          {"num_attention_heads", 32},
          {"num_key_value_heads", 8},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 500000.0},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", false}};
}

absl::StatusOr<HfConfig> Translate(const Json& json) {
  const auto object = JsonObject::Parse(json.dump(), "config.json");
  EXPECT_TRUE(object.ok()) << object.status();
  return TranslateConfig(*object);
}

template <typename T>
T Value(const HfConfig& config, const std::string& key) {
  const auto found = config.metadata.find(key);
  if (found == config.metadata.end() || !std::holds_alternative<T>(found->second)) {
    ADD_FAILURE() << key;
    return T();
  }
  return std::get<T>(found->second);
}

TEST(HfConfigTest, NewerFilesNestTheParametersOfRope) {
  Json json = Llama();
  json["model_type"] = "phi3";
  json["rope_parameters"] = {{"rope_type", "default"}, {"partial_rotary_factor", 0.5}};
  auto config = Translate(json);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(Value<uint64_t>(*config, "phi3.rope.dimension_count"), 64u);

  json = Llama();
  json["model_type"] = "gemma3_text";
  json["hidden_act"] = "gelu_pytorch_tanh";
  json["sliding_window"] = 512;
  json["sliding_window_pattern"] = 2;
  json["rope_parameters"] = {
      {"full_attention", {{"rope_type", "linear"}, {"factor", 8}, {"rope_theta", 1e6}}},
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 5000}}}};
  config = Translate(json);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(Value<double>(*config, "gemma3.rope.freq_base"), 1e6);
  EXPECT_EQ(Value<double>(*config, "gemma3.rope.freq_base_swa"), 5000);
  EXPECT_EQ(Value<double>(*config, "gemma3.rope.scaling.factor"), 8);
  const auto pattern = Value<std::vector<bool>>(*config, "gemma3.attention.sliding_window_pattern");
  ASSERT_EQ(pattern.size(), 32u);
  EXPECT_TRUE(pattern[0] && !pattern[1] && pattern[30] && !pattern[31]);
}

TEST(HfConfigTest, QwenHasNoWindowUnlessItSaysSo) {
  Json json = Llama();
  json["model_type"] = "qwen2";
  json["sliding_window"] = 4096;
  json["max_window_layers"] = 0;
  EXPECT_EQ(Translate(json)->metadata.count("qwen2.attention.sliding_window"), 0u);
  json["use_sliding_window"] = true;
  EXPECT_EQ(Value<uint64_t>(*Translate(json), "qwen2.attention.sliding_window"), 4096u);
}

TEST(HfConfigTest, KeysGetTheirGgufNames) {
  const auto config = Translate(Llama());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(Value<std::string>(*config, "general.architecture"), "llama");
  EXPECT_EQ(Value<uint64_t>(*config, "llama.block_count"), 32u);
  EXPECT_EQ(Value<uint64_t>(*config, "llama.attention.head_count_kv"), 8u);
  EXPECT_EQ(Value<double>(*config, "llama.rope.freq_base"), 500000);
  EXPECT_EQ(Value<uint64_t>(*config, "llama.rope.dimension_count"), 128u);
  EXPECT_EQ(config->head_rows, 128u);
  EXPECT_FALSE(config->tied);
  EXPECT_TRUE(config->tensors.empty());
  EXPECT_EQ(config->metadata.count("llama.attention.sliding_window"), 0u);
}

// Factors of the published formula for Llama 3.1 (factor 8, bounds 1 and 4, 8192 tokens).
TEST(HfConfigTest, Llama3FactorsBecomeATensor) {
  Json json = Llama();
  json["rope_scaling"] = {{"rope_type", "llama3"},
                          {"factor", 8.0},
                          {"low_freq_factor", 1.0},
                          {"high_freq_factor", 4.0},
                          {"original_max_position_embeddings", 8192}};
  const auto config = Translate(json);
  ASSERT_TRUE(config.ok()) << config.status();
  const std::vector<float>& factors = config->tensors.at("rope_freqs.weight");
  ASSERT_EQ(factors.size(), 64u);
  EXPECT_EQ(factors[28], 1);  // wave of 1956 tokens, below 8192 / 4
  const double wave = 2 * M_PI * std::pow(500000, 64.0 / 128);  // 4443 tokens
  const double smooth = (8192 / wave - 1) / 3;
  EXPECT_NEAR(factors[32], 1 / ((1 - smooth) / 8 + smooth), 1e-5);
  EXPECT_EQ(factors[36], 8);  // wave of 10088 tokens, above 8192
}

TEST(HfConfigTest, LongRopeFactorsAndMagnitude) {
  Json json = Llama();
  json["model_type"] = "phi3";
  json["original_max_position_embeddings"] = 4096;
  json["rope_scaling"] = {{"type", "longrope"},
                          {"short_factor", std::vector<double>(64, 1.5)},
                          {"long_factor", std::vector<double>(64, 32)}};
  const auto config = Translate(json);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->tensors.at("rope_factors_short.weight").at(63), 1.5f);
  EXPECT_EQ(config->tensors.at("rope_factors_long.weight").at(0), 32);
  EXPECT_EQ(Value<uint64_t>(*config, "phi3.rope.scaling.original_context_length"), 4096u);
  EXPECT_NEAR(Value<double>(*config, "phi3.rope.scaling.attn_factor"),
              std::sqrt(1 + std::log(32.0) / std::log(4096.0)), 1e-12);
  json["rope_scaling"]["long_factor"] = {1, 2};
  EXPECT_THAT(std::string(Translate(json).status().message()), HasSubstr("no list of 64 numbers"));
}

TEST(HfConfigTest, WindowsApplyWhereTheFileSaysSo) {
  Json json = Llama();
  json["model_type"] = "mistral";
  json["sliding_window"] = 4096;
  auto config = Translate(json);
  EXPECT_EQ(Value<uint64_t>(*config, "llama.attention.sliding_window"), 4096u);
  EXPECT_EQ(config->metadata.count("llama.attention.sliding_window_pattern"), 0u);
  json["sliding_window"] = nullptr;
  EXPECT_EQ(Translate(json)->metadata.count("llama.attention.sliding_window"), 0u);

  json["model_type"] = "qwen2";
  json["sliding_window"] = 4096;
  json["use_sliding_window"] = false;
  EXPECT_EQ(Translate(json)->metadata.count("qwen2.attention.sliding_window"), 0u);
  json["use_sliding_window"] = true;
  json["max_window_layers"] = 30;
  config = Translate(json);
  std::vector<bool> pattern(32);
  pattern[30] = pattern[31] = true;
  EXPECT_EQ(Value<std::vector<bool>>(*config, "qwen2.attention.sliding_window_pattern"), pattern);
}

TEST(HfConfigTest, GemmaSaysItsScaleAndTies) {
  Json json = Llama();
  json["model_type"] = "gemma2";
  json["hidden_act"] = "gelu_pytorch_tanh";
  json["query_pre_attn_scalar"] = 256;
  json["final_logit_softcapping"] = 30.0;
  json["sliding_window"] = 4096;
  json.erase("tie_word_embeddings");
  const auto config = Translate(json);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->tied);
  EXPECT_EQ(Value<double>(*config, "gemma2.attention.scale"), 1.0 / 16);
  EXPECT_EQ(Value<double>(*config, "gemma2.final_logit_softcapping"), 30);
}

// Qwen1.5-MoE, but for what the tests do not look at.
Json QwenMoe() {
  Json json = Llama();
  json["model_type"] = "qwen2_moe";
  json["num_experts"] = 60;
  json["num_experts_per_tok"] = 4;
  json["moe_intermediate_size"] = 1408;
  json["shared_expert_intermediate_size"] = 5632;
  json["norm_topk_prob"] = false;
  json["decoder_sparse_step"] = 1;
  json["mlp_only_layers"] = Json::array();
  return json;
}

TEST(HfConfigTest, MixturesOfExperts) {
  const auto qwen = Translate(QwenMoe());
  ASSERT_TRUE(qwen.ok()) << qwen.status();
  EXPECT_EQ(Value<uint64_t>(*qwen, "qwen2moe.expert_count"), 60u);
  EXPECT_EQ(Value<uint64_t>(*qwen, "qwen2moe.expert_used_count"), 4u);
  EXPECT_EQ(Value<uint64_t>(*qwen, "qwen2moe.expert_feed_forward_length"), 1408u);
  EXPECT_EQ(Value<uint64_t>(*qwen, "qwen2moe.expert_shared_feed_forward_length"), 5632u);
  EXPECT_FALSE(Value<bool>(*qwen, "qwen2moe.expert_weights_norm"));
  Json json = QwenMoe();
  json["model_type"] = "qwen3_moe";
  json["norm_topk_prob"] = true;
  const auto qwen3 = Translate(json);
  ASSERT_TRUE(qwen3.ok()) << qwen3.status();
  EXPECT_TRUE(Value<bool>(*qwen3, "qwen3moe.expert_weights_norm"));
  json = Llama();
  json["model_type"] = "mixtral";
  json["num_local_experts"] = 8;
  json["num_experts_per_tok"] = 2;
  const auto mixtral = Translate(json);
  ASSERT_TRUE(mixtral.ok()) << mixtral.status();
  EXPECT_EQ(Value<uint64_t>(*mixtral, "llama.expert_count"), 8u);
  EXPECT_EQ(mixtral->metadata.count("llama.expert_weights_norm"), 0u);
}

TEST(HfConfigTest, MixturesThatAreNotSupportedAreNamed) {
  const auto refused = [](const char* key, const Json& value) {
    Json json = QwenMoe();
    json[key] = value;
    return std::string(Translate(json).status().message());
  };
  EXPECT_THAT(refused("num_experts", nullptr), HasSubstr("\"num_experts\" is missing"));
  EXPECT_THAT(refused("num_experts_per_tok", nullptr), HasSubstr("\"num_experts_per_tok\" is"));
  EXPECT_THAT(refused("moe_intermediate_size", "x"), HasSubstr("\"moe_intermediate_size\" is not"));
  EXPECT_THAT(refused("shared_expert_intermediate_size", nullptr), HasSubstr("is missing"));
  EXPECT_THAT(refused("n_routed_experts", 4), HasSubstr("qwen2_moe models with such experts"));
  EXPECT_THAT(refused("decoder_sparse_step", 2), HasSubstr("layers without experts"));
  EXPECT_THAT(refused("mlp_only_layers", {0}), HasSubstr("layers without experts"));
}

TEST(HfConfigTest, NamesOfTensors) {
  const HfFamily llama = {.model_type = "llama", .architecture = "llama"};
  const HfFamily gemma = {.model_type = "gemma2", .architecture = "gemma2", .sandwich_norms = true};
  EXPECT_EQ(GgufTensorName(llama, "model.embed_tokens.weight"), "token_embd.weight");
  EXPECT_EQ(GgufTensorName(llama, "lm_head.weight"), "output.weight");
  EXPECT_EQ(GgufTensorName(llama, "model.layers.12.self_attn.q_proj.bias"), "blk.12.attn_q.bias");
  EXPECT_EQ(GgufTensorName(llama, "model.layers.0.mlp.gate_up_proj.weight"), "blk.0.ffn_up.weight");
  const char* norm = "model.layers.3.post_attention_layernorm.weight";
  EXPECT_EQ(GgufTensorName(llama, norm), "blk.3.ffn_norm.weight");
  EXPECT_EQ(GgufTensorName(gemma, norm), "blk.3.post_attention_norm.weight");
  EXPECT_EQ(GgufTensorName(llama, "model.layers.3.self_attn.rotary_emb.inv_freq"), "");
  EXPECT_EQ(GgufTensorName(llama, "model.layers.3.block_sparse_moe.gate.weight"),
            "blk.3.ffn_gate_inp.weight");
  EXPECT_EQ(GgufTensorName(llama, "model.layers.3.block_sparse_moe.experts.7.w2.weight"),
            "blk.3.ffn_down.7.weight");
  EXPECT_EQ(GgufTensorName(llama, "model.layers.3.mlp.gate.weight"), "blk.3.ffn_gate_inp.weight");
  EXPECT_EQ(GgufTensorName(llama, "model.layers.3.mlp.experts.127.up_proj.weight"),
            "blk.3.ffn_up.127.weight");
  EXPECT_EQ(GgufTensorName(llama, "model.layers.3.mlp.shared_expert.down_proj.weight"),
            "blk.3.ffn_down_shexp.weight");
  EXPECT_EQ(GgufTensorName(llama, "model.layers.3.mlp.shared_expert_gate.weight"),
            "blk.3.ffn_gate_inp_shexp.weight");
  for (const char* other :
       {"model.layers.3.mlp.experts.x.up_proj.weight", "model.layers.3.mlp.experts.7.up_proj.bias",
        "model.layers.3.mlp.experts.7", "model.layers.3.mlp.experts.",
        "model.layers.x.mlp.up_proj.weight", "model.layers.", "model.layers.3",
        "model.layers.3.mlp.router.weight", "vision.weight"}) {
    EXPECT_EQ(GgufTensorName(llama, other), other);
  }
}

TEST(HfConfigTest, WhatIsNotSupportedIsNamed) {
  const auto refused = [](const char* key, const Json& value) {
    Json json = Llama();
    json[key] = value;
    return std::string(Translate(json).status().message());
  };
  EXPECT_THAT(refused("model_type", "mamba"), HasSubstr("'mamba' is not supported; this release"));
  EXPECT_THAT(refused("model_type", 3), HasSubstr("\"model_type\" is not a text"));
  EXPECT_THAT(refused("hidden_size", "x"), HasSubstr("\"hidden_size\" is not an unsigned"));
  EXPECT_THAT(refused("num_hidden_layers", nullptr), HasSubstr("\"num_hidden_layers\" is missing"));
  EXPECT_THAT(refused("num_hidden_layers", 1 << 30), HasSubstr("impossible numbers"));
  EXPECT_THAT(refused("num_attention_heads", 0), HasSubstr("impossible numbers"));
  EXPECT_THAT(refused("head_dim", 7), HasSubstr("heads of 7 elements"));
  EXPECT_THAT(refused("hidden_act", "relu"), HasSubstr("'relu' is not supported"));
  EXPECT_THAT(refused("quantization_config", Json::object()), HasSubstr("use the original one"));
  EXPECT_THAT(refused("num_local_experts", 8), HasSubstr("llama models with such experts"));
  EXPECT_THAT(refused("rope_scaling", {{"type", "dynamic"}, {"factor", 2}}),
              HasSubstr("RoPE scaling 'dynamic' is not supported"));
  EXPECT_THAT(refused("sliding_window", -1), HasSubstr("\"sliding_window\" is not"));
  EXPECT_THAT(refused("rope_scaling", {{"type", "linear"}, {"factor", 0}}),
              HasSubstr("not positive"));
  EXPECT_THAT(refused("partial_rotary_factor", 2.0), HasSubstr("partial_rotary_factor"));
}

TEST(HfConfigTest, KeysThatNobodyReadsAreRefusedIfTheyMayMatter) {
  const auto message = [](const char* key, const Json& value, const char* type = "llama") {
    Json json = Llama();
    json["model_type"] = type;
    json[key] = value;
    return std::string(Translate(json).status().message());
  };
  for (const auto& [key, value] :
       std::initializer_list<std::pair<const char*, Json>>{{"attention_multiplier", 0.5},
                                                           {"residual_multiplier", 0.22},
                                                           {"embedding_multiplier", 12},
                                                           {"logits_scaling", 8},
                                                           {"logit_scale", 0.0625},
                                                           {"clip_qkv", 8},
                                                           {"rope_interleaved", true},
                                                           {"alibi", true},
                                                           {"use_parallel_residual", true},
                                                           {"qk_layernorm", true},
                                                           {"mlp_bias", true},
                                                           {"attention_sinks", true},
                                                           {"rotary_pct", 0.25},
                                                           {"no_rope_layers", {0, 1}},
                                                           {"q_lora_rank", 1536},
                                                           {"use_bidirectional_attention", true},
                                                           {"routed_scaling_factor", 2.5},
                                                           {"n_shared_experts", 2},
                                                           {"softmax_scale", 0.1},
                                                           {"quantization", {{"bits", 4}}}}) {
    EXPECT_THAT(message(key, value), HasSubstr(absl::StrCat("key '", key, "' is "))) << key;
  }
  // Off, or known to change nothing.
  for (const auto& [key, value] :
       std::initializer_list<std::pair<const char*, Json>>{{"attention_multiplier", 1.0},
                                                           {"mlp_bias", false},
                                                           {"clip_qkv", nullptr},
                                                           {"attention_dropout", 0.1},
                                                           {"torch_dtype", "bfloat16"},
                                                           {"use_cache", true},
                                                           {"transformers_version", "4"},
                                                           {"initializer_range", 0.02},
                                                           {"pretraining_tp", 2},
                                                           {"bos_token_id", 1},
                                                           {"rope_interleaved", false},
                                                           {"norm_eps", 1e-5},
                                                           {"full_attn_mod", 1},
                                                           {"use_sliding_window", true},
                                                           {"warmup_steps", 3}}) {
    EXPECT_EQ(message(key, value), "") << key;
  }
  EXPECT_THAT(message("norm_eps", 1e-6), HasSubstr("\"norm_eps\" differs from \"rms_norm_eps\""));
  EXPECT_THAT(message("position_embedding_type", "alibi"), HasSubstr("'alibi'"));
  EXPECT_THAT(message("qkv_bias", true), HasSubstr("qkv_bias"));
  EXPECT_EQ(message("qkv_bias", true, "qwen2"), "");
  EXPECT_THAT(message("layer_types", std::vector<std::string>(32, "linear_attention")),
              HasSubstr("layer_types"));
  EXPECT_THAT(message("layer_types", std::vector<std::string>(32, "sliding_attention")),
              HasSubstr("\"layer_types\" has a sliding window"));
  EXPECT_THAT(message("num_experts_per_tok", 2), HasSubstr("num_experts_per_tok"));
  Json json = Llama();
  json["favourite_colour"] = "blue";
  EXPECT_THAT(Translate(json)->ignored_keys, ::testing::ElementsAre("favourite_colour"));
}

TEST(HfConfigTest, WhatFilesMeanThatDoNotSay) {
  Json json = Llama();
  json.erase("rope_theta");
  EXPECT_EQ(Value<double>(*Translate(json), "llama.rope.freq_base"), 10000);
  json["model_type"] = "mistral";
  EXPECT_EQ(Value<uint64_t>(*Translate(json), "llama.attention.sliding_window"), 4096u);
  json["model_type"] = "gemma3_text";
  json["hidden_act"] = "gelu_pytorch_tanh";
  json["sliding_window"] = 512;
  EXPECT_EQ(Value<double>(*Translate(json), "gemma3.rope.freq_base"), 1e6);
  json["model_type"] = "gemma2";
  EXPECT_EQ(Translate(json)->metadata.count("gemma2.final_logit_softcapping"), 0u);
  json["final_logit_softcapping"] = nullptr;
  EXPECT_EQ(Value<double>(*Translate(json), "gemma2.final_logit_softcapping"), 0);
  json["hidden_activation"] = "gelu";  // the exact one
  EXPECT_THAT(std::string(Translate(json).status().message()), HasSubstr("hidden_activation"));
}

TEST(HfConfigJsonTest, SaysWhatIsWrongWithAFile) {
  EXPECT_THAT(std::string(JsonObject::Parse("[1]", "x.json").status().message()),
              HasSubstr("x.json is no object"));
  EXPECT_THAT(std::string(JsonObject::Parse("{\"a\":", "x.json").status().message()),
              HasSubstr("x.json is not JSON"));
  EXPECT_TRUE(absl::IsNotFound(JsonObject::ReadFile("/nonexistent/config.json").status()));
  // Depth alone is no crash.
  EXPECT_FALSE(JsonObject::Parse(std::string(1 << 20, '['), "deep").ok());
}

}  // namespace tidegate::hf_config_test
