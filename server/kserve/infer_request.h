// From an inference request to the request of tidegate.v1 that it stands for: the tensors and
// parameters that clients of Triton's backends send (docs/kserve.md lists them), each under the
// names of both vLLM's and TensorRT-LLM's. Bounds are checked where those of tidegate.v1 are
// (parse_request.h); here, that a value has the right form. Stateless, thread-safe.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "inference/grpc_service.pb.h"
#include "tidegate/v1/generation.pb.h"

namespace tidegate {

// The only version of the served model.
inline constexpr char kModelVersion[] = "1";

// NOT_FOUND: neither that nor empty.
absl::Status CheckModelVersion(const std::string& version);

// What is to be done, and how to answer.
struct InferPlan {
  v1::GenerateRequest request;
  std::string id;            // comes back as it is
  bool raw = false;          // the answer's elements are raw, as the request's
  bool pieces = false;       // answers as text comes; else one with all of it
  bool echo_prompt = false;  // the text begins with the prompt
  bool empty_final = false;  // the end is told by an answer of its own
  // Outputs besides the text.
  bool finish_reason = false, num_input_tokens = false, num_output_tokens = false;
};

// Fills `plan`. INVALID_ARGUMENT with BadRequest, NOT_FOUND for a version; `plan` then still has
// what an error needs. `streams`: the call can answer more than once.
absl::Status ParseInferRequest(const inference::ModelInferRequest& request, bool streams,
                               InferPlan& plan);

}  // namespace tidegate
