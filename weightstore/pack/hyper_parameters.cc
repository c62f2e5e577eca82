// Hyper-parameters of a `llama` model from GGUF metadata, with every key checked that would change
// the arithmetic. Source: the GGUF specification (keys "[llm].*") and their defaults in llama.cpp.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "weightstore/pack/pack_plan.h"

namespace tidegate {
namespace {

using store::v1::HyperParameters;
using store::v1::RopeScaling;

std::string Key(const char* name) { return absl::StrCat("llama.", name); }

// A whole number within bounds; `fallback` for a key that is missing (negative: the key is needed).
absl::StatusOr<uint32_t> BoundedUint(const GgufFile& source, const char* name, uint64_t low,
                                     uint64_t high, int64_t fallback = -1) {
  const std::string key = Key(name);
  uint64_t value = static_cast<uint64_t>(fallback);
  if (source.Has(key) || fallback < 0) {
    auto found = source.GetUint(key);
    if (absl::IsNotFound(found.status()))
      return absl::InvalidArgumentError(found.status().message());
    if (!found.ok()) return found.status();
    value = *found;
  }
  if (value < low || value > high) {
    return absl::InvalidArgumentError(
        absl::StrCat("metadata key ", key, " is ", value, ", outside [", low, ", ", high, "]"));
  }
  return static_cast<uint32_t>(value);
}

// A finite number that is positive, or may be zero.
absl::StatusOr<float> FiniteNumber(const GgufFile& source, const std::string& key,
                                   bool zero_allowed, double fallback) {
  double value = fallback;
  if (source.Has(key) || fallback < 0) {
    auto found = source.GetNumber(key);
    if (absl::IsNotFound(found.status()))
      return absl::InvalidArgumentError(found.status().message());
    if (!found.ok()) return found.status();
    value = *found;
  }
  const auto narrow = static_cast<float>(value);
  if (!std::isfinite(narrow) || narrow < 0 || (narrow == 0 && !zero_allowed)) {
    return absl::InvalidArgumentError(
        absl::StrCat("metadata key ", key, " has the impossible value ", value));
  }
  return narrow;
}

// Keys that change what a llama model computes, in ways this release does not know. Zero means
// "off".
absl::Status RejectUnknownArithmetic(const GgufFile& source) {
  struct Row {
    const char* name;
    const char* what;
  };
  static constexpr Row kRows[] = {
      {"expert_count", "mixture-of-experts models are not supported"},
      {"attention.sliding_window", "sliding-window attention is not supported"},
      {"attention.scale", "its own attention scale is not supported"},
      {"attn_logit_softcapping", "soft-capped attention is not supported"},
      {"final_logit_softcapping", "soft-capped logits are not supported"},
      {"attention.clamp_kqv", "clamped projections are not supported"},
      {"logit_scale", "scaled logits are not supported"},
      {"residual_scale", "scaled residuals are not supported"},
      {"embedding_scale", "scaled embeddings are not supported"},
  };
  for (const Row& row : kRows) {
    const std::string key = Key(row.name);
    if (!source.Has(key)) continue;
    const auto value = source.GetNumber(key);
    if (value.ok() && *value == 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("metadata key ", key, value.ok() ? absl::StrCat(" is ", *value) : " is set",
                     ": ", row.what));
  }
  const auto split = source.GetUint("split.count");
  if (split.ok() && *split > 1) {
    return absl::InvalidArgumentError(absl::StrCat("the model is split into ", *split,
                                                   " files; merge them into one GGUF file first"));
  }
  return absl::OkStatus();
}

absl::StatusOr<RopeScaling> RopeScalingFromGguf(const GgufFile& source) {
  // Files from before rope.scaling.* have scale_linear; a factor without a type is linear.
  const std::string factor_key = source.Has(Key("rope.scaling.factor")) ? Key("rope.scaling.factor")
                                                                        : Key("rope.scale_linear");
  std::string kind = source.Has(factor_key) ? "linear" : "none";
  if (source.Has(Key("rope.scaling.type"))) {
    ASSIGN_OR_RETURN(kind, source.GetString(Key("rope.scaling.type")));
  }
  RopeScaling scaling;
  scaling.set_kind(RopeScaling::KIND_NONE);
  if (kind != "none" && kind != "linear") {
    return absl::InvalidArgumentError(
        absl::StrCat("metadata key ", Key("rope.scaling.type"), ": '", kind,
                     "' scaling is not supported (none and linear are)"));
  }
  const std::string attention_key = Key("rope.scaling.attn_factor");
  ASSIGN_OR_RETURN(const float attention, FiniteNumber(source, attention_key, true, 1));
  if (attention != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "metadata key ", attention_key, " is ", attention, ": scaled attention is not supported"));
  }
  if (kind == "none") return scaling;
  ASSIGN_OR_RETURN(const float factor, FiniteNumber(source, factor_key, true, -1));
  if (factor == 0 || factor == 1) return scaling;  // 0 is written for "none" by some converters.
  scaling.set_kind(RopeScaling::KIND_LINEAR);
  scaling.set_factor(factor);
  return scaling;
}

absl::Status FillHeads(const GgufFile& source, HyperParameters& hp) {
  ASSIGN_OR_RETURN(const uint32_t heads, BoundedUint(source, "attention.head_count", 1, 4096));
  ASSIGN_OR_RETURN(const uint32_t kv_heads,
                   BoundedUint(source, "attention.head_count_kv", 1, heads, heads));
  if (heads % kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(Key("attention.head_count"), " (", heads,
                                                   ") is not a multiple of head_count_kv (",
                                                   kv_heads, ")"));
  }
  const bool divides = hp.hidden_size() % heads == 0;
  if (!divides && !source.Has(Key("attention.key_length"))) {
    return absl::InvalidArgumentError(absl::StrCat(Key("embedding_length"), " (", hp.hidden_size(),
                                                   ") is not a multiple of head_count (", heads,
                                                   ")"));
  }
  const uint32_t head_default = hp.hidden_size() / heads;
  ASSIGN_OR_RETURN(const uint32_t key_length,
                   BoundedUint(source, "attention.key_length", 2, 4096, head_default));
  ASSIGN_OR_RETURN(const uint32_t value_length,
                   BoundedUint(source, "attention.value_length", 2, 4096, head_default));
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

absl::Status FillRope(const GgufFile& source, HyperParameters& hp) {
  ASSIGN_OR_RETURN(const float base, FiniteNumber(source, Key("rope.freq_base"), false, 10000));
  ASSIGN_OR_RETURN(const uint32_t dims,
                   BoundedUint(source, "rope.dimension_count", 0, hp.head_size(), hp.head_size()));
  if (dims % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(Key("rope.dimension_count"), " (", dims, ") is odd"));
  }
  hp.set_rope_base(base);
  hp.set_rope_dims(dims);
  ASSIGN_OR_RETURN(*hp.mutable_rope_scaling(), RopeScalingFromGguf(source));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<HyperParameters> HyperParametersFromGguf(const GgufFile& source) {
  const auto architecture = source.GetString("general.architecture");
  if (!architecture.ok()) return absl::InvalidArgumentError(architecture.status().message());
  if (*architecture != "llama") {
    return absl::InvalidArgumentError(absl::StrCat(
        "architecture '", *architecture, "' is not supported; this release packs 'llama' models"));
  }
  RETURN_IF_ERROR(RejectUnknownArithmetic(source));
  HyperParameters hp;
  ASSIGN_OR_RETURN(const uint32_t layers, BoundedUint(source, "block_count", 1, kMaxLayers));
  ASSIGN_OR_RETURN(const uint32_t hidden, BoundedUint(source, "embedding_length", 1, kMaxUnits));
  ASSIGN_OR_RETURN(const uint32_t intermediate,
                   BoundedUint(source, "feed_forward_length", 1, kMaxUnits));
  ASSIGN_OR_RETURN(const uint32_t context, BoundedUint(source, "context_length", 1, 1u << 30));
  hp.set_layer_count(layers);
  hp.set_hidden_size(hidden);
  hp.set_intermediate_size(intermediate);
  hp.set_context_length(context);
  ASSIGN_OR_RETURN(const float epsilon,
                   FiniteNumber(source, Key("attention.layer_norm_rms_epsilon"), true, -1));
  hp.set_rms_epsilon(epsilon);
  RETURN_IF_ERROR(FillHeads(source, hp));
  RETURN_IF_ERROR(FillRope(source, hp));
  if (const GgufTensor* embedding = source.FindTensor("token_embd.weight")) {
    if (embedding->rows() > (4u << 20)) {
      return absl::InvalidArgumentError(absl::StrCat("token_embd.weight has ", embedding->rows(),
                                                     " rows, at most ", 4u << 20,
                                                     " tokens are supported"));
    }
    hp.set_vocab_size(static_cast<uint32_t>(embedding->rows()));
  }
  return hp;
}

}  // namespace tidegate
