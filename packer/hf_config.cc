#include "packer/hf_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "packer/hf_rope.h"
#include "packer/unread_keys.h"

namespace tidegate {
namespace {

constexpr HfFamily kFamilies[] = {
    {.model_type = "llama", .architecture = "llama", .paired_heads = true},
    {.model_type = "mistral", .architecture = "llama", .paired_heads = true, .window = 4096},
    {.model_type = "mixtral",
     .architecture = "llama",
     .paired_heads = true,
     .experts = "num_local_experts",
     .rope_theta = 1e6},
    {.model_type = "phi3", .architecture = "phi3"},
    {.model_type = "qwen2", .architecture = "qwen2"},
    {.model_type = "qwen3", .architecture = "qwen3"},
    {.model_type = "qwen2_moe", .architecture = "qwen2moe", .experts = "num_experts"},
    {.model_type = "qwen3_moe", .architecture = "qwen3moe", .experts = "num_experts"},
    {.model_type = "gemma", .architecture = "gemma", .norms_plus_one = true, .tied = true},
    {.model_type = "gemma2",
     .architecture = "gemma2",
     .norms_plus_one = true,
     .sandwich_norms = true,
     .tied = true},
    {.model_type = "gemma3_text",
     .architecture = "gemma3",
     .norms_plus_one = true,
     .sandwich_norms = true,
     .tied = true,
     .rope_theta = 1e6},
};

constexpr uint64_t kMaxLayers = 1024;  // bounds lists made from the file's numbers
constexpr uint64_t kMaxHeadSize = 4096;

// Keys that only change their name.
struct KeyRow {
  const char* from;
  const char* to;  // after the architecture
  bool whole;      // an unsigned integer, otherwise any number
  bool needed;
};
constexpr KeyRow kKeys[] = {
    {"num_hidden_layers", "block_count", true, true},
    {"hidden_size", "embedding_length", true, true},
    {"intermediate_size", "feed_forward_length", true, true},
    {"max_position_embeddings", "context_length", true, true},
    {"num_attention_heads", "attention.head_count", true, true},
    {"num_key_value_heads", "attention.head_count_kv", true, false},
    {"head_dim", "attention.key_length", true, false},
    {"head_dim", "attention.value_length", true, false},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", false, true},
    {"rope_local_base_freq", "rope.freq_base_swa", false, false},
};

// Read, but not by their name alone.
constexpr std::string_view kOtherUsedKeys[] = {"_sliding_window_pattern",
                                               "attention_bias",
                                               "attn_logit_softcapping",
                                               "decoder_sparse_step",
                                               "final_logit_softcapping",
                                               "hidden_act",
                                               "hidden_activation",
                                               "layer_norm_eps",
                                               "layer_types",
                                               "max_window_layers",
                                               "mlp_only_layers",
                                               "model_type",
                                               "norm_eps",
                                               "original_max_position_embeddings",
                                               "partial_rotary_factor",
                                               "position_embedding_type",
                                               "qkv_bias",
                                               "query_pre_attn_scalar",
                                               "rope_parameters",
                                               "rope_scaling",
                                               "rope_theta",
                                               "sliding_window",
                                               "sliding_window_pattern",
                                               "sliding_window_size",
                                               "tie_word_embeddings",
                                               "use_sliding_window"};
// The same of mixtures of experts.
constexpr std::string_view kExpertKeys[] = {"moe_intermediate_size", "norm_topk_prob",
                                            "num_experts_per_tok",
                                            "shared_expert_intermediate_size"};

// One translation: the file on one side, what comes of it on the other.
class Translation {
 public:
  explicit Translation(const JsonObject& json) : json_(json) {}

  absl::StatusOr<HfConfig> Run() {
    RETURN_IF_ERROR(FindFamily());
    RETURN_IF_ERROR(RejectUnknownArithmetic());
    for (const KeyRow& row : kKeys) RETURN_IF_ERROR(CopyKey(row));
    RETURN_IF_ERROR(FillExperts());
    RETURN_IF_ERROR(FillHeads());
    RETURN_IF_ERROR(FillWindow());
    RETURN_IF_ERROR(TranslateRope(json_, out_));
    RETURN_IF_ERROR(FillSoftCaps());
    RETURN_IF_ERROR(CheckSameMeaning());
    RETURN_IF_ERROR(JudgeOtherKeys());
    out_.tied = out_.family->tied;
    out_.says_tied = json_.Has("tie_word_embeddings");
    if (out_.says_tied) {
      ASSIGN_OR_RETURN(out_.tied, json_.Bool("tie_word_embeddings"));
    }
    return std::move(out_);
  }

 private:
  std::string Key(const std::string& name) const {
    return absl::StrCat(std::string(out_.family->architecture), ".", name);
  }
  void Set(const std::string& name, GgufValue value) {
    out_.metadata[Key(name)] = std::move(value);
  }
  absl::Status Unsupported(const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(json_.where(), ": ", what));
  }

  absl::Status FindFamily() {
    ASSIGN_OR_RETURN(const std::string type, json_.String("model_type"));
    std::string known;
    for (const HfFamily& family : kFamilies) {
      if (family.model_type == type) out_.family = &family;
      absl::StrAppend(&known, known.empty() ? "" : ", ", std::string(family.model_type));
    }
    if (out_.family == nullptr) {
      return Unsupported(
          absl::StrCat("\"model_type\" '", type, "' is not supported; this release packs ", known));
    }
    out_.metadata["general.architecture"] = std::string(out_.family->architecture);
    return absl::OkStatus();
  }

  // What would change the answers without being noticed.
  absl::Status RejectUnknownArithmetic() const {
    if (json_.Has("quantization_config")) {
      return Unsupported("the model is quantised (\"quantization_config\"); use the original one");
    }
    for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts"}) {
      if (json_.Has(key) && key != out_.family->experts) {
        return Unsupported(absl::StrCat("\"", key,
                                        "\" is set: ", std::string(out_.family->model_type),
                                        " models with such experts are not supported"));
      }
    }
    return CheckActivation();
  }

  // Gemma's authors wrote "gelu" into hidden_act and meant the form with tanh; hidden_activation
  // means what it says.
  absl::Status CheckActivation() const {
    const bool gelu = out_.family->architecture.starts_with("gemma");
    for (const char* key : {"hidden_act", "hidden_activation"}) {
      if (!json_.Has(key)) continue;
      ASSIGN_OR_RETURN(const std::string name, json_.String(key));
      const bool tanh = name == "gelu_pytorch_tanh" || name == "gelu_new" || name == "gelu_fast" ||
                        (name == "gelu" && std::string_view(key) == "hidden_act");
      if (gelu ? tanh : name == "silu" || name == "swish") continue;
      return Unsupported(absl::StrCat("\"", key, "\" ", Quoted(name), " is not supported"));
    }
    return absl::OkStatus();
  }

  absl::Status CopyKey(const KeyRow& row) {
    if (!row.needed && !json_.Has(row.from)) return absl::OkStatus();
    if (row.whole) {
      ASSIGN_OR_RETURN(const uint64_t value, json_.Uint(row.from));
      Set(row.to, value);
    } else {
      ASSIGN_OR_RETURN(const double value, json_.Number(row.from));
      Set(row.to, value);
    }
    return absl::OkStatus();
  }

  absl::Status FillExperts() {
    const HfFamily& family = *out_.family;
    if (family.experts.empty()) return absl::OkStatus();
    const std::string count(family.experts);
    const bool widths = family.architecture != "llama";  // beside the plain MLP's
    const KeyRow rows[] = {{count.c_str(), "expert_count", true, true},
                           {"num_experts_per_tok", "expert_used_count", true, true},
                           {"moe_intermediate_size", "expert_feed_forward_length", true, widths},
                           {"shared_expert_intermediate_size", "expert_shared_feed_forward_length",
                            true, family.architecture == "qwen2moe"}};
    for (const KeyRow& row : rows) RETURN_IF_ERROR(CopyKey(row));
    if (widths) {
      bool normalised = false;
      if (json_.Has("norm_topk_prob")) {
        ASSIGN_OR_RETURN(normalised, json_.Bool("norm_topk_prob"));
      }
      Set("expert_weights_norm", normalised);
    }
    if (json_.Has("decoder_sparse_step")) {
      ASSIGN_OR_RETURN(const uint64_t step, json_.Uint("decoder_sparse_step"));
      if (step != 1)
        return Unsupported("\"decoder_sparse_step\": layers without experts are not supported");
    }
    const nlohmann::json* plain = json_.Find("mlp_only_layers");
    if (plain == nullptr || plain->empty()) return absl::OkStatus();
    return Unsupported("\"mlp_only_layers\": layers without experts are not supported");
  }

  absl::Status FillHeads() {
    ASSIGN_OR_RETURN(const uint64_t heads, json_.Uint("num_attention_heads"));
    ASSIGN_OR_RETURN(const uint64_t hidden, json_.Uint("hidden_size"));
    ASSIGN_OR_RETURN(layers_, json_.Uint("num_hidden_layers"));
    if (layers_ > kMaxLayers || heads == 0)
      return Unsupported("impossible numbers of layers or heads");
    out_.head_rows = hidden / heads;
    if (json_.Has("head_dim")) {
      ASSIGN_OR_RETURN(out_.head_rows, json_.Uint("head_dim"));
    }
    if (out_.head_rows < 2 || out_.head_rows > kMaxHeadSize || out_.head_rows % 2 != 0) {
      return Unsupported(absl::StrCat("heads of ", out_.head_rows, " elements are not supported"));
    }
    if (json_.Has("query_pre_attn_scalar")) {
      ASSIGN_OR_RETURN(const double scalar, json_.Number("query_pre_attn_scalar"));
      if (!(scalar > 0)) return Unsupported("\"query_pre_attn_scalar\" is not positive");
      Set("attention.scale", 1 / std::sqrt(scalar));
    }
    return absl::OkStatus();
  }

  // Null means none, which is not what a file means that does not say.
  absl::Status FillSoftCaps() {
    for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
      const auto found = json_.value().find(key);
      if (found == json_.value().end()) continue;
      double cap = 0;
      if (!found->is_null()) {
        ASSIGN_OR_RETURN(cap, json_.Number(key));
      }
      Set(key, cap);
    }
    return absl::OkStatus();
  }

  // Keys that say again, in other words, what is fixed already.
  absl::Status CheckSameMeaning() {
    const auto differs = [&](const char* key, const char* other) -> absl::StatusOr<bool> {
      if (!json_.Has(key) || !json_.Has(other)) return false;
      ASSIGN_OR_RETURN(const double a, json_.Number(key));
      ASSIGN_OR_RETURN(const double b, json_.Number(other));
      return a != b;
    };
    for (const auto& [key, other] : {std::pair("layer_norm_eps", "rms_norm_eps"),
                                     {"norm_eps", "rms_norm_eps"},
                                     {"sliding_window_size", "sliding_window"}}) {
      ASSIGN_OR_RETURN(const bool contradiction, differs(key, other));
      if (contradiction)
        return Unsupported(absl::StrCat("\"", key, "\" differs from \"", other, "\""));
    }
    if (json_.Has("position_embedding_type")) {
      ASSIGN_OR_RETURN(const std::string type, json_.String("position_embedding_type"));
      if (type != "rope" && type != "rotary") {
        return Unsupported(
            absl::StrCat("\"position_embedding_type\" ", Quoted(type), " is not supported"));
      }
    }
    const bool has_bias =
        out_.family->architecture == "qwen2" || out_.family->architecture == "qwen2moe";
    if (json_.Has("qkv_bias")) {
      ASSIGN_OR_RETURN(const bool bias, json_.Bool("qkv_bias"));
      if (bias != has_bias) return Unsupported("\"qkv_bias\" is not what such models have");
    }
    if (json_.Has("attention_bias")) {
      ASSIGN_OR_RETURN(out_.attention_bias, json_.Bool("attention_bias"));
    }
    return absl::OkStatus();
  }

  bool IsUsed(std::string_view key) const {
    const auto among = [key](const auto& list) {
      return std::find(std::begin(list), std::end(list), key) != std::end(list);
    };
    if (std::any_of(std::begin(kKeys), std::end(kKeys),
                    [key](const KeyRow& row) { return key == row.from; })) {
      return true;
    }
    const bool mixture = !out_.family->experts.empty();
    return among(kOtherUsedKeys) ||
           (mixture && (among(kExpertKeys) || key == out_.family->experts));
  }

  absl::Status JudgeOtherKeys() {
    for (const auto& [key, value] : json_.value().items()) {
      if (IsUsed(key)) continue;
      const absl::Status judged =
          JudgeUnreadKey(key, value, out_.family->model_type, out_.ignored_keys);
      if (!judged.ok()) return Annotate(judged, json_.where());
    }
    return absl::OkStatus();
  }

  absl::Status FillWindow() {
    bool used = json_.Has("sliding_window");
    const bool says = json_.value().contains("sliding_window");
    if (!says && out_.family->window > 0) {
      Set("attention.sliding_window", uint64_t{out_.family->window});
    }
    if (used && json_.Has("use_sliding_window")) {
      ASSIGN_OR_RETURN(used, json_.Bool("use_sliding_window"));
    } else if (out_.family->architecture.starts_with("qwen")) {
      used = false;  // What these files mean when they do not say.
    }
    ASSIGN_OR_RETURN(const std::vector<bool> types, LayerTypes());
    if (!used) {
      if (out_.family->sandwich_norms) return Unsupported("\"sliding_window\" is missing");
      if (std::find(types.begin(), types.end(), true) != types.end()) {
        return Unsupported("\"layer_types\" has a sliding window that \"sliding_window\" is not");
      }
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const uint64_t window, json_.Uint("sliding_window"));
    Set("attention.sliding_window", window);
    std::vector<bool> windowed(layers_, true);
    const char* pattern =
        json_.Has("sliding_window_pattern") ? "sliding_window_pattern" : "_sliding_window_pattern";
    if (!types.empty()) {
      windowed = types;
    } else if (json_.Has("max_window_layers")) {  // Qwen: the first ones see everything.
      ASSIGN_OR_RETURN(const uint64_t full, json_.Uint("max_window_layers"));
      for (uint64_t i = 0; i < std::min<uint64_t>(full, layers_); ++i) windowed[i] = false;
    } else if (json_.Has(pattern)) {  // Gemma 3: one in so many sees everything.
      ASSIGN_OR_RETURN(const uint64_t every, json_.Uint(pattern));
      if (every == 0) return Unsupported(absl::StrCat("\"", pattern, "\" is 0"));
      for (uint64_t i = every - 1; i < layers_; i += every) windowed[i] = false;
    } else {
      return absl::OkStatus();  // As the architecture has it.
    }
    Set("attention.sliding_window_pattern", windowed);
    return absl::OkStatus();
  }

  // By layer, whether it has the window; empty if the file has no such list.
  absl::StatusOr<std::vector<bool>> LayerTypes() const {
    std::vector<bool> windowed;
    const nlohmann::json* types = json_.Find("layer_types");
    if (types == nullptr) return windowed;
    if (!types->is_array() || types->size() != layers_) {
      return Unsupported("\"layer_types\" does not fit the number of layers");
    }
    for (const nlohmann::json& type : *types) {
      windowed.push_back(type == "sliding_attention");
      if (windowed.back() || type == "full_attention") continue;
      return Unsupported("\"layer_types\" has others than full_attention and sliding_attention");
    }
    return windowed;
  }

  const JsonObject& json_;
  HfConfig out_;
  uint64_t layers_ = 0;
};

constexpr std::pair<std::string_view, const char*> kLayerNames[] = {
    {"input_layernorm.weight", "attn_norm.weight"},
    {"self_attn.q_proj.", "attn_q."},
    {"self_attn.k_proj.", "attn_k."},
    {"self_attn.v_proj.", "attn_v."},
    {"self_attn.o_proj.", "attn_output."},
    {"self_attn.qkv_proj.", "attn_qkv."},
    {"self_attn.q_norm.", "attn_q_norm."},
    {"self_attn.k_norm.", "attn_k_norm."},
    {"pre_feedforward_layernorm.", "ffn_norm."},
    {"post_feedforward_layernorm.", "post_ffw_norm."},
    {"mlp.gate_proj.", "ffn_gate."},
    {"mlp.up_proj.", "ffn_up."},
    {"mlp.gate_up_proj.", "ffn_up."},
    {"mlp.down_proj.", "ffn_down."},
    {"mlp.gate.", "ffn_gate_inp."},
    {"block_sparse_moe.gate.", "ffn_gate_inp."},
    {"mlp.shared_expert.gate_proj.", "ffn_gate_shexp."},
    {"mlp.shared_expert.up_proj.", "ffn_up_shexp."},
    {"mlp.shared_expert.down_proj.", "ffn_down_shexp."},
    {"mlp.shared_expert_gate.", "ffn_gate_inp_shexp."},
};

// The digits at the start of a name, where a dot follows them; "" if there are none, or too many.
std::string_view LeadingNumber(std::string_view name) {
  const size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
  return digits <= 4 && digits < name.size() && name[digits] == '.' ? name.substr(0, digits) : "";
}

// "7.w1.weight" of an expert -> "ffn_gate.7.weight"; "" if it is none of the table.
std::string ExpertTensorName(std::string_view name) {
  constexpr std::pair<std::string_view, const char*> kNames[] = {
      {"w1", "ffn_gate"},        {"w3", "ffn_up"},      {"w2", "ffn_down"},
      {"gate_proj", "ffn_gate"}, {"up_proj", "ffn_up"}, {"down_proj", "ffn_down"}};
  const std::string_view number = LeadingNumber(name);
  if (number.empty()) return "";
  const std::string_view rest = name.substr(number.size() + 1);
  for (const auto& [from, to] : kNames) {
    if (rest.starts_with(from) && rest.substr(from.size()) == ".weight") {
      return absl::StrCat(to, ".", std::string(number), ".weight");
    }
  }
  return "";
}

// "12.self_attn.q_proj.weight" -> "blk.12.attn_q.weight"; "" if it is none of the table.
std::string LayerTensorName(const HfFamily& family, std::string_view name) {
  const std::string_view number = LeadingNumber(name);
  if (number.empty()) return "";
  const std::string_view rest = name.substr(number.size() + 1);
  const std::string prefix = absl::StrCat("blk.", std::string(number), ".");
  if (rest == "post_attention_layernorm.weight") {
    return prefix + (family.sandwich_norms ? "post_attention_norm.weight" : "ffn_norm.weight");
  }
  for (const std::string_view experts : {"block_sparse_moe.experts.", "mlp.experts."}) {
    if (!rest.starts_with(experts)) continue;
    const std::string matrix = ExpertTensorName(rest.substr(experts.size()));
    return matrix.empty() ? "" : prefix + matrix;
  }
  for (const auto& [from, to] : kLayerNames) {
    if (!rest.starts_with(from)) continue;
    return prefix + to + std::string(rest.substr(from.size()));
  }
  return "";
}

}  // namespace

absl::StatusOr<HfConfig> TranslateConfig(const JsonObject& json) { return Translation(json).Run(); }

std::string GgufTensorName(const HfFamily& family, std::string_view name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (name == "model.embed_tokens.weight") return "token_embd.weight";
  if (name == "model.norm.weight") return "output_norm.weight";
  if (name == "lm_head.weight") return "output.weight";
  if (name.ends_with("rotary_emb.inv_freq")) return "";
  std::string found;
  if (name.starts_with(kLayers)) found = LayerTensorName(family, name.substr(kLayers.size()));
  return found.empty() ? std::string(name) : found;
}

}  // namespace tidegate
