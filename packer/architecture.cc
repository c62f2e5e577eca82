#include "packer/architecture.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_join.h"

namespace tidegate {
namespace {

using Hp = Architecture::Hp;
using Experts = Architecture::Experts;

constexpr Architecture kArchitectures[] = {
    // Llama, Mistral, Mixtral, TinyLlama, SmolLM and others. GGUF stores rows of q and k so that
    // pairs are neighbours.
    {.name = "llama", .rope_pairs = Hp::ROPE_PAIRS_ADJACENT, .experts = Experts::kMay},
    {.name = "phi3", .fused = true},
    {.name = "qwen2", .qkv_bias = true},
    {.name = "qwen3", .head_norms = true},
    {.name = "qwen2moe",
     .qkv_bias = true,
     .experts = Experts::kMust,
     .normalised_experts = false,
     .shared_expert = true},
    {.name = "qwen3moe", .head_norms = true, .experts = Experts::kMust},
    {.name = "gemma", .activation = Hp::ACTIVATION_GELU_TANH, .scaled_embedding = true},
    {.name = "gemma2",
     .activation = Hp::ACTIVATION_GELU_TANH,
     .post_norms = true,
     .scaled_embedding = true,
     .window = 4096,
     .full_layer_every = 2,
     .attention_cap = 50,
     .logit_cap = 30,
     .wide_scale_layers = 46},
    {.name = "gemma3",
     .activation = Hp::ACTIVATION_GELU_TANH,
     .head_norms = true,
     .post_norms = true,
     .scaled_embedding = true,
     .full_layer_every = 6,
     .windowed_rope_base = 10000,
     .wide_scale_layers = 62},
};

}  // namespace

const Architecture* FindArchitecture(std::string_view name) {
  const auto found = std::find_if(std::begin(kArchitectures), std::end(kArchitectures),
                                  [&](const Architecture& a) { return a.name == name; });
  return found == std::end(kArchitectures) ? nullptr : found;
}

std::string ArchitectureNames() {
  return absl::StrJoin(kArchitectures, ", ", [](std::string* out, const Architecture& a) {
    out->append(a.name.data(), a.name.size());
  });
}

}  // namespace tidegate
