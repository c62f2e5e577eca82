#include "packer/unread_keys.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/text.h"

namespace tidegate {
namespace {

constexpr size_t kShownValueBytes = 40;

// Of training, of tools and of the tokenizer; sizes that tensors repeat.
constexpr std::string_view kHarmless[] = {"_attn_implementation",
                                          "_attn_implementation_autoset",
                                          "_name_or_path",
                                          "architectures",
                                          "attention_dropout",
                                          "attention_probs_dropout_prob",
                                          "attn_implementation",
                                          "auto_map",
                                          "bos_token_id",
                                          "cache_implementation",
                                          "dropout",
                                          "dtype",
                                          "embd_dropout",
                                          "embd_pdrop",
                                          "eos_token_id",
                                          "gradient_checkpointing",
                                          "hidden_dropout",
                                          "hidden_dropout_prob",
                                          "initializer_range",
                                          "is_decoder",
                                          "is_encoder_decoder",
                                          "is_llama_config",
                                          "model_max_length",
                                          "output_attentions",
                                          "output_hidden_states",
                                          "output_router_logits",
                                          "pad_token_id",
                                          "pretraining_tp",
                                          "problem_type",
                                          "resid_dropout",
                                          "resid_pdrop",
                                          "return_dict",
                                          "rope.scaling.finetuned",
                                          "router_aux_loss_coef",
                                          "router_jitter_noise",
                                          "router_z_loss_coef",
                                          "tensor_data_layout",
                                          "tokenizer_class",
                                          "torch_dtype",
                                          "transformers.js_config",
                                          "transformers_version",
                                          "unk_token_id",
                                          "unsloth_fixed",
                                          "unsloth_version",
                                          "use_cache",
                                          "use_flash_attention",
                                          "use_flash_attention_2",
                                          "use_flash_attn",
                                          "vocab_size"};

// A name with a word that begins so may be about arithmetic.
constexpr std::string_view kSuspectStems[] = {
    "activation",  "alibi",   "attention",  "attn", "bias",      "bidirectional", "causal",
    "chunk",       "clamp",   "clip",       "conv", "dense",     "expert",        "factor",
    "gelu",        "glu",     "limit",      "relu", "silu",      "swiglu",        "swish",
    "gate",        "gating",  "group",      "head", "interleav", "latent",        "logit",
    "lora",        "mscale",  "multiplier", "nope", "norm",      "parallel",      "pooling",
    "position",    "quant",   "residual",   "rope", "rotary",    "routed",        "router",
    "scale",       "scaling", "shared",     "sink", "sliding",   "softcap",       "sparse",
    "temperature", "topk",    "window",     "yarn"};
constexpr std::string_view kSuspectWords[] = {"act", "eps", "kv",  "mlp", "moe",
                                              "mup", "qk",  "qkv", "ssm"};

// Where 1 means "off".
constexpr std::string_view kFactorStems[] = {"scale", "scaling", "multiplier", "factor", "mod"};

// "attn" and "scale" of "attn.scale".
std::vector<std::string> WordsOf(std::string_view key) {
  const std::string lower = absl::AsciiStrToLower(absl::string_view(key.data(), key.size()));
  return absl::StrSplit(lower, absl::ByAnyChar("._- "), absl::SkipEmpty());
}

template <size_t kCount>
bool AnyBegins(const std::vector<std::string>& words, const std::string_view (&stems)[kCount]) {
  return std::any_of(words.begin(), words.end(), [&](const std::string& word) {
    return std::any_of(std::begin(stems), std::end(stems),
                       [&](std::string_view stem) { return word.starts_with(stem); });
  });
}

bool IsSuspect(std::string_view key) {
  const std::vector<std::string> words = WordsOf(key);
  return AnyBegins(words, kSuspectStems) ||
         std::find_first_of(words.begin(), words.end(), std::begin(kSuspectWords),
                            std::end(kSuspectWords)) != words.end();
}

bool NumberIsOff(std::string_view key, double value) {
  return value == 0 || (value == 1 && AnyBegins(WordsOf(key), kFactorStems));
}

bool IsOff(std::string_view key, const GgufValue& value) { return MeansOff(key, value); }

bool IsOff(std::string_view key, const nlohmann::json& value) {
  if (value.is_null()) return true;
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_number()) return NumberIsOff(key, value.get<double>());
  if (value.is_string()) return value.get_ref<const std::string&>().empty() || value == "none";
  return value.empty();
}

std::string Shown(const GgufValue& value) {
  return std::visit(
      [](const auto& v) -> std::string {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, std::string>) {
          return Quoted(v, kShownValueBytes);
        } else if constexpr (std::is_same_v<T, bool>) {
          return v ? "true" : "false";
        } else if constexpr (std::is_arithmetic_v<T>) {
          return absl::StrCat(v);
        } else {
          return absl::StrCat("a list of ", v.size());
        }
      },
      value);
}

std::string Shown(const nlohmann::json& value) {
  return Printable(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
                   kShownValueBytes);
}

template <typename Value>
absl::Status Judge(std::string_view key, const Value& value, std::string_view model,
                   std::vector<std::string>& ignored) {
  const auto known = std::find(std::begin(kHarmless), std::end(kHarmless), key);
  if (known != std::end(kHarmless) || IsOff(key, value)) return absl::OkStatus();
  if (IsSuspect(key)) {
    return absl::InvalidArgumentError(
        absl::StrCat("key ", Quoted(key), " is ", Shown(value), ": this release does not know it ",
                     "for ", std::string(model), " models, and it may change what they compute"));
  }
  ignored.push_back(Printable(key));
  return absl::OkStatus();
}

}  // namespace

bool MeansOff(std::string_view key, const GgufValue& value) {
  return std::visit(
      [&](const auto& v) {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, std::string>) {
          return v.empty() || v == "none";
        } else if constexpr (std::is_arithmetic_v<T>) {
          return std::is_same_v<T, bool> ? !v : NumberIsOff(key, static_cast<double>(v));
        } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          return v.empty();
        } else {
          return std::all_of(v.begin(), v.end(), [](auto each) { return each == 0; });
        }
      },
      value);
}

absl::Status JudgeUnreadKey(std::string_view key, const GgufValue& value, std::string_view model,
                            std::vector<std::string>& ignored) {
  return Judge(key, value, model, ignored);
}

absl::Status JudgeUnreadKey(std::string_view key, const nlohmann::json& value,
                            std::string_view model, std::vector<std::string>& ignored) {
  return Judge(key, value, model, ignored);
}

}  // namespace tidegate
