#include "server/kserve/infer_response.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "server/violations.h"
#include "server/wire_messages.h"

namespace tidegate {
namespace {

// Of a message, what text may take; the rest is for what goes with it.
constexpr size_t kMaxInferTextBytes = kMaxMessageBytes - (64 << 10);

using inference::ModelInferResponse;

ModelInferResponse::InferOutputTensor& AddTensor(const char* name, const char* datatype,
                                                 ModelInferResponse& answer) {
  ModelInferResponse::InferOutputTensor& tensor = *answer.add_outputs();
  tensor.set_name(name);
  tensor.set_datatype(datatype);
  tensor.add_shape(1);
  return tensor;
}

// Little-endian, as the machine is (infer_values.cc).
std::string RawUint32(uint32_t value) {
  std::string bytes(sizeof(value), '\0');
  std::memcpy(bytes.data(), &value, sizeof(value));
  return bytes;
}

void AddText(const InferPlan& plan, const char* name, const std::string& text,
             ModelInferResponse& answer) {
  auto& tensor = AddTensor(name, "BYTES", answer);
  if (plan.raw) {
    answer.add_raw_output_contents(RawUint32(static_cast<uint32_t>(text.size())) + text);
  } else {
    tensor.mutable_contents()->add_bytes_contents(text);
  }
}

void AddCount(const InferPlan& plan, const char* name, uint32_t count, ModelInferResponse& answer) {
  auto& tensor = AddTensor(name, "UINT32", answer);
  if (plan.raw) {
    answer.add_raw_output_contents(RawUint32(count));
  } else {
    tensor.mutable_contents()->add_uint_contents(count);
  }
}

}  // namespace

bool WholeText::Append(const std::string& text) {
  if (too_long_) return false;
  text_ += text;
  if (text_.size() <= kMaxInferTextBytes) return true;
  too_long_ = true;
  text_ = {};
  return false;
}

absl::Status WholeText::status() const {
  if (!too_long_) return absl::OkStatus();
  Violations violations;
  violations.Add("max_tokens",
                 absl::StrCat("makes an answer of more than ", kMaxInferTextBytes,
                              " bytes; ModelStreamInfer answers in pieces, with stream true"));
  return violations.ToStatus();
}

ModelInferResponse EmptyAnswer(const InferPlan& plan, const std::string& model) {
  ModelInferResponse answer;
  answer.set_model_name(model);
  answer.set_model_version(kModelVersion);
  answer.set_id(plan.id);
  return answer;
}

ModelInferResponse TextAnswer(const InferPlan& plan, const std::string& model,
                              const std::string& text) {
  ModelInferResponse answer = EmptyAnswer(plan, model);
  AddText(plan, "text_output", text, answer);
  return answer;
}

void AddEndOutputs(const InferPlan& plan, const GenerationResult& result,
                   ModelInferResponse& answer) {
  if (plan.finish_reason) {
    AddText(plan, "finish_reason", InferFinishReason(result.reason), answer);
  }
  if (plan.num_input_tokens) {
    AddCount(plan, "num_input_tokens", result.accounts.prompt_tokens, answer);
  }
  if (plan.num_output_tokens) {
    AddCount(plan, "num_output_tokens", result.accounts.generated_tokens, answer);
  }
}

void SetFinal(bool is_final, ModelInferResponse& answer) {
  (*answer.mutable_parameters())["triton_final_response"].set_bool_param(is_final);
}

std::string InferFinishReason(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEndOfText:
    case FinishReason::kStopString:
    case FinishReason::kStopToken:
      return "stop";
    case FinishReason::kMaxTokens:
    case FinishReason::kContextLimit:
    case FinishReason::kTimeLimit:
      return "length";
    case FinishReason::kCancelled:
    case FinishReason::kDraining:
    case FinishReason::kError:
      break;
  }
  return "abort";
}

}  // namespace tidegate
