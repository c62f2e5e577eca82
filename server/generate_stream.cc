#include "server/generate_stream.h"

#include <type_traits>
#include <utility>

#include "server/conversions.h"
#include "server/trace_context.h"
#include "server/unary_call.h"
#include "server/wire_messages.h"

namespace tidegate {
namespace {

void FillDelta(TokenBuffer::Move move, v1::Delta& delta) {
  delta.set_text(std::move(move.text));
  delta.mutable_token_ids()->Assign(move.ids.begin(), move.ids.end());
  for (const TokenLogprobs& one : move.logprobs) *delta.add_logprobs() = ToProto(one);
  delta.set_choice(move.choice);
}

void FillPromptLogprobs(const TokenBuffer::Move& move, v1::PromptLogprobs& prompt) {
  prompt.set_first(move.first);
  prompt.mutable_token_ids()->Assign(move.ids.begin(), move.ids.end());
  for (const TokenLogprobs& one : move.logprobs) *prompt.add_logprobs() = ToProto(one);
}

void FillFinished(const TokenBuffer::Move& move, v1::Finished& finished) {
  finished = ToProto(move.result);
  finished.set_choice(move.choice);
}

}  // namespace

template <typename Request>
GenerateStream* GenerateStream::Begin(ServingState& state, grpc::CallbackServerContext* context,
                                      const grpc::ByteBuffer& bytes) {
  constexpr bool kIsChat = std::is_same_v<Request, v1::ChatRequest>;
  constexpr RpcMethod kMethod = kIsChat ? RpcMethod::kChat : RpcMethod::kGenerate;
  Request request;
  CallOrigin origin;
  absl::Status status = AuthorizeCall(state.access, *context, kMethod, origin);
  if (status.ok()) status = TakeRequest(bytes, request);
  std::shared_ptr<GenerateStream> stream(
      new GenerateStream(state, context, kMethod, request.request_id()));
  stream->self_ = stream;
  stream->TraceAs(OnlyMetadata(*context, kTraceparentKey), OnlyMetadata(*context, kTracestateKey));
  // From here on gRPC calls back once the caller has returned the reactor to it.
  stream->Start(request, std::move(status), std::move(origin), stream);
  return stream.get();
}

template GenerateStream* GenerateStream::Begin<v1::GenerateRequest>(ServingState&,
                                                                    grpc::CallbackServerContext*,
                                                                    const grpc::ByteBuffer&);
template GenerateStream* GenerateStream::Begin<v1::ChatRequest>(ServingState&,
                                                                grpc::CallbackServerContext*,
                                                                const grpc::ByteBuffer&);

void GenerateStream::OnCancel() { ClientLeft(CodeOfCancelledCall(*context_)); }

void GenerateStream::OnDone() {
  Closed();
  const std::shared_ptr<GenerateStream> last = std::move(self_);  // may destroy *this on return
}

void GenerateStream::Write(TokenBuffer::Move move) {
  v1::GenerateResponse response;
  switch (move.action) {
    case TokenBuffer::Action::kWriteStarted:
      *response.mutable_started() = started();
      return Send(response);
    case TokenBuffer::Action::kWriteTokens:
      FillDelta(std::move(move), *response.mutable_delta());
      return Send(response);
    case TokenBuffer::Action::kWriteProgress:
      *response.mutable_progress() = ToProto(move.progress);
      return Send(response);
    case TokenBuffer::Action::kWritePromptLogprobs:
      FillPromptLogprobs(move, *response.mutable_prompt_logprobs());
      return Send(response);
    case TokenBuffer::Action::kWriteKeepAlive:
      response.mutable_keep_alive();
      return Send(response);
    case TokenBuffer::Action::kWriteResult:
      FillFinished(move, *response.mutable_finished());
      return Send(response);
    case TokenBuffer::Action::kFinishWithResult:
      FillFinished(move, *response.mutable_finished());
      write_ = ToBytes(response);
      state().load.AddTo(*context_);
      return StartWriteAndFinish(&write_, grpc::WriteOptions(), grpc::Status::OK);
    case TokenBuffer::Action::kFinish:
      return FinishWith(move.status);
    case TokenBuffer::Action::kNone:
    case TokenBuffer::Action::kAbort:
      return;  // never given
  }
}

void GenerateStream::Send(const v1::GenerateResponse& response) {
  write_ = ToBytes(response);
  StartWrite(&write_);
}

void GenerateStream::FinishWith(const absl::Status& status) {
  state().load.AddTo(*context_);
  Finish(ErrorOf(*context_, status, {request_id(), state().draining}));
}

}  // namespace tidegate
