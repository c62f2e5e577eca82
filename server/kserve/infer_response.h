// From events of a request to answers in tensors. Functions are stateless and thread-safe.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "engine/generation.h"
#include "inference/grpc_service.pb.h"
#include "server/kserve/infer_request.h"

namespace tidegate {

// The text of an answer that comes at once. Thread-compatible.
class WholeText {
 public:
  // False: it has become too long for one message, and is given up.
  bool Append(const std::string& text);
  bool too_long() const { return too_long_; }
  const std::string& text() const { return text_; }
  // INVALID_ARGUMENT with BadRequest, where it is too long.
  absl::Status status() const;

 private:
  std::string text_;
  bool too_long_ = false;
};

// An answer with text_output alone. `model`: the name to answer with.
inference::ModelInferResponse TextAnswer(const InferPlan& plan, const std::string& model,
                                         const std::string& text);

// Adds what else the plan wants of the end.
void AddEndOutputs(const InferPlan& plan, const GenerationResult& result,
                   inference::ModelInferResponse& answer);

// An answer without outputs.
inference::ModelInferResponse EmptyAnswer(const InferPlan& plan, const std::string& model);

// The parameter triton_final_response.
void SetFinal(bool is_final, inference::ModelInferResponse& answer);

// finish_reason as OpenAI and vLLM name it: "stop", "length", or "abort" where the server ended it.
std::string InferFinishReason(FinishReason reason);

}  // namespace tidegate
