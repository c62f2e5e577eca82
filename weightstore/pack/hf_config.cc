#include "weightstore/pack/hf_config.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

constexpr HfFamily kFamilies[] = {
    {.model_type = "llama", .architecture = "llama", .paired_heads = true},
    {.model_type = "mistral", .architecture = "llama", .paired_heads = true},
    {.model_type = "mixtral",
     .architecture = "llama",
     .paired_heads = true,
     .experts = "num_local_experts"},
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
     .tied = true},
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
    {"rope_theta", "rope.freq_base", false, false},
    {"rope_local_base_freq", "rope.freq_base_swa", false, false},
    {"attn_logit_softcapping", "attn_logit_softcapping", false, false},
    {"final_logit_softcapping", "final_logit_softcapping", false, false},
};

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
    RETURN_IF_ERROR(FillRope());
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
    const bool gelu = out_.family->architecture.starts_with("gemma");
    for (const char* key : {"hidden_act", "hidden_activation"}) {
      if (!json_.Has(key)) continue;
      ASSIGN_OR_RETURN(const std::string name, json_.String(key));
      if (gelu ? name.starts_with("gelu") : name == "silu") continue;
      return Unsupported(absl::StrCat("\"", key, "\" '", name, "' is not supported"));
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
    ASSIGN_OR_RETURN(const double part, PartialRotaryFactor());
    if (!(part > 0 && part <= 1)) return Unsupported("\"partial_rotary_factor\" is impossible");
    rotated_ = static_cast<uint64_t>(part * static_cast<double>(out_.head_rows));
    Set("rope.dimension_count", rotated_);
    if (json_.Has("query_pre_attn_scalar")) {
      ASSIGN_OR_RETURN(const double scalar, json_.Number("query_pre_attn_scalar"));
      if (!(scalar > 0)) return Unsupported("\"query_pre_attn_scalar\" is not positive");
      Set("attention.scale", 1 / std::sqrt(scalar));
    }
    return absl::OkStatus();
  }

  absl::Status FillWindow() {
    bool used = json_.Has("sliding_window");
    if (used && json_.Has("use_sliding_window")) {
      ASSIGN_OR_RETURN(used, json_.Bool("use_sliding_window"));
    } else if (out_.family->architecture.starts_with("qwen")) {
      used = false;  // What these files mean when they do not say.
    }
    if (!used) {
      if (out_.family->sandwich_norms) return Unsupported("\"sliding_window\" is missing");
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const uint64_t window, json_.Uint("sliding_window"));
    Set("attention.sliding_window", window);
    std::vector<bool> windowed(layers_, true);
    if (const nlohmann::json* types = json_.Find("layer_types")) {
      if (!types->is_array() || types->size() != layers_) {
        return Unsupported("\"layer_types\" does not fit the number of layers");
      }
      for (size_t i = 0; i < windowed.size(); ++i) windowed[i] = (*types)[i] == "sliding_attention";
    } else if (json_.Has("max_window_layers")) {  // Qwen: the first ones see everything.
      ASSIGN_OR_RETURN(const uint64_t full, json_.Uint("max_window_layers"));
      for (uint64_t i = 0; i < std::min<uint64_t>(full, layers_); ++i) windowed[i] = false;
    } else if (json_.Has("sliding_window_pattern")) {  // Gemma 3: one in so many sees everything.
      ASSIGN_OR_RETURN(const uint64_t every, json_.Uint("sliding_window_pattern"));
      if (every == 0) return Unsupported("\"sliding_window_pattern\" is 0");
      for (uint64_t i = every - 1; i < layers_; i += every) windowed[i] = false;
    } else {
      return absl::OkStatus();  // As the architecture has it.
    }
    Set("attention.sliding_window_pattern", windowed);
    return absl::OkStatus();
  }

  static constexpr const char* kRopeParameters = "rope_parameters";

  // A number that is at the top in older files and among the parameters of RoPE in newer ones; 1
  // where no file has it.
  absl::StatusOr<double> PartialRotaryFactor() const {
    const char* key = "partial_rotary_factor";
    if (json_.Has(key)) return json_.Number(key);
    if (!json_.Has(kRopeParameters)) return 1.0;
    ASSIGN_OR_RETURN(const JsonObject rope, json_.Object(kRopeParameters));
    return rope.Has(key) ? rope.Number(key) : 1.0;
  }

  absl::Status FillRope() {
    const char* key = json_.Has("rope_scaling") ? "rope_scaling" : kRopeParameters;
    if (!json_.Has(key)) return absl::OkStatus();
    ASSIGN_OR_RETURN(const JsonObject rope, json_.Object(key));
    if (!rope.Has("full_attention")) return FillRopeOf(rope);
    // By kind of layer, as newer Gemma 3 files have it.
    if (rope.Has("sliding_attention")) {
      ASSIGN_OR_RETURN(const JsonObject windowed, rope.Object("sliding_attention"));
      if (windowed.Has("rope_theta")) {
        ASSIGN_OR_RETURN(const double base, windowed.Number("rope_theta"));
        Set("rope.freq_base_swa", base);
      }
    }
    ASSIGN_OR_RETURN(const JsonObject full, rope.Object("full_attention"));
    return FillRopeOf(full);
  }

  absl::Status FillRopeOf(const JsonObject& rope) {
    if (rope.Has("rope_theta")) {
      ASSIGN_OR_RETURN(const double base, rope.Number("rope_theta"));
      Set("rope.freq_base", base);
    }
    const char* type_key = rope.Has("rope_type") ? "rope_type" : "type";
    ASSIGN_OR_RETURN(const std::string type, rope.String(type_key));
    if (type == "default") return absl::OkStatus();
    if (type == "linear") return FillLinear(rope);
    if (type == "llama3") return FillLlama3(rope);
    if (type == "yarn") return FillYarn(rope);
    if (type == "longrope" || type == "su") return FillLongRope(rope);
    return Unsupported(absl::StrCat("RoPE scaling '", type, "' is not supported (linear, llama3, ",
                                    "yarn and longrope are)"));
  }

  absl::Status FillLinear(const JsonObject& rope) {
    ASSIGN_OR_RETURN(const double factor, rope.Number("factor"));
    if (!(factor > 0)) return Unsupported("the factor of linear RoPE scaling is not positive");
    Set("rope.scaling.type", std::string("linear"));
    Set("rope.scaling.factor", factor);
    return absl::OkStatus();
  }

  // Long waves are stretched by the factor, short ones not, those between in part.
  absl::Status FillLlama3(const JsonObject& rope) {
    ASSIGN_OR_RETURN(const double factor, rope.Number("factor"));
    ASSIGN_OR_RETURN(const double low, rope.Number("low_freq_factor"));
    ASSIGN_OR_RETURN(const double high, rope.Number("high_freq_factor"));
    ASSIGN_OR_RETURN(const double original, rope.Number("original_max_position_embeddings"));
    const auto base = out_.metadata.find(Key("rope.freq_base"));
    const double theta = base == out_.metadata.end() ? 10000 : std::get<double>(base->second);
    if (!(factor > 0 && low > 0 && high > low && original > 0 && theta > 0)) {
      return Unsupported("the llama3 RoPE scaling has impossible numbers");
    }
    std::vector<float>& factors = out_.tensors["rope_freqs.weight"];
    const auto dims = static_cast<double>(rotated_);
    for (uint64_t i = 0; i < rotated_ / 2; ++i) {
      const double wave = 2 * std::numbers::pi * std::pow(theta, 2 * static_cast<double>(i) / dims);
      const double smooth = std::clamp((original / wave - low) / (high - low), 0.0, 1.0);
      factors.push_back(static_cast<float>(1 / ((1 - smooth) / factor + smooth)));
    }
    return absl::OkStatus();
  }

  absl::Status FillYarn(const JsonObject& rope) {
    ASSIGN_OR_RETURN(const double factor, rope.Number("factor"));
    if (!(factor > 0)) return Unsupported("the factor of YaRN is not positive");
    Set("rope.scaling.type", std::string("yarn"));
    Set("rope.scaling.factor", factor);
    for (const auto& [from, to] : {std::pair("beta_fast", "rope.scaling.yarn_beta_fast"),
                                   {"beta_slow", "rope.scaling.yarn_beta_slow"}}) {
      if (!rope.Has(from)) continue;
      ASSIGN_OR_RETURN(const double beta, rope.Number(from));
      Set(to, beta);
    }
    if (rope.Has("attention_factor")) {  // Instead of YaRN's own, which GGUF's multiplies.
      ASSIGN_OR_RETURN(const double magnitude, rope.Number("attention_factor"));
      Set("rope.scaling.yarn_attn_factor", magnitude / (0.1 * std::log(factor) + 1));
    }
    return FillOriginalContext(rope);
  }

  absl::Status FillOriginalContext(const JsonObject& rope) {
    const char* key = "original_max_position_embeddings";
    if (!rope.Has(key) && !json_.Has(key)) return absl::OkStatus();
    ASSIGN_OR_RETURN(original_, rope.Has(key) ? rope.Uint(key) : json_.Uint(key));
    Set("rope.scaling.original_context_length", original_);
    return absl::OkStatus();
  }

  absl::Status FillLongRope(const JsonObject& rope) {
    for (const auto& [from, to] : {std::pair("short_factor", "rope_factors_short.weight"),
                                   {"long_factor", "rope_factors_long.weight"}}) {
      const nlohmann::json* list = rope.Find(from);
      if (list == nullptr || !list->is_array() || list->size() != rotated_ / 2) {
        return Unsupported(absl::StrCat("\"", from, "\" is no list of ", rotated_ / 2, " numbers"));
      }
      for (const nlohmann::json& number : *list) {
        if (!number.is_number()) return Unsupported(absl::StrCat("\"", from, "\" is not numbers"));
        out_.tensors[to].push_back(number.get<float>());
      }
    }
    RETURN_IF_ERROR(FillOriginalContext(rope));
    ASSIGN_OR_RETURN(const uint64_t context, json_.Uint("max_position_embeddings"));
    if (original_ < 2) return Unsupported("\"original_max_position_embeddings\" is missing");
    const double stretch = static_cast<double>(context) / static_cast<double>(original_);
    double magnitude = 1;
    if (stretch > 1) {
      magnitude = std::sqrt(1 + std::log(stretch) / std::log(static_cast<double>(original_)));
    }
    Set("rope.scaling.type", std::string("longrope"));
    Set("rope.scaling.attn_factor", magnitude);
    return absl::OkStatus();
  }

  const JsonObject& json_;
  HfConfig out_;
  uint64_t layers_ = 0;
  uint64_t rotated_ = 0;   // elements of a head
  uint64_t original_ = 0;  // tokens of the context before scaling; 0: the file does not say
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
