#include "server/openai/parse_json.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/json_depth.h"
#include "base/numbers.h"
#include "base/text.h"
#include "server/violations.h"

namespace tidegate {
namespace {

using nlohmann::json;

constexpr uint32_t kMaxUint32 = std::numeric_limits<uint32_t>::max();
// What a completion has at most if it does not say, as in OpenAI's.
constexpr uint32_t kCompletionTokens = 16;

std::string ShownJson(const json& value) {
  constexpr size_t kShown = 60;
  if (value.is_object() || value.is_array()) return value.is_object() ? "an object" : "a list";
  return Printable(value.dump(-1, ' ', false, json::error_handler_t::replace), kShown);
}

// The members of one object, and where to say what is wrong with them. null is as good as absent.
class JsonFields {
 public:
  // `prefix`: in front of the names of fields, such as "pruning.".
  JsonFields(const json& object, std::string prefix, Violations& violations)
      : object_(object), prefix_(std::move(prefix)), violations_(violations) {}

  const json* Find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  void Wrong(std::string_view key, const std::string& what) const {
    violations_.Add(absl::StrCat(prefix_, std::string(key)), what);
  }
  void WrongType(const char* key, const char* wanted) const {
    Wrong(key, absl::StrCat("is ", ShownJson(*Find(key)), "; use ", wanted));
  }

  std::optional<bool> Flag(const char* key) const {
    const json* const value = Find(key);
    if (value == nullptr) return std::nullopt;
    if (value->is_boolean()) return value->get<bool>();
    WrongType(key, "true or false");
    return std::nullopt;
  }
  std::optional<float> Number(const char* key) const {
    const json* const value = Find(key);
    if (value == nullptr) return std::nullopt;
    if (value->is_number()) return static_cast<float>(value->get<double>());
    WrongType(key, "a number");
    return std::nullopt;
  }
  std::optional<int64_t> Integer(const char* key, int64_t low, int64_t high) const {
    const json* const value = Find(key);
    if (value == nullptr) return std::nullopt;
    const bool fits = value->is_number_integer() &&
                      (!value->is_number_unsigned() ||
                       value->get<uint64_t>() <= std::numeric_limits<int64_t>::max());
    if (fits && value->get<int64_t>() >= low && value->get<int64_t>() <= high) {
      return value->get<int64_t>();
    }
    WrongType(key, absl::StrCat("a whole number from ", low, " to ", high).c_str());
    return std::nullopt;
  }
  std::optional<std::string> Text(const char* key) const {
    const json* const value = Find(key);
    if (value == nullptr) return std::nullopt;
    if (value->is_string()) return value->get<std::string>();
    WrongType(key, "a string");
    return std::nullopt;
  }

 private:
  const json& object_;
  const std::string prefix_;
  Violations& violations_;
};

struct FloatField {
  const char* key;
  void (v1::SamplingParams::*set)(float);
};
constexpr FloatField kFloatFields[] = {
    {"temperature", &v1::SamplingParams::set_temperature},
    {"top_p", &v1::SamplingParams::set_top_p},
    {"min_p", &v1::SamplingParams::set_min_p},
    {"repetition_penalty", &v1::SamplingParams::set_repetition_penalty},
    {"presence_penalty", &v1::SamplingParams::set_presence_penalty},
    {"frequency_penalty", &v1::SamplingParams::set_frequency_penalty},
};

void TakeBias(const JsonFields& fields, v1::SamplingParams& sampling) {
  const json* const bias = fields.Find("logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object()) return fields.WrongType("logit_bias", "an object of token ids");
  for (const auto& [key, value] : bias->items()) {
    const auto id = ParseInteger(key, {0, kMaxUint32});
    if (!id.ok() || !value.is_number()) {
      fields.Wrong("logit_bias", absl::StrCat("has ", Quoted(key, 40), ": ", ShownJson(value),
                                              "; use a token id and a number"));
      return;
    }
    (*sampling.mutable_logit_bias())[static_cast<uint32_t>(*id)] =
        static_cast<float>(value.get<double>());
  }
}

void TakeSamplingFields(const JsonFields& fields, v1::SamplingParams& sampling) {
  for (const FloatField& field : kFloatFields) {
    if (const auto value = fields.Number(field.key)) (sampling.*field.set)(*value);
  }
  if (const auto top_k = fields.Integer("top_k", -1, kMaxUint32)) {
    sampling.set_top_k(static_cast<uint32_t>(std::max<int64_t>(*top_k, 0)));
  }
  const auto seed = fields.Integer("seed", std::numeric_limits<int64_t>::min(),
                                   std::numeric_limits<int64_t>::max());
  if (seed.has_value()) sampling.set_seed(static_cast<uint64_t>(*seed));
  TakeBias(fields, sampling);
}

void TakeStopStrings(const JsonFields& fields, v1::StopConditions& stop) {
  const json* const value = fields.Find("stop");
  if (value == nullptr) return;
  if (value->is_string()) return stop.add_strings(value->get<std::string>());
  const bool strings =
      value->is_array() &&
      std::all_of(value->begin(), value->end(), [](const json& s) { return s.is_string(); });
  if (!strings) return fields.WrongType("stop", "a string or a list of strings");
  for (const json& text : *value) stop.add_strings(text.get<std::string>());
}

// False, with what is wrong said, unless all are numbers that ids may be.
template <typename Ids>
bool TakeIds(const JsonFields& fields, const char* key, const json& value, Ids& ids) {
  for (const json& id : value) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > kMaxUint32) {
      fields.Wrong(key, absl::StrCat("has ", ShownJson(id), "; use token ids"));
      return false;
    }
    ids.Add(static_cast<uint32_t>(id.get<uint64_t>()));
  }
  return true;
}

void TakeStopFields(const JsonFields& fields, v1::StopConditions& stop) {
  TakeStopStrings(fields, stop);
  if (const json* const ids = fields.Find("stop_token_ids")) {
    if (!ids->is_array()) return fields.WrongType("stop_token_ids", "a list of token ids");
    TakeIds(fields, "stop_token_ids", *ids, *stop.mutable_token_ids());
  }
  if (const auto on = fields.Flag("ignore_eos")) stop.set_ignore_eos(*on);
  if (const auto on = fields.Flag("include_stop_str_in_output")) stop.set_include_stop_string(*on);
  if (const auto tokens = fields.Integer("min_tokens", 0, kMaxUint32)) {
    stop.set_min_tokens(static_cast<uint32_t>(*tokens));
  }
}

void TakePruningFields(const JsonFields& parent, Violations& violations, v1::Pruning& pruning) {
  const json* const value = parent.Find("pruning");
  if (value == nullptr) return;
  if (!value->is_object()) return parent.WrongType("pruning", "an object");
  const JsonFields fields(*value, "pruning.", violations);
  if (const auto mode = fields.Text("mode")) {
    static constexpr std::pair<std::string_view, v1::DecodeMode> kModes[] = {
        {"dense", v1::DECODE_MODE_DENSE},
        {"dip", v1::DECODE_MODE_DIP},
        {"dip_ca", v1::DECODE_MODE_DIP_CA}};
    const auto* found = std::find_if(std::begin(kModes), std::end(kModes),
                                     [&](const auto& one) { return one.first == *mode; });
    if (found == std::end(kModes)) {
      fields.Wrong("mode", absl::StrCat("is ", Quoted(*mode, 40), "; use dense, dip or dip_ca"));
    } else {
      pruning.set_mode(found->second);
    }
  }
  if (const auto density = fields.Number("density")) pruning.set_density(*density);
  if (const auto gamma = fields.Number("gamma")) pruning.set_gamma(*gamma);
  if (const auto share = fields.Number("protected_share")) pruning.set_protected_share(*share);
  if (const auto on = fields.Flag("reproducible")) pruning.set_reproducible(*on);
}

bool IsEmptyOrFalse(const json& value) {
  return (value.is_boolean() && !value.get<bool>()) ||
         ((value.is_array() || value.is_object() || value.is_string()) && value.empty());
}

// What would make another answer than the one we can give.
void RefuseWhatIsMissing(const JsonFields& fields) {
  static constexpr const char* kMissing[] = {"tools",  "functions",          "audio",
                                             "suffix", "web_search_options", "echo"};
  for (const char* key : kMissing) {
    const json* const value = fields.Find(key);
    if (value != nullptr && !IsEmptyOrFalse(*value)) {
      fields.Wrong(key, "is not supported by this server; leave it out");
    }
  }
  for (const char* key : {"tool_choice", "function_call"}) {
    const json* const value = fields.Find(key);
    if (value != nullptr && *value != "none" && *value != "auto") {
      fields.Wrong(key, "is not supported by this server; leave it out");
    }
  }
  const json* const best_of = fields.Find("best_of");
  const json* const n = fields.Find("n");
  if (best_of != nullptr && *best_of != (n == nullptr ? json(1) : *n)) {
    fields.Wrong("best_of", absl::StrCat("is ", ShownJson(*best_of),
                                         "; this server gives all answers it makes: leave it out"));
  }
  if (const json* const format = fields.Find("response_format")) {
    if (!format->is_object() || format->value("type", json()) != "text") {
      fields.Wrong("response_format",
                   "is not supported by this server; leave it out or use "
                   "{\"type\": \"text\"}");
    }
  }
  if (const json* const modalities = fields.Find("modalities")) {
    if (*modalities != json::array({"text"})) {
      fields.Wrong("modalities", "this server answers with [\"text\"] alone");
    }
  }
}

void TakeStreamOptions(const JsonFields& fields, Violations& violations, AnswerOptions& options) {
  options.stream = fields.Flag("stream").value_or(false);
  const json* const value = fields.Find("stream_options");
  if (value == nullptr) return;
  if (!value->is_object()) return fields.WrongType("stream_options", "an object");
  const JsonFields inner(*value, "stream_options.", violations);
  options.include_usage = inner.Flag("include_usage").value_or(false);
}

template <typename Request>
void TakeSharedFields(const JsonFields& fields, Violations& violations, Request& request,
                      AnswerOptions& options) {
  RefuseWhatIsMissing(fields);
  TakeStreamOptions(fields, violations, options);
  if (auto model = fields.Text("model")) request.set_model(*std::move(model));
  for (const char* key : {"max_tokens", "max_completion_tokens"}) {
    if (const auto tokens = fields.Integer(key, 1, kMaxUint32)) {
      request.set_max_tokens(static_cast<uint32_t>(*tokens));
    }
  }
  TakeSamplingFields(fields, *request.mutable_sampling());
  TakeStopFields(fields, *request.mutable_stop());
  TakePruningFields(fields, violations, *request.mutable_pruning());
  if (const auto n = fields.Integer("n", 1, kMaxUint32)) {
    request.set_choices(static_cast<uint32_t>(*n));
  }
  constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
  if (const auto priority = fields.Integer("priority", -kMaxInt32, kMaxInt32)) {
    request.set_priority(static_cast<int32_t>(*priority));
  }
  if (auto salt = fields.Text("cache_salt")) request.set_cache_salt(*std::move(salt));
  request.set_progress(options.stream);  // a sign of life while a long prompt is read
}

// A string, or the texts of a list of parts.
void TakeContent(const json& message, const std::string& where, Violations& violations,
                 v1::ChatMessage& out) {
  const json content = message.value("content", json());
  if (content.is_null()) return;
  if (content.is_string()) return out.set_content(content.get<std::string>());
  if (!content.is_array()) {
    violations.Add(where, absl::StrCat("is ", ShownJson(content), "; use a string"));
    return;
  }
  std::string text;
  for (const json& part : content) {
    const json type = part.is_object() ? part.value("type", json()) : json();
    const json piece = part.is_object() ? part.value("text", json()) : json();
    if (type != "text" || !piece.is_string()) {
      violations.Add(where, absl::StrCat("has a part of type ", ShownJson(type),
                                         "; this server takes parts of type \"text\" alone"));
      return;
    }
    if (!text.empty()) text += "\n";
    text += piece.get_ref<const std::string&>();
  }
  out.set_content(std::move(text));
}

void TakeMessages(const JsonFields& fields, Violations& violations, v1::ChatRequest& request) {
  const json* const messages = fields.Find("messages");
  if (messages == nullptr) return fields.Wrong("messages", "is missing; a list of messages");
  if (!messages->is_array()) return fields.WrongType("messages", "a list of messages");
  for (size_t i = 0; i < messages->size(); ++i) {
    const json& message = (*messages)[i];
    const std::string where = absl::StrCat("messages[", i, "]");
    const json role = message.is_object() ? message.value("role", json()) : json();
    if (!role.is_string()) {
      violations.Add(where, "has no role; use {\"role\": \"user\", \"content\": \"...\"}");
      continue;
    }
    const json calls = message.value("tool_calls", json());
    if (!calls.is_null() && !calls.empty()) {
      violations.Add(absl::StrCat(where, ".tool_calls"), "is not supported by this server");
    }
    v1::ChatMessage& out = *request.add_messages();
    out.set_role(role.get<std::string>());
    TakeContent(message, absl::StrCat(where, ".content"), violations, out);
  }
}

// A string, ids, or a list of one of these.
void TakePromptField(const JsonFields& fields, v1::GenerateRequest& request) {
  const json* prompt = fields.Find("prompt");
  if (prompt == nullptr) return fields.Wrong("prompt", "is missing; a string or token ids");
  const bool nested = prompt->is_array() && !prompt->empty() && !prompt->front().is_number();
  if (nested && prompt->size() > 1) {
    return fields.Wrong("prompt", absl::StrCat("has ", prompt->size(),
                                               " prompts; this server takes one for each request"));
  }
  if (nested) prompt = &prompt->front();
  if (prompt->is_string()) return request.set_text(prompt->get<std::string>());
  if (!prompt->is_array()) return fields.WrongType("prompt", "a string or a list of token ids");
  TakeIds(fields, "prompt", *prompt, *request.mutable_token_ids()->mutable_ids());
}

absl::Status ParseObject(std::string_view body, json& object) {
  Violations violations;
  if (!IsJsonDepthWithin(body, kMaxRequestJsonDepth)) {
    violations.Add("body", absl::StrCat("is nested more than ", kMaxRequestJsonDepth, " deep"));
    return violations.ToStatus();
  }
  object = json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (object.is_object()) return absl::OkStatus();
  violations.Add("body", object.is_discarded() ? "is not JSON, or not in UTF-8; send one object"
                                               : "is no JSON object; send one");
  return violations.ToStatus();
}

}  // namespace

absl::Status ParseChatJson(std::string_view body, v1::ChatRequest& request,
                           AnswerOptions& options) {
  json object;
  if (absl::Status parsed = ParseObject(body, object); !parsed.ok()) return parsed;
  Violations violations;
  const JsonFields fields(object, "", violations);
  TakeSharedFields(fields, violations, request, options);
  TakeMessages(fields, violations, request);
  options.logprobs = fields.Flag("logprobs").value_or(false);
  const auto top = fields.Integer("top_logprobs", 0, kMaxUint32);
  if (options.logprobs) {
    request.set_top_logprobs(static_cast<uint32_t>(top.value_or(0)));
  } else if (top.value_or(0) > 0) {
    fields.Wrong("top_logprobs", "needs \"logprobs\": true");
  }
  return violations.empty() ? absl::OkStatus() : violations.ToStatus();
}

absl::Status ParseCompletionJson(std::string_view body, v1::GenerateRequest& request,
                                 AnswerOptions& options) {
  json object;
  if (absl::Status parsed = ParseObject(body, object); !parsed.ok()) return parsed;
  Violations violations;
  const JsonFields fields(object, "", violations);
  request.set_max_tokens(kCompletionTokens);
  TakeSharedFields(fields, violations, request, options);
  TakePromptField(fields, request);
  const json* const logprobs = fields.Find("logprobs");
  if (logprobs != nullptr && *logprobs != false) {
    const auto top = fields.Integer("logprobs", 0, kMaxUint32);
    options.logprobs = top.has_value();
    if (top.has_value()) request.set_top_logprobs(static_cast<uint32_t>(*top));
  }
  return violations.empty() ? absl::OkStatus() : violations.ToStatus();
}

}  // namespace tidegate
