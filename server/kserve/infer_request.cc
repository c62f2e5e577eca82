#include "server/kserve/infer_request.h"

#include <functional>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "server/kserve/infer_values.h"
#include "server/parse_options.h"

namespace tidegate {
namespace {

constexpr size_t kShownInferBytes = 60;
constexpr int64_t kMicrosPerSecond = 1000000;

// Where values go.
struct InferTarget {
  InferPlan& plan;
  Violations& violations;
  bool stream_given = false, stream = false;
  bool exclude_given = false, exclude_input = false;
};

// Takes the one element of a value, or all of a list; the text says what is wrong.
using TakeKnob = absl::Status (*)(const InferValue&, InferTarget&);

absl::StatusOr<const InferScalar*> OnlyElement(const InferValue& value) {
  if (value.elements.size() == 1) return &value.elements.front();
  return absl::InvalidArgumentError(
      absl::StrCat("has ", value.elements.size(), " elements, not 1"));
}

template <void (v1::SamplingParams::*kSet)(float)>
absl::Status TakeReal(const InferValue& value, InferTarget& target) {
  ASSIGN_OR_RETURN(const InferScalar* const element, OnlyElement(value));
  ASSIGN_OR_RETURN(const double real, ToReal(*element));
  (target.plan.request.mutable_sampling()->*kSet)(static_cast<float>(real));
  return absl::OkStatus();
}

template <void (v1::Pruning::*kSet)(float)>
absl::Status TakePruningReal(const InferValue& value, InferTarget& target) {
  ASSIGN_OR_RETURN(const InferScalar* const element, OnlyElement(value));
  ASSIGN_OR_RETURN(const double real, ToReal(*element));
  (target.plan.request.mutable_pruning()->*kSet)(static_cast<float>(real));
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> OnlyUint32(const InferValue& value) {
  ASSIGN_OR_RETURN(const InferScalar* const element, OnlyElement(value));
  ASSIGN_OR_RETURN(const uint64_t number, ToUnsigned(*element));
  if (std::in_range<uint32_t>(number)) return static_cast<uint32_t>(number);
  return absl::InvalidArgumentError(absl::StrCat(number, " is too large"));
}

absl::StatusOr<bool> OnlyFlag(const InferValue& value) {
  ASSIGN_OR_RETURN(const InferScalar* const element, OnlyElement(value));
  return ToFlag(*element);
}

absl::StatusOr<std::string> OnlyText(const InferValue& value) {
  ASSIGN_OR_RETURN(const InferScalar* const element, OnlyElement(value));
  return ToText(*element);
}

absl::Status TakeTextInput(const InferValue& value, InferTarget& target) {
  if (target.plan.request.has_text()) return absl::InvalidArgumentError("is given twice");
  ASSIGN_OR_RETURN(std::string text, OnlyText(value));
  target.plan.request.set_text(std::move(text));
  return absl::OkStatus();
}

absl::Status TakeMaxTokens(const InferValue& value, InferTarget& target) {
  ASSIGN_OR_RETURN(const uint32_t tokens, OnlyUint32(value));
  target.plan.request.set_max_tokens(tokens);
  return absl::OkStatus();
}

absl::Status TakeMinTokens(const InferValue& value, InferTarget& target) {
  ASSIGN_OR_RETURN(const uint32_t tokens, OnlyUint32(value));
  target.plan.request.mutable_stop()->set_min_tokens(tokens);
  return absl::OkStatus();
}

// -1 switches it off in vLLM, 0 in TensorRT-LLM and here.
absl::Status TakeTopK(const InferValue& value, InferTarget& target) {
  ASSIGN_OR_RETURN(const InferScalar* const element, OnlyElement(value));
  ASSIGN_OR_RETURN(const int64_t number, ToInteger(*element));
  if (number < -1 || number > std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat(number, " is no count of tokens"));
  }
  target.plan.request.mutable_sampling()->set_top_k(number < 0 ? 0 : static_cast<uint32_t>(number));
  return absl::OkStatus();
}

absl::Status TakeSeed(const InferValue& value, InferTarget& target) {
  ASSIGN_OR_RETURN(const InferScalar* const element, OnlyElement(value));
  ASSIGN_OR_RETURN(const uint64_t seed, ToUnsigned(*element));
  target.plan.request.mutable_sampling()->set_seed(seed);
  return absl::OkStatus();
}

// An empty one is how clients leave it out of a fixed list of inputs.
absl::Status TakeStopStrings(const InferValue& value, InferTarget& target) {
  for (const InferScalar& element : value.elements) {
    ASSIGN_OR_RETURN(std::string text, ToText(element));
    if (!text.empty()) target.plan.request.mutable_stop()->add_strings(std::move(text));
  }
  return absl::OkStatus();
}

absl::Status TakeStopTokens(const InferValue& value, InferTarget& target) {
  for (const InferScalar& element : value.elements) {
    ASSIGN_OR_RETURN(const uint64_t id, ToUnsigned(element));
    if (!std::in_range<uint32_t>(id)) {
      return absl::InvalidArgumentError(absl::StrCat(id, " is no token id"));
    }
    target.plan.request.mutable_stop()->add_token_ids(static_cast<uint32_t>(id));
  }
  return absl::OkStatus();
}

absl::Status TakeIgnoreEos(const InferValue& value, InferTarget& target) {
  ASSIGN_OR_RETURN(const bool flag, OnlyFlag(value));
  target.plan.request.mutable_stop()->set_ignore_eos(flag);
  return absl::OkStatus();
}

absl::Status TakeIncludeStop(const InferValue& value, InferTarget& target) {
  ASSIGN_OR_RETURN(const bool flag, OnlyFlag(value));
  target.plan.request.mutable_stop()->set_include_stop_string(flag);
  return absl::OkStatus();
}

absl::Status TakeReproducible(const InferValue& value, InferTarget& target) {
  ASSIGN_OR_RETURN(const bool flag, OnlyFlag(value));
  target.plan.request.mutable_pruning()->set_reproducible(flag);
  return absl::OkStatus();
}

absl::Status TakeCacheSalt(const InferValue& value, InferTarget& target) {
  ASSIGN_OR_RETURN(std::string salt, OnlyText(value));
  target.plan.request.set_cache_salt(std::move(salt));
  return absl::OkStatus();
}

absl::Status TakeMode(const InferValue& value, InferTarget& target) {
  ASSIGN_OR_RETURN(const std::string name, OnlyText(value));
  ASSIGN_OR_RETURN(const DecodeMode mode, ParseDecodeMode(name));
  target.plan.request.mutable_pruning()->set_mode(mode == DecodeMode::kDense ? v1::DECODE_MODE_DENSE
                                                  : mode == DecodeMode::kDip
                                                      ? v1::DECODE_MODE_DIP
                                                      : v1::DECODE_MODE_DIP_CA);
  return absl::OkStatus();
}

// Microseconds, as Triton has it.
absl::Status TakeTimeout(const InferValue& value, InferTarget& target) {
  ASSIGN_OR_RETURN(const InferScalar* const element, OnlyElement(value));
  ASSIGN_OR_RETURN(const int64_t micros, ToInteger(*element));
  if (micros == 0) return absl::OkStatus();
  if (micros < 0 || micros > kMaxDurationSeconds * kMicrosPerSecond) {
    return absl::InvalidArgumentError(absl::StrCat(micros, " microseconds are outside [0, ",
                                                   kMaxDurationSeconds * kMicrosPerSecond, "]"));
  }
  auto& duration = *target.plan.request.mutable_max_duration();
  duration.set_seconds(micros / kMicrosPerSecond);
  duration.set_nanos(static_cast<int32_t>(micros % kMicrosPerSecond * 1000));
  return absl::OkStatus();
}

absl::Status TakeStream(const InferValue& value, InferTarget& target) {
  ASSIGN_OR_RETURN(target.stream, OnlyFlag(value));
  target.stream_given = true;
  return absl::OkStatus();
}

absl::Status TakeExcludeInput(const InferValue& value, InferTarget& target) {
  ASSIGN_OR_RETURN(target.exclude_input, OnlyFlag(value));
  target.exclude_given = true;
  return absl::OkStatus();
}

template <bool InferPlan::*kMember>
absl::Status TakePlanFlag(const InferValue& value, InferTarget& target) {
  ASSIGN_OR_RETURN(target.plan.*kMember, OnlyFlag(value));
  return absl::OkStatus();
}

absl::Status TakeSamplingJson(const InferValue& value, InferTarget& target);

// Of fixed lists of inputs, what may say nothing but its neutral value.
absl::Status OnlyFalse(const InferValue& value, InferTarget&) {
  ASSIGN_OR_RETURN(const bool flag, OnlyFlag(value));
  return flag ? absl::InvalidArgumentError("is not served; false or nothing is taken")
              : absl::OkStatus();
}

absl::Status OnlyOne(const InferValue& value, InferTarget&) {
  ASSIGN_OR_RETURN(const InferScalar* const element, OnlyElement(value));
  ASSIGN_OR_RETURN(const double number, ToReal(*element));
  return number == 1 ? absl::OkStatus()
                     : absl::InvalidArgumentError("is not served; 1 or nothing is taken");
}

absl::Status OnlyZero(const InferValue& value, InferTarget&) {
  ASSIGN_OR_RETURN(const InferScalar* const element, OnlyElement(value));
  ASSIGN_OR_RETURN(const double number, ToReal(*element));
  return number == 0 ? absl::OkStatus()
                     : absl::InvalidArgumentError("is not served; 0 or nothing is taken");
}

absl::Status OnlyEmpty(const InferValue& value, InferTarget&) {
  for (const InferScalar& element : value.elements) {
    ASSIGN_OR_RETURN(const std::string text, ToText(element));
    if (!text.empty()) return absl::InvalidArgumentError("is not served; leave it out");
  }
  return absl::OkStatus();
}

// Says nothing here, whatever it says.
absl::Status Ignored(const InferValue&, InferTarget&) { return absl::OkStatus(); }

using Knobs = std::map<std::string, TakeKnob, std::less<>>;

// What inputs, parameters and sampling_parameters may say.
const Knobs& CommonKnobs() {
  using S = v1::SamplingParams;
  static const auto& knobs = *new Knobs{
      {"max_tokens", TakeMaxTokens},
      {"request_output_len", TakeMaxTokens},
      {"min_tokens", TakeMinTokens},
      {"min_length", TakeMinTokens},
      {"temperature", TakeReal<&S::set_temperature>},
      {"top_p", TakeReal<&S::set_top_p>},
      {"runtime_top_p", TakeReal<&S::set_top_p>},
      {"min_p", TakeReal<&S::set_min_p>},
      {"top_k", TakeTopK},
      {"runtime_top_k", TakeTopK},
      {"repetition_penalty", TakeReal<&S::set_repetition_penalty>},
      {"presence_penalty", TakeReal<&S::set_presence_penalty>},
      {"frequency_penalty", TakeReal<&S::set_frequency_penalty>},
      {"seed", TakeSeed},
      {"random_seed", TakeSeed},
      {"stop", TakeStopStrings},
      {"stop_words", TakeStopStrings},
      {"stop_token_ids", TakeStopTokens},
      {"end_id", TakeStopTokens},
      {"ignore_eos", TakeIgnoreEos},
      {"include_stop_str_in_output", TakeIncludeStop},
      {"mode", TakeMode},
      {"density", TakePruningReal<&v1::Pruning::set_density>},
      {"gamma", TakePruningReal<&v1::Pruning::set_gamma>},
      {"reproducible", TakeReproducible},
      {"cache_salt", TakeCacheSalt},
      {"n", OnlyOne},
      {"best_of", OnlyOne},
      {"beam_width", OnlyOne},
      {"length_penalty", OnlyOne},
      {"use_beam_search", OnlyFalse},
      {"return_log_probs", OnlyFalse},
      {"return_context_logits", OnlyFalse},
      {"return_generation_logits", OnlyFalse},
      {"bad_words", OnlyEmpty},
      {"pad_id", Ignored},
      {"skip_special_tokens", Ignored},
  };
  return knobs;
}

// What only inputs and parameters may say.
const Knobs& OuterKnobs() {
  static const auto& knobs = *new Knobs{
      {"text_input", TakeTextInput},
      {"sampling_parameters", TakeSamplingJson},
      {"stream", TakeStream},
      {"streaming", TakeStream},
      {"exclude_input_in_output", TakeExcludeInput},
      {"return_finish_reason", TakePlanFlag<&InferPlan::finish_reason>},
      {"return_num_input_tokens", TakePlanFlag<&InferPlan::num_input_tokens>},
      {"return_num_output_tokens", TakePlanFlag<&InferPlan::num_output_tokens>},
      {"return_cumulative_logprob", OnlyFalse},
      {"return_logprobs", OnlyFalse},
      {"triton_enable_empty_final_response", TakePlanFlag<&InferPlan::empty_final>},
      {"timeout", TakeTimeout},
      {"priority", OnlyZero},
      {"sequence_id", OnlyZero},
      {"sequence_start", OnlyFalse},
      {"sequence_end", OnlyFalse},
      {"binary_data_output", Ignored},
  };
  return knobs;
}

void TakeValues(const std::vector<InferValue>& values, bool outer, InferTarget& target) {
  for (const InferValue& value : values) {
    auto knob = CommonKnobs().find(value.name);
    bool known = knob != CommonKnobs().end();
    if (!known && outer) {
      knob = OuterKnobs().find(value.name);
      known = knob != OuterKnobs().end();
    }
    if (!known) {
      target.violations.Add(value.field, absl::StrCat(Quoted(value.name, kShownInferBytes),
                                                      " is not known here; ModelMetadata lists "
                                                      "the inputs"));
      continue;
    }
    const absl::Status status = knob->second(value, target);
    if (!status.ok()) {
      target.violations.Add(value.field, absl::StrCat(value.name, " ", status.message()));
    }
  }
}

absl::Status TakeSamplingJson(const InferValue& value, InferTarget& target) {
  ASSIGN_OR_RETURN(const std::string json, OnlyText(value));
  if (json.empty()) return absl::OkStatus();
  TakeValues(ReadSamplingJson("sampling_parameters", json, target.violations), /*outer=*/false,
             target);
  return absl::OkStatus();
}

void TakeOutputs(const inference::ModelInferRequest& request, InferTarget& target) {
  static const auto& flags = *new std::map<std::string, bool InferPlan::*, std::less<>>{
      {"finish_reason", &InferPlan::finish_reason},
      {"num_input_tokens", &InferPlan::num_input_tokens},
      {"num_output_tokens", &InferPlan::num_output_tokens},
  };
  for (int i = 0; i < request.outputs_size(); ++i) {
    const std::string& name = request.outputs(i).name();
    if (const auto flag = flags.find(name); flag != flags.end()) {
      target.plan.*(flag->second) = true;
    } else if (name != "text_output") {
      target.violations.Add(absl::StrCat("outputs[", i, "]"),
                            absl::StrCat(Quoted(name, kShownInferBytes),
                                         " is not known here; ModelMetadata lists the outputs"));
    }
  }
}

// How the answer comes.
void TakeForm(bool streams, InferTarget& target) {
  if (!streams && target.stream) {
    target.violations.Add("stream",
                          "is true, which ModelStreamInfer serves; ModelInfer answers "
                          "once, with the whole text");
  }
  InferPlan& plan = target.plan;
  plan.pieces = streams && (!target.stream_given || target.stream);
  plan.echo_prompt = target.exclude_given && !target.exclude_input;
  if (plan.pieces && plan.echo_prompt) {
    target.violations.Add("exclude_input_in_output",
                          "is false, which only a whole text can serve: set stream to false too");
  }
}

}  // namespace

absl::Status CheckModelVersion(const std::string& version) {
  if (version.empty() || version == kModelVersion) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("no version ", Quoted(version, kShownInferBytes),
                                          " of a model here; leave it out, or ask for ",
                                          kModelVersion));
}

absl::Status ParseInferRequest(const inference::ModelInferRequest& request, bool streams,
                               InferPlan& plan) {
  plan.id = request.id();
  plan.raw = request.raw_input_contents_size() > 0;
  plan.request.set_model(request.model_name());
  if (IsValidRequestId(plan.id)) plan.request.set_request_id(plan.id);
  RETURN_IF_ERROR(CheckModelVersion(request.model_version()));

  Violations violations;
  InferTarget target{.plan = plan, .violations = violations};
  TakeValues(ReadInferValues(request, violations), /*outer=*/true, target);
  TakeOutputs(request, target);
  TakeForm(streams, target);
  if (violations.empty() && !plan.request.has_text()) {
    violations.Add("inputs", "have no text_input; give the prompt as BYTES of shape [1]");
  }
  return violations.empty() ? absl::OkStatus() : violations.ToStatus();
}

}  // namespace tidegate
