// The architectures that can be packed, as rows of a table: what each has beyond a Llama model and
// does not say in its metadata. Facts that a file can state (sizes, windows, caps, scales) are read
// from there first. The packer turns all of it into HyperParameters, so that nothing behind it
// knows an architecture by name. Constant; readable by any thread. Sources: the authors' published
// code and configurations; key names and defaults as in llama.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

struct Architecture {
  using Hp = store::v1::HyperParameters;

  std::string_view name;  // GGUF general.architecture, and the prefix of its keys
  Hp::RopePairs rope_pairs = Hp::ROPE_PAIRS_HALVES;
  Hp::Activation activation = Hp::ACTIVATION_SILU;
  bool fused = false;       // q, k and v may be rows of attn_qkv; gate and up those of ffn_up
  bool qkv_bias = false;    // q, k and v must have biases; elsewhere they may
  bool head_norms = false;  // RMS norm of each query and key head, before it is rotated
  bool post_norms = false;  // RMS norm of what attention and MLP give
  // Mixtures of experts: expert_count says whether it is one, where it may.
  enum class Experts : uint8_t { kNone, kMay, kMust };
  Experts experts = Experts::kNone;
  bool normalised_experts = true;  // the weights of those chosen are scaled to sum up to 1
  bool shared_expert = false;      // beside the experts one MLP that every token uses, with a gate
  bool scaled_embedding = false;   // by sqrt(hidden_size)
  uint32_t window = 0;             // where the file names none
  // With a window, every n-th layer sees everything all the same; 0: none does.
  uint32_t full_layer_every = 0;
  float windowed_rope_base = 0;  // of layers with a window; 0: as the others
  float attention_cap = 0, logit_cap = 0;
  // The member of the family with this many layers divides scores by sqrt(hidden_size /
  // query_heads), not by sqrt(head_size); 0: none does.
  uint32_t wide_scale_layers = 0;
};

// Null if there is none of that name.
const Architecture* FindArchitecture(std::string_view name);

// "llama, phi3, ...": for messages.
std::string ArchitectureNames();

}  // namespace tidegate
