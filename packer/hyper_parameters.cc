// Source of the keys ("[llm].*"): the GGUF specification; of their defaults: llama.cpp.
#include "packer/hyper_parameters.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "packer/unread_keys.h"
#include "proto/store/v1/pack_format.h"

namespace tidegate {
namespace {

using store::v1::HyperParameters;
using store::v1::RopeScaling;

constexpr uint64_t kMaxContext = 1u << 30;

// The keys of one model's architecture, by their names without the prefix.
class Keys {
 public:
  Keys(const SourceModel& source, std::string_view architecture)
      : source_(source), prefix_(absl::StrCat(std::string(architecture), ".")) {}

  const SourceModel& source() const { return source_; }
  std::string Full(const std::string& name) const { return prefix_ + name; }
  bool Has(const std::string& name) const { return source_.Has(Full(name)); }

  // A whole number within bounds; `fallback` for a key that is missing (negative: it is needed).
  absl::StatusOr<uint32_t> Uint(const std::string& name, uint64_t low, uint64_t high,
                                int64_t fallback = -1) const {
    uint64_t value = static_cast<uint64_t>(fallback);
    if (Has(name) || fallback < 0) {
      auto found = source_.GetUint(Full(name));
      if (absl::IsNotFound(found.status()))
        return absl::InvalidArgumentError(found.status().message());
      if (!found.ok()) return found.status();
      value = *found;
    }
    if (value < low || value > high) {
      return absl::InvalidArgumentError(absl::StrCat("metadata key ", Full(name), " is ", value,
                                                     ", outside [", low, ", ", high, "]"));
    }
    return static_cast<uint32_t>(value);
  }

  // A finite number that is positive, or may be zero; `fallback` as above.
  absl::StatusOr<float> Number(const std::string& name, bool zero_allowed, double fallback) const {
    double value = fallback;
    if (Has(name) || fallback < 0) {
      auto found = source_.GetNumber(Full(name));
      if (absl::IsNotFound(found.status()))
        return absl::InvalidArgumentError(found.status().message());
      if (!found.ok()) return found.status();
      value = *found;
    }
    const auto narrow = static_cast<float>(value);
    if (!std::isfinite(narrow) || narrow < 0 || (narrow == 0 && !zero_allowed)) {
      return absl::InvalidArgumentError(
          absl::StrCat("metadata key ", Full(name), " has the impossible value ", value));
    }
    return narrow;
  }

 private:
  const SourceModel& source_;
  const std::string prefix_;
};

// Keys that change what a model computes, in ways this release does not know, unless they mean
// "off".
absl::Status RejectUnknownArithmetic(const Keys& keys) {
  struct Row {
    const char* name;
    const char* what;
  };
  static constexpr Row kRows[] = {
      {"leading_dense_block_count", "layers with and without experts are not supported"},
      {"expert_group_count", "groups of experts are not supported"},
      {"use_parallel_residual", "attention and MLP side by side are not supported"},
      {"attention.q_lora_rank", "latent attention (MLA) is not supported"},
      {"attention.kv_lora_rank", "latent attention (MLA) is not supported"},
      {"attention.max_alibi_bias", "ALiBi positions are not supported"},
      {"attention.clamp_kqv", "clamped projections are not supported"},
      {"attention.shared_kv_layers", "layers that share keys and values are not supported"},
      {"rope.dimension_sections", "rotary positions of several dimensions are not supported"},
      {"rope.scaling.yarn_log_multiplier", "this form of YaRN is not supported"},
      {"logit_scale", "scaled logits are not supported"},
      {"residual_scale", "scaled residuals are not supported"},
      {"embedding_scale", "scaled embeddings are not supported"},
  };
  const SourceModel& source = keys.source();
  for (const Row& row : kRows) {
    const std::string key = keys.Full(row.name);
    const auto found = source.metadata().find(key);
    if (found == source.metadata().end() || MeansOff(row.name, found->second)) continue;
    const auto value = source.GetNumber(key);
    return absl::InvalidArgumentError(
        absl::StrCat("metadata key ", key, value.ok() ? absl::StrCat(" is ", *value) : " is set",
                     ": ", row.what));
  }
  return absl::OkStatus();
}

// What is read below.
constexpr std::string_view kUsed[] = {"attention.head_count",
                                      "attention.head_count_kv",
                                      "attention.key_length",
                                      "attention.layer_norm_rms_epsilon",
                                      "attention.scale",
                                      "attention.sliding_window",
                                      "attention.sliding_window_pattern",
                                      "attention.value_length",
                                      "attn_logit_softcapping",
                                      "block_count",
                                      "context_length",
                                      "embedding_length",
                                      "expert_count",
                                      "expert_feed_forward_length",
                                      "expert_gating_func",
                                      "expert_used_count",
                                      "expert_weights_norm",
                                      "expert_weights_scale",
                                      "feed_forward_length",
                                      "final_logit_softcapping",
                                      "rope.dimension_count",
                                      "rope.freq_base",
                                      "rope.freq_base_swa",
                                      "rope.scale_linear",
                                      "rope.scaling.attn_factor",
                                      "rope.scaling.factor",
                                      "rope.scaling.original_context_length",
                                      "rope.scaling.type"};
constexpr std::string_view kUsedByYarn[] = {
    "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor"};
constexpr std::string_view kUsedBySharedExperts[] = {"expert_shared_count",
                                                     "expert_shared_feed_forward_length"};

// Refuses keys that may change the arithmetic and that nothing reads; what is not known at all goes
// into `ignored`.
absl::Status JudgeKeys(const Keys& keys, const Architecture& architecture,
                       std::vector<std::string>& ignored) {
  const SourceModel& source = keys.source();
  const bool yarn = source.GetString(keys.Full("rope.scaling.type")).value_or("") == "yarn";
  for (const auto& [full, value] : source.metadata()) {
    if (!full.starts_with(keys.Full(""))) continue;
    const std::string_view key = std::string_view(full).substr(keys.Full("").size());
    const auto among = [key](const auto& list) {
      return std::find(std::begin(list), std::end(list), key) != std::end(list);
    };
    if (among(kUsed) || (yarn && among(kUsedByYarn)) ||
        (architecture.shared_expert && among(kUsedBySharedExperts))) {
      continue;
    }
    if (key == "attention.causal") {
      if (source.GetBool(full).value_or(false)) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "metadata key ", full, " is not true: attention to later tokens is not supported"));
    }
    const absl::Status judged = JudgeUnreadKey(key, value, architecture.name, ignored);
    if (!judged.ok()) return Annotate(judged, "metadata");
  }
  return absl::OkStatus();
}

absl::Status FillYarn(const Keys& keys, RopeScaling& scaling) {
  ASSIGN_OR_RETURN(const float mix, keys.Number("rope.scaling.yarn_ext_factor", true, 1));
  if (mix != 1) {
    return absl::InvalidArgumentError(absl::StrCat("metadata key ",
                                                   keys.Full("rope.scaling.yarn_ext_factor"),
                                                   " is ", mix, ": only 1 is supported"));
  }
  ASSIGN_OR_RETURN(const float magnitude, keys.Number("rope.scaling.yarn_attn_factor", false, 1));
  ASSIGN_OR_RETURN(const float fast, keys.Number("rope.scaling.yarn_beta_fast", false, 32));
  ASSIGN_OR_RETURN(const float slow, keys.Number("rope.scaling.yarn_beta_slow", false, 1));
  if (scaling.factor() < 1) {
    return absl::InvalidArgumentError(absl::StrCat("metadata key ",
                                                   keys.Full("rope.scaling.factor"), " is ",
                                                   scaling.factor(), ": YaRN stretches"));
  }
  ASSIGN_OR_RETURN(const float base, keys.Number("rope.freq_base", false, 10000));
  if (base <= 1) {
    return absl::InvalidArgumentError(absl::StrCat("metadata key ", keys.Full("rope.freq_base"),
                                                   " is ", base, ", with YaRN it must exceed 1"));
  }
  scaling.set_kind(RopeScaling::KIND_YARN);
  scaling.set_magnitude(scaling.magnitude() * magnitude);
  scaling.set_yarn_beta_fast(fast);
  scaling.set_yarn_beta_slow(slow);
  return absl::OkStatus();
}

// The factor of linear and YaRN scaling; 1 where there is none. Files from before rope.scaling.*
// have scale_linear, and some converters write 0 for "none".
absl::StatusOr<float> ScalingFactor(const Keys& keys, bool needed) {
  const std::string name =
      keys.Has("rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
  ASSIGN_OR_RETURN(const float factor, keys.Number(name, true, needed ? -1 : 1));
  return factor == 0 ? 1 : factor;
}

// "none", "linear", "yarn" or "longrope". A factor without a type is linear; Phi-3 names no type
// for its pair of factor tensors.
absl::StatusOr<std::string> ScalingType(const Keys& keys) {
  if (keys.Has("rope.scaling.type")) {
    ASSIGN_OR_RETURN(const std::string type,
                     keys.source().GetString(keys.Full("rope.scaling.type")));
    for (const char* known : {"none", "linear", "yarn", "longrope"}) {
      if (type == known) return type;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("metadata key ", keys.Full("rope.scaling.type"), ": '", type,
                     "' scaling is not supported (none, linear, yarn and longrope are)"));
  }
  if (keys.source().FindTensor("rope_factors_long.weight") != nullptr) return "longrope";
  return keys.Has("rope.scaling.factor") || keys.Has("rope.scale_linear") ? "linear" : "none";
}

absl::StatusOr<RopeScaling> RopeScalingFromGguf(const Keys& keys, uint32_t context) {
  ASSIGN_OR_RETURN(const std::string type, ScalingType(keys));
  RopeScaling scaling;
  scaling.set_kind(RopeScaling::KIND_NONE);
  ASSIGN_OR_RETURN(const float magnitude, keys.Number("rope.scaling.attn_factor", true, 1));
  scaling.set_magnitude(magnitude == 0 ? 1 : magnitude);
  if (type == "none") return scaling;
  ASSIGN_OR_RETURN(const float factor, ScalingFactor(keys, type != "longrope"));
  if (type == "longrope") {
    if (factor != 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("metadata key ", keys.Full("rope.scaling.factor"), " is ", factor,
                       " beside long-RoPE factors, which is not supported"));
    }
    scaling.set_kind(RopeScaling::KIND_LONG);
  }
  const bool magnified = keys.Has("rope.scaling.yarn_attn_factor");
  if (type != "longrope" && factor == 1 && !magnified) return scaling;
  if (type == "linear") {
    scaling.set_kind(RopeScaling::KIND_LINEAR);
    scaling.set_factor(factor);
    return scaling;
  }
  ASSIGN_OR_RETURN(const uint32_t original,
                   keys.Uint("rope.scaling.original_context_length", 1, kMaxContext, context));
  scaling.set_original_context(original);
  if (type == "yarn") {
    scaling.set_factor(factor);
    RETURN_IF_ERROR(FillYarn(keys, scaling));
  }
  return scaling;
}

absl::Status FillHeads(const Keys& keys, HyperParameters& hp) {
  ASSIGN_OR_RETURN(const uint32_t heads, keys.Uint("attention.head_count", 1, 4096));
  ASSIGN_OR_RETURN(const uint32_t kv_heads, keys.Uint("attention.head_count_kv", 1, heads, heads));
  if (heads % kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(keys.Full("attention.head_count"), " (", heads,
                                                   ") is not a multiple of head_count_kv (",
                                                   kv_heads, ")"));
  }
  const bool divides = hp.hidden_size() % heads == 0;
  if (!divides && !keys.Has("attention.key_length")) {
    return absl::InvalidArgumentError(
        absl::StrCat(keys.Full("embedding_length"), " (", hp.hidden_size(),
                     ") is not a multiple of head_count (", heads, ")"));
  }
  const uint32_t head_default = hp.hidden_size() / heads;
  ASSIGN_OR_RETURN(const uint32_t key_length,
                   keys.Uint("attention.key_length", 2, 4096, head_default));
  ASSIGN_OR_RETURN(const uint32_t value_length,
                   keys.Uint("attention.value_length", 2, 4096, head_default));
  if (key_length != value_length) {
    return absl::InvalidArgumentError(absl::StrCat("heads with keys of ", key_length,
                                                   " and values of ", value_length,
                                                   " elements are not supported"));
  }
  hp.set_query_heads(heads);
  hp.set_kv_heads(kv_heads);
  hp.set_head_size(key_length);
  return absl::OkStatus();
}

absl::Status FillRope(const Keys& keys, const Architecture& architecture, HyperParameters& hp) {
  ASSIGN_OR_RETURN(const float base, keys.Number("rope.freq_base", false, 10000));
  ASSIGN_OR_RETURN(const uint32_t dims,
                   keys.Uint("rope.dimension_count", 0, hp.head_size(), hp.head_size()));
  if (dims % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(keys.Full("rope.dimension_count"), " (", dims, ") is odd"));
  }
  hp.set_rope_pairs(architecture.rope_pairs);
  hp.set_rope_base(base);
  hp.set_rope_dims(dims);
  if (architecture.windowed_rope_base > 0) {
    ASSIGN_OR_RETURN(const float windowed,
                     keys.Number("rope.freq_base_swa", false, architecture.windowed_rope_base));
    hp.set_windowed_rope_base(windowed);
  } else if (keys.Has("rope.freq_base_swa")) {
    return absl::InvalidArgumentError(
        absl::StrCat("metadata key ", keys.Full("rope.freq_base_swa"), " is set: layers of ",
                     std::string(architecture.name), " models share one base here"));
  }
  ASSIGN_OR_RETURN(*hp.mutable_rope_scaling(), RopeScalingFromGguf(keys, hp.context_length()));
  return absl::OkStatus();
}

// Which layers have the window, from the file: a flag for each, or "every n-th layer has none".
absl::StatusOr<std::vector<bool>> WindowedLayers(const Keys& keys, uint32_t every,
                                                 uint32_t layers) {
  const std::string key = keys.Full("attention.sliding_window_pattern");
  std::vector<bool> windowed(layers);
  const auto found = keys.source().metadata().find(key);
  if (found != keys.source().metadata().end()) {
    if (const auto* flags = std::get_if<std::vector<bool>>(&found->second)) {
      if (flags->size() == layers) return *flags;
      return absl::InvalidArgumentError(absl::StrCat("metadata key ", key, " has ", flags->size(),
                                                     " entries for ", layers, " layers"));
    }
    ASSIGN_OR_RETURN(every, keys.Uint("attention.sliding_window_pattern", 0, kMaxLayers));
  }
  for (uint32_t layer = 0; layer < layers; ++layer) {
    windowed[layer] = every == 0 || layer % every + 1 < every;
  }
  return windowed;
}

absl::Status FillAttention(const Keys& keys, const Architecture& architecture,
                           HyperParameters& hp) {
  ASSIGN_OR_RETURN(const uint32_t window,
                   keys.Uint("attention.sliding_window", 0, UINT32_MAX, architecture.window));
  if (window != 0) {
    ASSIGN_OR_RETURN(const std::vector<bool> windowed,
                     WindowedLayers(keys, architecture.full_layer_every, hp.layer_count()));
    for (const bool has : windowed) hp.add_windows(has ? window : 0);
  }
  ASSIGN_OR_RETURN(const float attention_cap,
                   keys.Number("attn_logit_softcapping", true, architecture.attention_cap));
  hp.set_attention_cap(attention_cap);
  const bool wide = architecture.wide_scale_layers == hp.layer_count();
  const float width = wide ? static_cast<float>(hp.hidden_size()) / hp.query_heads()
                           : static_cast<float>(hp.head_size());
  ASSIGN_OR_RETURN(const float scale, keys.Number("attention.scale", true, 0));
  hp.set_attention_scale(scale > 0 ? scale : 1.0f / std::sqrt(width));
  return absl::OkStatus();
}

// A model without experts that are chosen among.
absl::Status CheckNoExperts(const Keys& keys, const Architecture& architecture) {
  if (architecture.experts == Architecture::Experts::kMust) {
    return absl::InvalidArgumentError(absl::StrCat(
        "metadata key ", keys.Full("expert_count"),
        " is missing or 0: ", std::string(architecture.name), " models are mixtures of experts"));
  }
  ASSIGN_OR_RETURN(const uint32_t used, keys.Uint("expert_used_count", 0, UINT32_MAX, 0));
  if (used == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("metadata key ", keys.Full("expert_used_count"),
                                                 " is ", used, ", but there are no experts (",
                                                 keys.Full("expert_count"), " is missing or 0)"));
}

// How the weights of the chosen experts come about.
absl::Status FillRouting(const Keys& keys, const Architecture& architecture, HyperParameters& hp) {
  ASSIGN_OR_RETURN(const uint32_t gating, keys.Uint("expert_gating_func", 0, UINT32_MAX, 1));
  if (gating > 1) {  // 0: the file does not say
    return absl::InvalidArgumentError(absl::StrCat("metadata key ", keys.Full("expert_gating_func"),
                                                   " is ", gating,
                                                   ": only 1 (softmax) is supported"));
  }
  ASSIGN_OR_RETURN(const float scale, keys.Number("expert_weights_scale", true, 1));
  if (scale != 0 && scale != 1) {
    return absl::InvalidArgumentError(absl::StrCat("metadata key ",
                                                   keys.Full("expert_weights_scale"), " is ", scale,
                                                   ": scaled expert weights are not supported"));
  }
  bool normalised = architecture.normalised_experts;
  if (keys.Has("expert_weights_norm")) {
    ASSIGN_OR_RETURN(normalised, keys.source().GetBool(keys.Full("expert_weights_norm")));
  }
  hp.set_normalise_expert_weights(normalised);
  return absl::OkStatus();
}

// Keeps the width of one expert as the intermediate size. A shared expert that is wider counts as
// several: their sum is the same.
absl::Status FillExperts(const Keys& keys, const Architecture& architecture, HyperParameters& hp) {
  ASSIGN_OR_RETURN(const uint32_t count, keys.Uint("expert_count", 0, kMaxExperts, 0));
  if (count == 0) return CheckNoExperts(keys, architecture);
  if (architecture.experts == Architecture::Experts::kNone) {
    return absl::InvalidArgumentError(
        absl::StrCat("metadata key ", keys.Full("expert_count"), " is ", count, ": ",
                     std::string(architecture.name), " models with experts are not supported"));
  }
  RETURN_IF_ERROR(FillRouting(keys, architecture, hp));
  ASSIGN_OR_RETURN(const uint32_t used, keys.Uint("expert_used_count", 1, count));
  const uint32_t plain = hp.intermediate_size();
  const bool always = architecture.experts == Architecture::Experts::kMust;
  ASSIGN_OR_RETURN(const uint32_t width, keys.Uint("expert_feed_forward_length", 1, kMaxUnits,
                                                   always ? std::max(plain / used, 1u) : plain));
  hp.set_intermediate_size(width);
  hp.set_expert_count(count);
  hp.set_experts_used(used);
  if (!architecture.shared_expert) return absl::OkStatus();
  ASSIGN_OR_RETURN(const uint32_t shared,
                   keys.Uint("expert_shared_feed_forward_length", 1, kMaxUnits, plain));
  if (shared % width != 0 || shared / width > kMaxExperts) {
    return absl::InvalidArgumentError(absl::StrCat(
        "metadata key ", keys.Full("expert_shared_feed_forward_length"), " is ", shared,
        ": only 1 to ", kMaxExperts, " times the width of an expert (", width, ") is supported"));
  }
  hp.set_shared_experts(shared / width);
  return absl::OkStatus();
}

// Bounds what a plan keeps of every expert. The largest models known have 24,000.
absl::Status CheckExpertsInAll(const Keys& keys, const HyperParameters& hp) {
  constexpr uint64_t kMax = 1 << 16;
  const uint64_t total = uint64_t{hp.layer_count()} * ExpertSlots(hp);
  if (total <= kMax) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "metadata key ", keys.Full("expert_count"), " is ", hp.expert_count(), ": that makes ", total,
      " experts in all layers, at most ", kMax, " are supported"));
}

absl::Status FillSizes(const Keys& keys, HyperParameters& hp) {
  ASSIGN_OR_RETURN(const uint32_t layers, keys.Uint("block_count", 1, kMaxLayers));
  ASSIGN_OR_RETURN(const uint32_t hidden, keys.Uint("embedding_length", 1, kMaxUnits));
  ASSIGN_OR_RETURN(const uint32_t intermediate, keys.Uint("feed_forward_length", 1, kMaxUnits));
  ASSIGN_OR_RETURN(const uint32_t context, keys.Uint("context_length", 1, kMaxContext));
  hp.set_layer_count(layers);
  hp.set_hidden_size(hidden);
  hp.set_intermediate_size(intermediate);
  hp.set_context_length(context);
  if (const GgufTensor* embedding = keys.source().FindTensor("token_embd.weight")) {
    if (embedding->rows() > (4u << 20)) {
      return absl::InvalidArgumentError(absl::StrCat("token_embd.weight has ", embedding->rows(),
                                                     " rows, at most ", 4u << 20,
                                                     " tokens are supported"));
    }
    hp.set_embedding_rows(static_cast<uint32_t>(embedding->rows()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<const Architecture*> ArchitectureOf(const SourceModel& source) {
  const auto name = source.GetString("general.architecture");
  if (!name.ok()) return absl::InvalidArgumentError(name.status().message());
  const Architecture* architecture = FindArchitecture(*name);
  if (architecture == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "architecture '", *name, "' is not supported; this release packs ", ArchitectureNames()));
  }
  return architecture;
}

std::vector<std::string> IgnoredKeys(const SourceModel& source) {
  std::vector<std::string> ignored = source.ignored_keys();
  const auto architecture = ArchitectureOf(source);
  if (architecture.ok()) {
    (void)JudgeKeys(Keys(source, (*architecture)->name), **architecture, ignored);
  }
  return ignored;
}

absl::StatusOr<HyperParameters> HyperParametersOf(const SourceModel& source) {
  ASSIGN_OR_RETURN(const Architecture* architecture, ArchitectureOf(source));
  const Keys keys(source, architecture->name);
  RETURN_IF_ERROR(RejectUnknownArithmetic(keys));
  std::vector<std::string> ignored;
  RETURN_IF_ERROR(JudgeKeys(keys, *architecture, ignored));
  HyperParameters hp;
  RETURN_IF_ERROR(FillSizes(keys, hp));
  RETURN_IF_ERROR(FillExperts(keys, *architecture, hp));
  RETURN_IF_ERROR(CheckExpertsInAll(keys, hp));
  ASSIGN_OR_RETURN(const float epsilon, keys.Number("attention.layer_norm_rms_epsilon", false, -1));
  hp.set_rms_epsilon(epsilon);
  RETURN_IF_ERROR(FillHeads(keys, hp));
  RETURN_IF_ERROR(FillRope(keys, *architecture, hp));
  RETURN_IF_ERROR(FillAttention(keys, *architecture, hp));
  hp.set_activation(architecture->activation);
  hp.set_embedding_scale(
      architecture->scaled_embedding ? std::sqrt(static_cast<float>(hp.hidden_size())) : 1.0f);
  ASSIGN_OR_RETURN(const float logit_cap,
                   keys.Number("final_logit_softcapping", true, architecture->logit_cap));
  hp.set_logit_cap(logit_cap);
  return hp;
}

}  // namespace tidegate
