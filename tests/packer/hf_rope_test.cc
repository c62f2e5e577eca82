#include "packer/hf_rope.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace tidegate::hf_rope_test {

using ::testing::HasSubstr;
using Json = nlohmann::json;

Json Llama() {
  return {{"model_type", "llama"},
          {"num_hidden_layers", 32},
          {"hidden_size", 4096},
          {"intermediate_size", 14336},
          {"max_position_embeddings", 131072},
          {"num_attention_heads", 32},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 500000.0}};
}

absl::StatusOr<HfConfig> Translate(const Json& json) {
  const auto object = JsonObject::Parse(json.dump(), "config.json");
  EXPECT_TRUE(object.ok()) << object.status();
  return TranslateConfig(*object);
}

// What multiplies sines and cosines: YaRN's own factor times what the file adds to it.
double YarnMagnitude(const HfConfig& config, double factor) {
  const auto added = config.metadata.find("llama.rope.scaling.yarn_attn_factor");
  const double own = 0.1 * std::log(factor) + 1;
  return added == config.metadata.end() ? own : own * std::get<double>(added->second);
}

// transformers: get_mscale(factor, mscale) / get_mscale(factor, mscale_all_dim), where
// get_mscale(s, m) = 0.1 m ln(s) + 1; numbers computed apart, by numpy.
TEST(HfRopeTest, YarnMagnitude) {
  const struct {
    Json rope;
    double magnitude;
  } cases[] = {{{{"factor", 4.0}}, 1.1386294361119891},
               {{{"factor", 4.0}, {"attention_factor", 0.75}}, 0.75},
               {{{"factor", 40.0}, {"mscale", 1.0}, {"mscale_all_dim", 1.0}}, 1.0},
               {{{"factor", 40.0}, {"mscale", 0.707}, {"mscale_all_dim", 1.0}}, 0.9210423553163399},
               {{{"factor", 16.0}, {"mscale", 2.0}, {"mscale_all_dim", 0.5}}, 1.3652534311391742},
               {{{"factor", 16.0}, {"mscale", 0}, {"mscale_all_dim", 0}}, 1.2772588722239782},
               {{{"factor", 1.0}, {"attention_factor", 1.5}}, 1.5}};
  for (const auto& [rope, magnitude] : cases) {
    Json json = Llama();
    json["rope_scaling"] = rope;
    json["rope_scaling"]["rope_type"] = "yarn";
    const auto config = Translate(json);
    ASSERT_TRUE(config.ok()) << config.status() << rope;
    EXPECT_NEAR(YarnMagnitude(*config, rope["factor"]), magnitude, 1e-12) << rope;
  }
}

TEST(HfRopeTest, EveryParameterOfRopeIsUsedOrRefusedByName) {
  const auto refused = [](const Json& rope) {
    Json json = Llama();
    json["rope_scaling"] = rope;
    return std::string(Translate(json).status().message());
  };
  EXPECT_THAT(refused({{"type", "yarn"}, {"factor", 4}, {"mscale", 0.7}}), HasSubstr("mscale"));
  EXPECT_THAT(refused({{"type", "yarn"}, {"factor", 4}, {"mscale_all_dim", 0.7}}),
              HasSubstr("mscale_all_dim"));
  EXPECT_THAT(refused({{"type", "yarn"}, {"factor", 4}, {"truncate", false}}),
              HasSubstr("truncate"));
  EXPECT_THAT(refused({{"type", "yarn"}, {"factor", 0.5}}), HasSubstr("below 1"));
  EXPECT_THAT(refused({{"type", "yarn"}, {"factor", 4}, {"beta_fast", -1}}),
              HasSubstr("\"beta_fast\" of RoPE is -1"));
  EXPECT_THAT(refused({{"type", "yarn"}, {"factor", 4}, {"llama_4_scaling_beta", 0.1}}),
              HasSubstr("'llama_4_scaling_beta' of type 'yarn'"));
  EXPECT_THAT(refused({{"type", "linear"}, {"factor", 2}, {"attention_factor", 2}}),
              HasSubstr("'attention_factor' of type 'linear'"));
  EXPECT_THAT(refused({{"rope_type", "default"}, {"mrope_section", {16, 24, 24}}}),
              HasSubstr("'mrope_section' of type 'default'"));
  EXPECT_THAT(refused({{"rope_type", "llama3"},
                       {"factor", 8},
                       {"low_freq_factor", 1},
                       {"high_freq_factor", 4},
                       {"original_max_position_embeddings", 8192},
                       {"beta_fast", 32}}),
              HasSubstr("'beta_fast' of type 'llama3'"));
  const Json factors = std::vector<double>(64, 1.5);
  const Json longrope = {{"type", "longrope"},
                         {"short_factor", factors},
                         {"long_factor", factors},
                         {"original_max_position_embeddings", 8192}};
  Json changed = longrope;
  changed["short_mscale"] = 1.1;
  EXPECT_THAT(refused(changed), HasSubstr("'short_mscale'"));
  changed = longrope;
  changed["factor"] = 3;
  EXPECT_THAT(refused(changed), HasSubstr("\"factor\" 3 of longrope"));
  changed["factor"] = 16;
  EXPECT_EQ(refused(changed), "");
  for (const Json& number : {Json(0), Json(-1), Json(nullptr), Json(1e60)}) {
    changed["long_factor"][63] = number;
    EXPECT_THAT(refused(changed), HasSubstr("\"long_factor\" has an entry 63")) << number;
  }
  Json json = Llama();
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 2}};
  json["rope_parameters"] = {{"type", "linear"}, {"factor", 4}};
  EXPECT_THAT(std::string(Translate(json).status().message()), HasSubstr("contradict"));
}

}  // namespace tidegate::hf_rope_test
