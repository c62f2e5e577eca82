// Keys of GGUF metadata that nothing reads; those of config.json are in hf_config_test.cc.
#include "packer/unread_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "packer/hyper_parameters.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::unread_keys_test {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<SourceModel> File(const GgufBuilder& gguf) {
  TempDir dir;
  gguf.WriteTo(dir.File("m.gguf"));
  return SourceModel::Open(dir.File("m.gguf"));
}

TEST(UnreadKeysTest, WhatMayMatterIsRefusedByName) {
  using B = GgufBuilder;
  const struct {
    const char* name;
    void (*change)(B&);
    const char* error;
  } cases[] = {
      {"UnknownRopeKey", [](B& g) { g.SetFloat("llama.rope.scaling.mscale", 0.7f); },
       "key 'rope.scaling.mscale' is 0.7: this release does not know it for llama models"},
      {"UnknownAttentionKey", [](B& g) { g.SetBool("llama.attention.sinks", true); },
       "key 'attention.sinks' is true"},
      {"UnknownScale", [](B& g) { g.SetFloat("llama.mlp_scale", 0.5f); }, "'mlp_scale'"},
      {"UnknownLimit", [](B& g) { g.SetFloat("llama.swiglu_limit", 7); }, "'swiglu_limit' is 7"},
      {"SharedExpertsElsewhere",
       [](B& g) { g.SetUint32("llama.expert_shared_feed_forward_length", 64); },
       "'expert_shared_feed_forward_length' is 64"},
      {"NotCausal", [](B& g) { g.SetBool("llama.attention.causal", false); },
       "llama.attention.causal is not true"},
      {"YarnKeyWithoutYarn", [](B& g) { g.SetFloat("llama.rope.scaling.yarn_attn_factor", 2); },
       "'rope.scaling.yarn_attn_factor' is 2"},
  };
  for (const auto& [name, change, error] : cases) {
    GgufBuilder gguf = LlamaGguf({});
    change(gguf);
    const auto file = File(gguf);
    ASSERT_TRUE(file.ok()) << file.status();
    const absl::Status status = HyperParametersOf(*file).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(error)) << name;
  }
}

TEST(UnreadKeysTest, WhatMeansOffOrChangesNothingPasses) {
  GgufBuilder gguf = LlamaGguf({});
  gguf.SetUint32("llama.vocab_size", 320);
  gguf.SetBool("llama.rope.scaling.finetuned", true);
  gguf.SetString("llama.tensor_data_layout", "Meta AI original pth");
  gguf.SetBool("llama.attention.causal", true);
  gguf.SetBool("llama.use_parallel_residual", false);
  gguf.SetFloat("llama.attention.clamp_kqv", 0);
  gguf.SetFloat("llama.residual_multiplier", 1);
  gguf.SetInt32s("llama.rope.dimension_sections", {0, 0, 0, 0});
  gguf.SetUint32("llama.favourite_number", 7);
  const auto file = File(gguf);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(HyperParametersOf(*file).ok()) << HyperParametersOf(*file).status();
  EXPECT_THAT(IgnoredKeys(*file), ElementsAre("favourite_number"));
}

TEST(UnreadKeysTest, StemsAreThoseOfWords) {
  std::vector<std::string> ignored;
  const auto judge = [&](const char* key) {
    return JudgeUnreadKey(key, nlohmann::json(3), "llama", ignored).ok();
  };
  EXPECT_FALSE(judge("rms_norm.eps2.norms"));
  EXPECT_FALSE(judge("AttentionScale_x"));
  EXPECT_FALSE(judge("x-yarn"));
  EXPECT_TRUE(judge("warmup_steps"));  // holds "eps"
  EXPECT_TRUE(judge("compactness"));   // holds "act"
  EXPECT_THAT(ignored, ElementsAre("warmup_steps", "compactness"));
}

}  // namespace tidegate::unread_keys_test
