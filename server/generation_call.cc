#include "server/generation_call.h"

#include <algorithm>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error_reason.h"
#include "base/status_macros.h"
#include "server/conversions.h"
#include "server/status_mapping.h"

namespace tidegate {
namespace {

// Text, ids and log-probabilities that may wait for a client that does not read. Without the latter
// a whole context of 64 Ki tokens fits.
constexpr size_t kPendingBytesMax = 1 << 20;

std::string MakeRequestId() {
  thread_local std::mt19937_64 random(std::random_device{}());
  return absl::StrCat(absl::Hex(random(), absl::kZeroPad16));
}

absl::Status TooManyStreams(const OpenStreams& streams) {
  return WithReason(
      absl::ResourceExhaustedError(absl::StrCat(
          "the server has ", streams.max(),
          " open streams, as many as it takes (--max-open-streams): read finished streams to their "
          "end, or come again")),
      "TOO_MANY_STREAMS");
}

}  // namespace

// Hands the engine's events on and keeps the call alive as long as the engine holds it.
class GenerationCall::Sink final : public GenerationSink {
 public:
  Sink(std::shared_ptr<GenerationCall> call, uint32_t choice)
      : call_(std::move(call)), choice_(choice) {}
  void OnTokens(std::string_view text, std::span<const TokenId> ids) override {
    call_->Perform(call_->buffer_.Tokens(text, ids, {}, choice_));
  }
  void OnTokensWithLogprobs(std::string_view text, std::span<const TokenId> ids,
                            std::span<const TokenLogprobs> logprobs) override {
    call_->Perform(call_->buffer_.Tokens(text, ids, logprobs, choice_));
  }
  void OnDone(const GenerationResult& result) override { call_->OnResult(result, choice_); }
  void OnPromptProgress(const PromptProgress& progress) override {
    call_->Perform(call_->buffer_.Progress(progress));
  }
  void OnPromptLogprobs(uint32_t first, std::span<const TokenId> ids,
                        std::span<const TokenLogprobs> logprobs) override {
    call_->Perform(call_->buffer_.PromptLogprobs(first, ids, logprobs));
  }

 private:
  const std::shared_ptr<GenerationCall> call_;
  const uint32_t choice_;
};

GenerationCall::GenerationCall(ServingState& state, RpcMethod method, const std::string& request_id)
    : state_(state),
      method_(method),
      within_limit_(state.streams.Add(this)),
      buffer_(kPendingBytesMax) {
  if (IsValidRequestId(request_id)) request_id_ = request_id;
  if (request_id_.empty()) request_id_ = MakeRequestId();
  if (state_.metrics != nullptr) state_.metrics->OnStreamOpened();
}

void GenerationCall::TraceAs(std::string_view traceparent, std::string_view tracestate) {
  if (state_.tracer == nullptr) return;
  std::optional<RequestSpan> span = state_.tracer->Begin(traceparent, tracestate);
  if (!span.has_value()) return;
  span->chat = method_ == RpcMethod::kChat || method_ == RpcMethod::kChatCompletions;
  span->request_id = request_id_;
  span_ = std::make_unique<RequestSpan>(*std::move(span));
}

GenerationCall::~GenerationCall() {
  if (span_ != nullptr) {
    span_->code = code_.load();
    state_.tracer->End(std::move(*span_));
  }
  if (state_.audit != nullptr) Audit();
  if (state_.metrics == nullptr) return;
  std::optional<FinishReason> reason;
  if (const uint32_t value = reason_.load(); value != 0) reason = static_cast<FinishReason>(value);
  state_.metrics->OnRequestDone(method_, code_.load(), reason);
}

void GenerationCall::Audit() const {
  AuditRecord record = AuditRecordOf(method_, origin_, code_.load(), error_reason_, begun_);
  AuditStream& stream = record.stream.emplace();
  stream.request_id = request_id_;
  stream.model = started_.model();
  if (const uint32_t reason = reason_.load(); reason != 0) {
    stream.finish_reason = FinishReasonName(static_cast<FinishReason>(reason));
  }
  stream.prompt_tokens = accounts_.prompt_tokens;
  stream.cached_prompt_tokens = accounts_.cached_prompt_tokens;
  stream.generated_tokens = accounts_.generated_tokens;
  stream.queue_seconds = accounts_.queue_seconds;
  stream.first_token_seconds = accounts_.first_token_seconds;
  state_.audit->Write(record);
}

RequestBounds GenerationCall::Bounds(const Tokenizer& tokenizer) const {
  return {tokenizer, state_.engine.pruning_bounds(), state_.engine.context_tokens(),
          state_.max_priority, state_.max_choices};
}

absl::StatusOr<GenerationRequest> GenerationCall::Parse(
    const v1::GenerateRequest& request, const ModelInfo&,
    const std::shared_ptr<const Tokenizer>& tokenizer) {
  return ParseGenerateRequest(request, Bounds(*tokenizer), std::chrono::steady_clock::now());
}

absl::StatusOr<GenerationRequest> GenerationCall::Parse(
    const v1::ChatRequest& request, const ModelInfo& model,
    const std::shared_ptr<const Tokenizer>& tokenizer) {
  return ParseChatRequest(
      request, Bounds(*tokenizer), std::chrono::steady_clock::now(),
      [&](const v1::ChatRequest& chat) { return state_.chat.Make(chat, model, *tokenizer); });
}

template <typename Request>
absl::Status GenerationCall::Submit(const Request& request,
                                    const std::shared_ptr<GenerationCall>& self) {
  Engine& engine = state_.engine;
  if (!within_limit_) return TooManyStreams(state_.streams);
  ASSIGN_OR_RETURN(const ModelInfo info, state_.model.Find(request.model()));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer, engine.tokenizer());
  ASSIGN_OR_RETURN(GenerationRequest parsed, Parse(request, info, tokenizer));
  parsed.client = origin_.client();
  parsed.queue_share = origin_.caller.queue_share();
  const uint64_t room =
      engine.context_tokens() - std::min<uint64_t>(engine.context_tokens(), parsed.prompt.size());
  const uint64_t answers = parsed.choices * std::min<uint64_t>(parsed.max_tokens, room);
  ASSIGN_OR_RETURN(grant_, origin_.caller.Begin(parsed.prompt.size() + answers));
  started_ = MakeStarted(request_id_, info.name, parsed, engine.stats().steering);
  if (span_ != nullptr) span_->model = info.name;
  buffer_.Expect(parsed.choices);
  open_choices_ = parsed.choices;
  std::vector<std::shared_ptr<GenerationSink>> sinks;
  for (uint32_t i = 0; i < parsed.choices; ++i) sinks.push_back(std::make_shared<Sink>(self, i));
  ASSIGN_OR_RETURN(engine_id_, engine.SubmitChoices(std::move(parsed), std::move(sinks)));
  state_.streams.Name(this, request_id_, engine_id_, ToChrono(request.keep_alive()),
                      origin_.caller.client());
  return absl::OkStatus();
}

template <typename Request>
void GenerationCall::Start(const Request& request, absl::Status status, CallOrigin origin,
                           const std::shared_ptr<GenerationCall>& self) {
  origin_ = std::move(origin);
  if (status.ok()) status = Submit(request, self);
  if (!status.ok()) {
    grant_ = StreamGrant();
    error_reason_ = ErrorReason(status);
  }
  if (!status.ok() && state_.metrics != nullptr) {
    state_.metrics->OnRejected(within_limit_ ? RejectReasonOf(status, state_.draining)
                                             : RejectReason::kTooManyStreams);
  }
  Perform(status.ok() ? buffer_.Start() : buffer_.Reject(status));
}

template void GenerationCall::Start<v1::GenerateRequest>(const v1::GenerateRequest&, absl::Status,
                                                         CallOrigin,
                                                         const std::shared_ptr<GenerationCall>&);
template void GenerationCall::Start<v1::ChatRequest>(const v1::ChatRequest&, absl::Status,
                                                     CallOrigin,
                                                     const std::shared_ptr<GenerationCall>&);

// The request ends as its first choice that fails does, else as the last one.
void GenerationCall::OnResult(const GenerationResult& result, uint32_t choice) {
  if (span_ != nullptr) AddChoice(result, *span_);
  const uint32_t generated = accounts_.generated_tokens + result.accounts.generated_tokens;
  if (choice == 0) accounts_ = result.accounts;
  accounts_.generated_tokens = generated;  // by all choices
  if (--open_choices_ == 0) {
    grant_.End(uint64_t{accounts_.prompt_tokens} + generated);
    Settled();
  }
  if (!failed_) {
    reason_ = static_cast<uint32_t>(result.reason);
    const bool cancelled_now = result.reason == FinishReason::kCancelled;
    failed_ = cancelled_now || result.reason == FinishReason::kError;
    if (state_.metrics != nullptr && cancelled_now && (buffer_.client_gone() || cancelled())) {
      state_.metrics->OnCancelled(CancelStageOf(result.accounts));
    }
  }
  Perform(buffer_.Result(result, choice));
}

void GenerationCall::WriteDone(bool ok) {
  OpenStreams::Stream::WriteDone();
  Perform(buffer_.WriteDone(ok));
}

void GenerationCall::EndUnread() {
  if (state_.metrics != nullptr) state_.metrics->OnStreamCut(StreamCut::kWriteTimeout);
  Cut();
}

void GenerationCall::ClientLeft(absl::StatusCode code) {
  code_ = code;
  TokenBuffer::Move move = buffer_.ClientGone();
  if (engine_id_ != 0) state_.engine.Cancel(engine_id_);
  Perform(std::move(move));
}

void GenerationCall::Closed() {
  state_.streams.Remove(this);
  // Of several choices one has failed: nobody waits for the others.
  if (engine_id_ != 0 && open_choices_ > 0) state_.engine.Cancel(engine_id_);
  if (state_.metrics != nullptr) state_.metrics->OnStreamClosed();
}

void GenerationCall::Perform(TokenBuffer::Move move) {
  if (move.action == TokenBuffer::Action::kNone) return;
  WriteBegun();  // or the end of the stream, which may wait for the client as well
  if (move.action == TokenBuffer::Action::kAbort) {
    if (state_.metrics != nullptr) state_.metrics->OnStreamCut(StreamCut::kBacklog);
    Cut();
    return Perform(buffer_.AbortDone());
  }
  if (move.action == TokenBuffer::Action::kFinish) {
    // ClientLeft() knows better than the buffer why a client has left.
    absl::StatusCode ok = absl::StatusCode::kOk;
    code_.compare_exchange_strong(ok, move.status.code());
  }
  Write(std::move(move));
}

}  // namespace tidegate
