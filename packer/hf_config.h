// Translates the config.json of a Hugging Face folder into GGUF metadata, and its names of tensors
// into GGUF's. What the arithmetic needs but GGUF has as tensors (RoPE factors) comes out as such.
// Sources: the configuration classes of transformers and llama.cpp's convert_hf_to_gguf.py, by what
// they call things; the formulas of Llama 3's and Phi-3's factors are those of the models' authors.
// Pure.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "packer/json_object.h"
#include "packer/source_model.h"

namespace tidegate {

// What distinguishes the families of models in this format.
struct HfFamily {
  std::string_view model_type;    // of config.json
  std::string_view architecture;  // of GGUF
  bool paired_heads = false;      // GGUF interleaves the halves of each query and key head
  bool norms_plus_one = false;    // GGUF's norms are these plus one
  bool sandwich_norms = false;    // norms before and after each block
  bool tied = false;              // tie_word_embeddings where the file does not say
  std::string_view experts = {};  // key of the number of experts; empty: plain MLPs
  double rope_theta = 10000;      // where the file does not say
  uint32_t window = 0;            // the same of sliding_window, tokens
};

struct HfConfig {
  const HfFamily* family = nullptr;
  bool tied = false;                      // lm_head is the embedding
  bool says_tied = false;                 // and the file says whether
  uint64_t head_rows = 0;                 // rows of one head
  std::optional<bool> attention_bias;     // whether q, k and v have biases, where the file says
  std::vector<std::string> ignored_keys;  // of which nothing is known (unread_keys.h)
  std::map<std::string, GgufValue> metadata;
  std::map<std::string, std::vector<float>> tensors;  // GGUF name -> a vector
};

// INVALID_ARGUMENT names the key, the value and what is supported.
absl::StatusOr<HfConfig> TranslateConfig(const JsonObject& json);

// GGUF's name of a tensor; the name itself if there is none, "" for tensors that carry nothing.
std::string GgufTensorName(const HfFamily& family, std::string_view name);

}  // namespace tidegate
