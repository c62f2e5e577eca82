// What a trace tells of one request, and its form in OTLP: a span for the request, with the model,
// tokens, bytes from flash and how it ended (attributes gen_ai.* and tidegate.*), and below it one
// each for its time in the queue, in prefill and in decode. Never a prompt or an answer.
// Plain data and pure functions.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/generation.h"
#include "opentelemetry/proto/trace/v1/trace.pb.h"

namespace tidegate {

struct RequestSpan {
  std::string trace_id, span_id;  // 16 and 8 bytes
  std::string parent_id;          // 8 bytes, or "": the first of its trace
  std::string trace_state;
  uint64_t child_ids = 0;  // the three spans below have this, and the two numbers after it, as ids
  std::chrono::system_clock::time_point start = {}, end = {};
  bool chat = false;
  std::string model, request_id;
  absl::StatusCode code = absl::StatusCode::kOk;
  // Of all its choices together; nothing: it never came to the engine.
  std::optional<GenerationAccounts> accounts = {};
  std::vector<FinishReason> reasons = {};  // of each
};

// A choice of the request has ended.
void AddChoice(const GenerationResult& result, RequestSpan& span);

// The request's span first.
std::vector<opentelemetry::proto::trace::v1::Span> ToOtlp(const RequestSpan& span);

}  // namespace tidegate
