#include "server/request_span.h"

#include <algorithm>
#include <utility>

namespace tidegate {
namespace {

namespace otlp = opentelemetry::proto::trace::v1;
using OtlpTime = std::chrono::system_clock::time_point;

constexpr uint32_t kSampledFlag = 1, kKnowsIfRemote = 0x100, kParentIsRemote = 0x200;

uint64_t UnixNanos(OtlpTime time) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count());
}

OtlpTime TimeAfter(OtlpTime time, double seconds) {
  return time + std::chrono::duration_cast<std::chrono::system_clock::duration>(
                    std::chrono::duration<double>(std::max(seconds, 0.0)));
}

auto* SpanAttribute(otlp::Span& span, const char* key) {
  auto* attribute = span.add_attributes();
  attribute->set_key(key);
  return attribute->mutable_value();
}
void SetText(otlp::Span& span, const char* key, std::string value) {
  SpanAttribute(span, key)->set_string_value(std::move(value));
}
void SetInteger(otlp::Span& span, const char* key, uint64_t value) {
  SpanAttribute(span, key)->set_int_value(static_cast<int64_t>(value));
}
void SetReal(otlp::Span& span, const char* key, double value) {
  SpanAttribute(span, key)->set_double_value(value);
}

otlp::Span MakeSpan(const RequestSpan& request, std::string name, OtlpTime start, OtlpTime end) {
  otlp::Span span;
  span.set_trace_id(request.trace_id);
  span.set_trace_state(request.trace_state);
  span.set_name(std::move(name));
  span.set_start_time_unix_nano(UnixNanos(start));
  span.set_end_time_unix_nano(UnixNanos(std::max(start, end)));
  span.set_flags(kSampledFlag | kKnowsIfRemote);
  return span;
}

void SetResult(const RequestSpan& request, otlp::Span& span) {
  const GenerationAccounts& accounts = *request.accounts;
  SetInteger(span, "gen_ai.usage.input_tokens", accounts.prompt_tokens);
  SetInteger(span, "gen_ai.usage.output_tokens", accounts.generated_tokens);
  auto* reasons = SpanAttribute(span, "gen_ai.response.finish_reasons")->mutable_array_value();
  for (const FinishReason reason : request.reasons) {
    reasons->add_values()->set_string_value(std::string(FinishReasonName(reason)));
  }
  SetInteger(span, "tidegate.usage.cached_tokens", accounts.cached_prompt_tokens);
  SetReal(span, "tidegate.queue_seconds", accounts.queue_seconds);
  SetReal(span, "tidegate.time_to_first_token_seconds", accounts.first_token_seconds);
  SetReal(span, "tidegate.flash.stall_seconds", accounts.stall_seconds);
  SetInteger(span, "tidegate.flash.bytes",
             accounts.prefill_flash_bytes + accounts.decode_flash_bytes);
  SetInteger(span, "tidegate.flash.reads", accounts.flash_reads);
}

otlp::Span MakeRequestSpan(const RequestSpan& request) {
  const char* operation = request.chat ? "chat" : "text_completion";
  otlp::Span span =
      MakeSpan(request, request.model.empty() ? operation : operation + (" " + request.model),
               request.start, request.end);
  span.set_span_id(request.span_id);
  span.set_parent_span_id(request.parent_id);
  span.set_kind(otlp::Span::SPAN_KIND_SERVER);
  if (!request.parent_id.empty()) span.set_flags(span.flags() | kParentIsRemote);
  SetText(span, "gen_ai.operation.name", operation);
  SetText(span, "gen_ai.provider.name", "tidegate");
  if (!request.model.empty()) SetText(span, "gen_ai.response.model", request.model);
  SetText(span, "gen_ai.response.id", request.request_id);
  SetInteger(span, "rpc.grpc.status_code", static_cast<uint64_t>(request.code));
  if (request.code != absl::StatusCode::kOk) {
    const std::string name = absl::StatusCodeToString(request.code);
    SetText(span, "error.type", name);
    span.mutable_status()->set_code(otlp::Status::STATUS_CODE_ERROR);
    span.mutable_status()->set_message(name);
  }
  if (request.accounts) SetResult(request, span);
  return span;
}

void AddStages(const RequestSpan& request, std::vector<otlp::Span>& spans) {
  const GenerationAccounts& accounts = *request.accounts;
  const OtlpTime admitted = TimeAfter(request.start, accounts.queue_seconds);
  const bool has_token = accounts.generated_tokens > 0;
  const OtlpTime first =
      TimeAfter(request.start, has_token ? accounts.first_token_seconds
                                         : accounts.queue_seconds + accounts.prefill_seconds);
  const auto add = [&](const char* name, OtlpTime start, OtlpTime end) -> otlp::Span& {
    otlp::Span span = MakeSpan(request, name, start, end);
    std::string id(8, '\0');
    for (size_t i = 0; i < 8; ++i) {
      id[i] = static_cast<char>((request.child_ids + spans.size() - 1) >> (8 * i));
    }
    span.set_span_id(id);
    span.set_parent_span_id(request.span_id);
    span.set_kind(otlp::Span::SPAN_KIND_INTERNAL);
    return spans.emplace_back(std::move(span));
  };
  add("queue", request.start, admitted);
  if (accounts.prefill_seconds <= 0) return;
  otlp::Span& prefill = add("prefill", admitted, first);
  SetInteger(
      prefill, "tidegate.prefill.tokens",
      accounts.prompt_tokens - std::min(accounts.prompt_tokens, accounts.cached_prompt_tokens));
  SetInteger(prefill, "tidegate.flash.bytes", accounts.prefill_flash_bytes);
  if (!has_token) return;
  otlp::Span& decode = add("decode", first, TimeAfter(first, accounts.decode_seconds));
  SetInteger(decode, "tidegate.decode.tokens", accounts.generated_tokens);
  SetInteger(decode, "tidegate.flash.bytes", accounts.decode_flash_bytes);
  SetReal(decode, "tidegate.flash.stall_seconds", accounts.stall_seconds);
  SetInteger(decode, "tidegate.cache.hit_units", accounts.hit_units);
  SetInteger(decode, "tidegate.cache.miss_units", accounts.miss_units);
  SetReal(decode, "tidegate.pruning.density", accounts.density);
  SetReal(decode, "tidegate.pruning.gamma", accounts.gamma);
}

}  // namespace

void AddChoice(const GenerationResult& result, RequestSpan& span) {
  span.reasons.push_back(result.reason);
  const GenerationAccounts& more = result.accounts;
  if (!span.accounts) {
    span.accounts = more;
    return;
  }
  // The prompt is read once, and belongs to whichever choice had it computed.
  GenerationAccounts& all = *span.accounts;
  all.generated_tokens += more.generated_tokens;
  all.prefill_seconds = std::max(all.prefill_seconds, more.prefill_seconds);
  all.decode_seconds = std::max(all.decode_seconds, more.decode_seconds);
  all.stall_seconds = std::max(all.stall_seconds, more.stall_seconds);
  all.prefill_flash_bytes += more.prefill_flash_bytes;
  all.decode_flash_bytes += more.decode_flash_bytes;
  all.flash_reads += more.flash_reads;
  all.hit_units += more.hit_units;
  all.miss_units += more.miss_units;
}

std::vector<otlp::Span> ToOtlp(const RequestSpan& span) {
  std::vector<otlp::Span> spans = {MakeRequestSpan(span)};
  spans.reserve(4);
  if (span.accounts) AddStages(span, spans);
  return spans;
}

}  // namespace tidegate
