#include "packer/hf_rope.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace tidegate {
namespace {

constexpr const char* kScaling = "rope_scaling";        // of older files
constexpr const char* kParameters = "rope_parameters";  // of newer ones
constexpr const char* kPartial = "partial_rotary_factor";
constexpr const char* kOriginal = "original_max_position_embeddings";

bool IsPositive(double value) { return value > 0 && value <= std::numeric_limits<float>::max(); }

class RopeTranslation {
 public:
  RopeTranslation(const JsonObject& json, HfConfig& out) : json_(json), out_(out) {}

  absl::Status Run() {
    RETURN_IF_ERROR(FillRotated());
    theta_ = out_.family->rope_theta;
    if (json_.Has("rope_theta")) {
      ASSIGN_OR_RETURN(theta_, json_.Number("rope_theta"));
    }
    const char* key = json_.Has(kScaling) ? kScaling : kParameters;
    if (json_.Has(key)) {
      if (json_.Has(kScaling) && json_.Has(kParameters) &&
          *json_.Find(kScaling) != *json_.Find(kParameters)) {
        return Unsupported("\"rope_scaling\" and \"rope_parameters\" contradict each other");
      }
      ASSIGN_OR_RETURN(const JsonObject rope, json_.Object(key));
      RETURN_IF_ERROR(FillKinds(rope));
    }
    Set("rope.freq_base", theta_);
    return absl::OkStatus();
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
  // A positive, finite number.
  absl::StatusOr<double> Positive(const JsonObject& rope, const char* key) const {
    ASSIGN_OR_RETURN(const double value, rope.Number(key));
    if (IsPositive(value)) return value;
    return Unsupported(absl::StrCat("\"", key, "\" of RoPE is ", value, ", not positive"));
  }

  // How much of a head is rotated: at the top in older files, among the parameters in newer ones.
  absl::Status FillRotated() {
    double part = 1;
    if (json_.Has(kPartial)) {
      ASSIGN_OR_RETURN(part, json_.Number(kPartial));
    } else if (json_.Has(kParameters)) {
      ASSIGN_OR_RETURN(const JsonObject rope, json_.Object(kParameters));
      if (rope.Has(kPartial)) {
        ASSIGN_OR_RETURN(part, rope.Number(kPartial));
      }
    }
    if (!(part > 0 && part <= 1)) return Unsupported("\"partial_rotary_factor\" is impossible");
    rotated_ = static_cast<uint64_t>(part * static_cast<double>(out_.head_rows));
    Set("rope.dimension_count", rotated_);
    return absl::OkStatus();
  }

  // One set of parameters, or one for each kind of layer, as newer Gemma 3 files have it.
  absl::Status FillKinds(const JsonObject& rope) {
    if (!rope.Has("full_attention")) return Fill(rope);
    RETURN_IF_ERROR(CheckKeys(rope, "by layer", {"full_attention", "sliding_attention"}));
    if (rope.Has("sliding_attention")) {
      ASSIGN_OR_RETURN(const JsonObject windowed, rope.Object("sliding_attention"));
      ASSIGN_OR_RETURN(const std::string type, TypeOf(windowed));
      if (type != "default") {
        return Unsupported(absl::StrCat("RoPE scaling ", Quoted(type),
                                        " of layers with a window is not supported"));
      }
      RETURN_IF_ERROR(CheckKeys(windowed, type, {}));
      if (windowed.Has("rope_theta")) {
        ASSIGN_OR_RETURN(const double base, windowed.Number("rope_theta"));
        Set("rope.freq_base_swa", base);
      }
    }
    ASSIGN_OR_RETURN(const JsonObject full, rope.Object("full_attention"));
    return Fill(full);
  }

  absl::StatusOr<std::string> TypeOf(const JsonObject& rope) const {
    for (const char* key : {"rope_type", "type"}) {
      if (rope.Has(key)) return rope.String(key);
    }
    return Unsupported("\"rope_type\" is missing");
  }

  // Nothing that one type of scaling does not know may stand beside what it does.
  absl::Status CheckKeys(const JsonObject& rope, const std::string& type,
                         std::initializer_list<std::string_view> own) const {
    for (const auto& [name, value] : rope.value().items()) {
      if (value.is_null()) continue;
      bool known = std::find(own.begin(), own.end(), name) != own.end();
      for (const char* common : {"rope_type", "type", "rope_theta", kPartial}) {
        known = known || name == common;
      }
      if (known) continue;
      return Unsupported(absl::StrCat("the RoPE parameter ", Quoted(name), " of type ",
                                      Quoted(type), " is not supported"));
    }
    return absl::OkStatus();
  }

  absl::Status Fill(const JsonObject& rope) {
    if (rope.Has("rope_theta")) {
      ASSIGN_OR_RETURN(theta_, rope.Number("rope_theta"));
    }
    ASSIGN_OR_RETURN(const std::string type, TypeOf(rope));
    if (type == "default") return CheckKeys(rope, type, {});
    if (type == "linear") return FillLinear(rope);
    if (type == "llama3") return FillLlama3(rope);
    if (type == "yarn") return FillYarn(rope);
    if (type == "longrope" || type == "su") return FillLongRope(rope);
    return Unsupported(absl::StrCat("RoPE scaling ", Quoted(type),
                                    " is not supported (linear, llama3, yarn and longrope are)"));
  }

  absl::Status FillLinear(const JsonObject& rope) {
    RETURN_IF_ERROR(CheckKeys(rope, "linear", {"factor"}));
    ASSIGN_OR_RETURN(const double factor, Positive(rope, "factor"));
    Set("rope.scaling.type", std::string("linear"));
    Set("rope.scaling.factor", factor);
    return absl::OkStatus();
  }

  // Long waves are stretched by the factor, short ones not, those between in part.
  absl::Status FillLlama3(const JsonObject& rope) {
    RETURN_IF_ERROR(
        CheckKeys(rope, "llama3", {"factor", "low_freq_factor", "high_freq_factor", kOriginal}));
    ASSIGN_OR_RETURN(const double factor, Positive(rope, "factor"));
    ASSIGN_OR_RETURN(const double low, Positive(rope, "low_freq_factor"));
    ASSIGN_OR_RETURN(const double high, Positive(rope, "high_freq_factor"));
    ASSIGN_OR_RETURN(const double original, Positive(rope, kOriginal));
    if (high <= low || !IsPositive(theta_)) {
      return Unsupported("the llama3 RoPE scaling has impossible numbers");
    }
    std::vector<float>& factors = out_.tensors["rope_freqs.weight"];
    const auto dims = static_cast<double>(rotated_);
    for (uint64_t i = 0; i < rotated_ / 2; ++i) {
      const double wave =
          2 * std::numbers::pi * std::pow(theta_, 2 * static_cast<double>(i) / dims);
      const double smooth = std::clamp((original / wave - low) / (high - low), 0.0, 1.0);
      factors.push_back(static_cast<float>(1 / ((1 - smooth) / factor + smooth)));
    }
    return absl::OkStatus();
  }

  // Factor on sines and cosines: given, or of two multiples of YaRN's logarithm.
  absl::StatusOr<double> YarnMagnitude(const JsonObject& rope, double factor) const {
    if (rope.Has("attention_factor")) return Positive(rope, "attention_factor");
    double scales[2] = {0, 0};
    const char* const keys[] = {"mscale", "mscale_all_dim"};
    for (size_t i = 0; i < 2; ++i) {
      if (!rope.Has(keys[i])) continue;
      ASSIGN_OR_RETURN(scales[i], rope.Number(keys[i]));
    }
    const auto magnitude = [factor](double scale) { return 0.1 * scale * std::log(factor) + 1; };
    if (scales[0] == 0 && scales[1] == 0) return magnitude(1);
    if (scales[0] == 0 || scales[1] == 0) {
      // Programs differ in what one of them alone means.
      return Unsupported("\"mscale\" and \"mscale_all_dim\" of YaRN are supported only together");
    }
    const double quotient = magnitude(scales[0]) / magnitude(scales[1]);
    if (IsPositive(quotient)) return quotient;
    return Unsupported(absl::StrCat("\"mscale\" ", scales[0], " and \"mscale_all_dim\" ", scales[1],
                                    " of YaRN are impossible"));
  }

  absl::Status FillYarn(const JsonObject& rope) {
    RETURN_IF_ERROR(CheckKeys(rope, "yarn",
                              {"factor", kOriginal, "attention_factor", "beta_fast", "beta_slow",
                               "mscale", "mscale_all_dim", "truncate", "finetuned"}));
    ASSIGN_OR_RETURN(const double factor, Positive(rope, "factor"));
    if (factor < 1) return Unsupported(absl::StrCat("the factor of YaRN is ", factor, ", below 1"));
    if (rope.Has("truncate")) {
      ASSIGN_OR_RETURN(const bool truncate, rope.Bool("truncate"));
      if (!truncate) return Unsupported("\"truncate\" false of YaRN is not supported");
    }
    Set("rope.scaling.type", std::string("yarn"));
    Set("rope.scaling.factor", factor);
    for (const auto& [from, to] : {std::pair("beta_fast", "rope.scaling.yarn_beta_fast"),
                                   {"beta_slow", "rope.scaling.yarn_beta_slow"}}) {
      if (!rope.Has(from)) continue;
      ASSIGN_OR_RETURN(const double beta, Positive(rope, from));
      Set(to, beta);
    }
    ASSIGN_OR_RETURN(const double magnitude, YarnMagnitude(rope, factor));
    const double usual = 0.1 * std::log(factor) + 1;  // What GGUF's multiplies.
    if (magnitude != usual) Set("rope.scaling.yarn_attn_factor", magnitude / usual);
    return FillOriginalContext(rope);
  }

  absl::Status FillOriginalContext(const JsonObject& rope) {
    if (!rope.Has(kOriginal) && !json_.Has(kOriginal)) return absl::OkStatus();
    ASSIGN_OR_RETURN(original_, rope.Has(kOriginal) ? rope.Uint(kOriginal) : json_.Uint(kOriginal));
    Set("rope.scaling.original_context_length", original_);
    return absl::OkStatus();
  }

  absl::Status FillLongRope(const JsonObject& rope) {
    RETURN_IF_ERROR(
        CheckKeys(rope, "longrope",
                  {"short_factor", "long_factor", "factor", kOriginal, "attention_factor"}));
    RETURN_IF_ERROR(FillFactors(rope, "short_factor", "rope_factors_short.weight"));
    RETURN_IF_ERROR(FillFactors(rope, "long_factor", "rope_factors_long.weight"));
    RETURN_IF_ERROR(FillOriginalContext(rope));
    ASSIGN_OR_RETURN(const uint64_t context, json_.Uint("max_position_embeddings"));
    if (original_ < 2) return Unsupported("\"original_max_position_embeddings\" is missing");
    const double stretch = static_cast<double>(context) / static_cast<double>(original_);
    if (rope.Has("factor")) {  // Says the same once more.
      ASSIGN_OR_RETURN(const double factor, rope.Number("factor"));
      if (std::fabs(factor - stretch) > 1e-3 * stretch) {
        return Unsupported(absl::StrCat("\"factor\" ", factor, " of longrope is not ",
                                        "max_position_embeddings / ", kOriginal, ", ", stretch));
      }
    }
    double magnitude = 1;
    if (rope.Has("attention_factor")) {
      ASSIGN_OR_RETURN(magnitude, Positive(rope, "attention_factor"));
    } else if (stretch > 1) {
      magnitude = std::sqrt(1 + std::log(stretch) / std::log(static_cast<double>(original_)));
    }
    Set("rope.scaling.type", std::string("longrope"));
    Set("rope.scaling.attn_factor", magnitude);
    return absl::OkStatus();
  }

  absl::Status FillFactors(const JsonObject& rope, const char* from, const char* to) {
    const nlohmann::json* list = rope.Find(from);
    if (list == nullptr || !list->is_array() || list->size() != rotated_ / 2) {
      return Unsupported(absl::StrCat("\"", from, "\" is no list of ", rotated_ / 2, " numbers"));
    }
    for (const nlohmann::json& number : *list) {
      if (!number.is_number() || !IsPositive(number.get<double>())) {
        return Unsupported(absl::StrCat("\"", from, "\" has an entry ", out_.tensors[to].size(),
                                        " that is no positive number"));
      }
      out_.tensors[to].push_back(number.get<float>());
    }
    return absl::OkStatus();
  }

  const JsonObject& json_;
  HfConfig& out_;
  double theta_ = 0;
  uint64_t rotated_ = 0;   // elements of a head
  uint64_t original_ = 0;  // tokens of the context before scaling; 0: the file does not say
};

}  // namespace

absl::Status TranslateRope(const JsonObject& json, HfConfig& out) {
  return RopeTranslation(json, out).Run();
}

}  // namespace tidegate
