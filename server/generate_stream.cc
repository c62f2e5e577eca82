#include "server/generate_stream.h"

#include <random>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/server_pair.h"
#include "base/status_macros.h"
#include "server/conversions.h"
#include "server/parse_request.h"
#include "server/status_mapping.h"
#include "server/wire_messages.h"

namespace tidegate {
namespace {

// Text, ids and log-probabilities that may wait for a client that does not read. Without the latter
// a whole context of 64 Ki tokens fits.
constexpr size_t kPendingBytesMax = 1 << 20;

// The server's deadline timer and the client's cancellation race when a deadline passes: a call
// that ends this close to its deadline is counted as late.
constexpr std::chrono::milliseconds kDeadlineSlack{50};

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

bool PastDeadline(const grpc::CallbackServerContext& context) {
  return context.deadline() <= std::chrono::system_clock::now() + kDeadlineSlack;
}

void FillDelta(TokenBuffer::Move move, v1::Delta& delta) {
  delta.set_text(std::move(move.text));
  delta.mutable_token_ids()->Assign(move.ids.begin(), move.ids.end());
  for (const TokenLogprobs& one : move.logprobs) *delta.add_logprobs() = ToProto(one);
}

}  // namespace

// Hands the engine's events on and keeps the stream alive as long as the engine holds it.
class GenerateStream::Sink final : public GenerationSink {
 public:
  explicit Sink(std::shared_ptr<GenerateStream> stream) : stream_(std::move(stream)) {}
  void OnTokens(std::string_view text, std::span<const TokenId> ids) override {
    stream_->Perform(stream_->buffer_.Tokens(text, ids));
  }
  void OnTokensWithLogprobs(std::string_view text, std::span<const TokenId> ids,
                            std::span<const TokenLogprobs> logprobs) override {
    stream_->Perform(stream_->buffer_.Tokens(text, ids, logprobs));
  }
  void OnDone(const GenerationResult& result) override { stream_->OnResult(result); }
  void OnPromptProgress(const PromptProgress& progress) override {
    stream_->Perform(stream_->buffer_.Progress(progress));
  }

 private:
  const std::shared_ptr<GenerateStream> stream_;
};

GenerateStream::GenerateStream(ServingState& state, grpc::CallbackServerContext* context,
                               RpcMethod method, const std::string& request_id)
    : state_(state),
      context_(context),
      method_(method),
      within_limit_(state.streams.Add(this)),
      buffer_(kPendingBytesMax) {
  if (IsValidRequestId(request_id)) request_id_ = request_id;
  if (request_id_.empty()) request_id_ = MakeRequestId();
  if (state_.metrics != nullptr) state_.metrics->OnStreamOpened();
}

GenerateStream::~GenerateStream() {
  if (state_.metrics == nullptr) return;
  std::optional<FinishReason> reason;
  if (const uint32_t value = reason_.load(); value != 0) reason = static_cast<FinishReason>(value);
  state_.metrics->OnRequestDone(method_, code_.load(), reason);
}

RequestBounds GenerateStream::Bounds(const Tokenizer& tokenizer) const {
  return {tokenizer, state_.engine.pruning_bounds(), state_.engine.context_tokens(),
          state_.max_priority};
}

absl::StatusOr<GenerationRequest> GenerateStream::Parse(
    const v1::GenerateRequest& request, const ModelInfo&,
    const std::shared_ptr<const Tokenizer>& tokenizer) {
  return ParseGenerateRequest(request, Bounds(*tokenizer), std::chrono::steady_clock::now());
}

absl::StatusOr<GenerationRequest> GenerateStream::Parse(
    const v1::ChatRequest& request, const ModelInfo& model,
    const std::shared_ptr<const Tokenizer>& tokenizer) {
  return ParseChatRequest(
      request, Bounds(*tokenizer), std::chrono::steady_clock::now(),
      [&](const v1::ChatRequest& chat) { return state_.chat.Make(chat, model, *tokenizer); });
}

template <typename Request>
absl::Status GenerateStream::Submit(const Request& request,
                                    const std::shared_ptr<GenerateStream>& self) {
  Engine& engine = state_.engine;
  if (!within_limit_) return TooManyStreams(state_.streams);
  ASSIGN_OR_RETURN(const ModelInfo info, state_.model.Find(request.model()));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer, engine.tokenizer());
  ASSIGN_OR_RETURN(GenerationRequest parsed, Parse(request, info, tokenizer));
  parsed.client = ClientOfPeer(context_->peer());
  started_ = MakeStarted(request_id_, info.name, parsed, engine.stats().steering);
  ASSIGN_OR_RETURN(engine_id_, engine.Submit(std::move(parsed), std::make_shared<Sink>(self)));
  state_.streams.Name(this, request_id_, engine_id_);
  return absl::OkStatus();
}

template <typename Request>
GenerateStream* GenerateStream::Begin(ServingState& state, grpc::CallbackServerContext* context,
                                      const grpc::ByteBuffer& bytes) {
  constexpr bool kIsChat = std::is_same_v<Request, v1::ChatRequest>;
  Request request;
  absl::Status status = TakeRequest(bytes, request);
  std::shared_ptr<GenerateStream> stream(new GenerateStream(
      state, context, kIsChat ? RpcMethod::kChat : RpcMethod::kGenerate, request.request_id()));
  stream->self_ = stream;
  if (status.ok()) status = stream->Submit(request, stream);
  if (!status.ok() && state.metrics != nullptr) {
    state.metrics->OnRejected(stream->within_limit_ ? RejectReasonOf(status.code(), state.draining)
                                                    : RejectReason::kTooManyStreams);
  }
  // From here on gRPC calls back once the caller has returned the reactor to it.
  stream->Perform(status.ok() ? stream->buffer_.Start() : stream->buffer_.Reject(status));
  return stream.get();
}

template GenerateStream* GenerateStream::Begin<v1::GenerateRequest>(ServingState&,
                                                                    grpc::CallbackServerContext*,
                                                                    const grpc::ByteBuffer&);
template GenerateStream* GenerateStream::Begin<v1::ChatRequest>(ServingState&,
                                                                grpc::CallbackServerContext*,
                                                                const grpc::ByteBuffer&);

void GenerateStream::OnResult(const GenerationResult& result) {
  reason_ = static_cast<uint32_t>(result.reason);
  Settled();
  if (state_.metrics != nullptr && result.reason == FinishReason::kCancelled &&
      (buffer_.client_gone() || cancelled())) {
    state_.metrics->OnCancelled(CancelStageOf(result.accounts));
  }
  Perform(buffer_.Result(result));
}

void GenerateStream::OnWriteDone(bool ok) {
  WriteDone();
  Perform(buffer_.WriteDone(ok));
}

void GenerateStream::EndUnread() {
  if (state_.metrics != nullptr) state_.metrics->OnStreamCut(StreamCut::kWriteTimeout);
  context_->TryCancel();
}

void GenerateStream::OnCancel() {
  code_ =
      PastDeadline(*context_) ? absl::StatusCode::kDeadlineExceeded : absl::StatusCode::kCancelled;
  TokenBuffer::Move move = buffer_.ClientGone();
  if (engine_id_ != 0) state_.engine.Cancel(engine_id_);
  Perform(std::move(move));
}

void GenerateStream::OnDone() {
  state_.streams.Remove(this);
  if (state_.metrics != nullptr) state_.metrics->OnStreamClosed();
  const std::shared_ptr<GenerateStream> last = std::move(self_);  // may destroy *this on return
}

void GenerateStream::Perform(TokenBuffer::Move move) {
  if (move.action == TokenBuffer::Action::kNone) return;
  WriteBegun();  // or the end of the stream, which may wait for the client as well
  v1::GenerateResponse response;
  switch (move.action) {
    case TokenBuffer::Action::kNone:
      return;
    case TokenBuffer::Action::kWriteStarted:
      *response.mutable_started() = std::move(started_);
      return Write(response);
    case TokenBuffer::Action::kWriteTokens:
      FillDelta(std::move(move), *response.mutable_delta());
      return Write(response);
    case TokenBuffer::Action::kWriteProgress:
      *response.mutable_progress() = ToProto(move.progress);
      return Write(response);
    case TokenBuffer::Action::kFinishWithResult:
      *response.mutable_finished() = ToProto(move.result);
      write_ = ToBytes(response);
      return StartWriteAndFinish(&write_, grpc::WriteOptions(), grpc::Status::OK);
    case TokenBuffer::Action::kFinish:
      return FinishWith(move.status);
    case TokenBuffer::Action::kAbort:
      if (state_.metrics != nullptr) state_.metrics->OnStreamCut(StreamCut::kBacklog);
      context_->TryCancel();
      return Perform(buffer_.AbortDone());
  }
}

void GenerateStream::Write(const v1::GenerateResponse& response) {
  write_ = ToBytes(response);
  StartWrite(&write_);
}

void GenerateStream::FinishWith(const absl::Status& status) {
  // OnCancel() knows better than the buffer why a client has left.
  absl::StatusCode ok = absl::StatusCode::kOk;
  code_.compare_exchange_strong(ok, status.code());
  if (const auto delay = RetryDelay(status.code()); delay.has_value()) {
    context_->AddTrailingMetadata(kRetryPushbackKey, absl::StrCat(delay->count()));
  }
  Finish(ToGrpcStatus(status, {request_id_, state_.draining}));
}

}  // namespace tidegate
