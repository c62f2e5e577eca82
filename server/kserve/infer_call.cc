#include "server/kserve/infer_call.h"

#include <utility>

#include "server/trace_context.h"
#include "server/unary_call.h"
#include "server/wire_messages.h"

namespace tidegate {
InferCall::InferCall(ServingState& state, grpc::CallbackServerContext* context,
                     grpc::ByteBuffer* response, InferPlan plan)
    : GenerationCall(state, RpcMethod::kModelInfer, plan.id),
      context_(context),
      response_(response),
      plan_(std::move(plan)) {
  if (plan_.echo_prompt) text_.Append(plan_.request.text());
}

InferCall* InferCall::Begin(ServingState& state, grpc::CallbackServerContext* context,
                            const grpc::ByteBuffer& bytes, grpc::ByteBuffer* response) {
  inference::ModelInferRequest request;
  InferPlan plan;
  CallOrigin origin;
  absl::Status status = AuthorizeCall(state.access, *context, RpcMethod::kModelInfer, origin);
  if (status.ok()) status = TakeRequest(bytes, request);
  if (status.ok()) status = ParseInferRequest(request, /*streams=*/false, plan);
  const std::shared_ptr<InferCall> call(new InferCall(state, context, response, std::move(plan)));
  call->self_ = call;
  call->TraceAs(OnlyMetadata(*context, kTraceparentKey), OnlyMetadata(*context, kTracestateKey));
  // From here on gRPC calls back once the caller has returned the reactor to it.
  call->Start(call->plan_.request, std::move(status), std::move(origin), call);
  return call.get();
}

void InferCall::OnCancel() { ClientLeft(CodeOfCancelledCall(*context_)); }

void InferCall::OnDone() {
  Closed();
  const std::shared_ptr<InferCall> last = std::move(self_);  // may destroy *this on return
}

void InferCall::Write(TokenBuffer::Move move) {
  switch (move.action) {
    case TokenBuffer::Action::kWriteTokens:
      if (!text_.too_long() && !text_.Append(move.text)) {
        ClientLeft(absl::StatusCode::kInvalidArgument);  // ends the work
      }
      return WriteDone(true);
    case TokenBuffer::Action::kWriteStarted:
      // The text may take minutes; a call without any answer counts as not begun
      // (base/call_window.h).
      StartSendInitialMetadata();
      return WriteDone(true);
    case TokenBuffer::Action::kWriteProgress:
      return WriteDone(true);
    case TokenBuffer::Action::kFinishWithResult:
      return Answer(move.result);
    case TokenBuffer::Action::kFinish:
      return FinishWith(move.status);
    default:
      return;  // never given, of one choice
  }
}

void InferCall::Answer(const GenerationResult& result) {
  inference::ModelInferResponse answer = TextAnswer(plan_, started().model(), text_.text());
  AddEndOutputs(plan_, result, answer);
  *response_ = ToBytes(answer);
  state().load.AddTo(*context_);
  Finish(grpc::Status::OK);
}

void InferCall::FinishWith(const absl::Status& status) {
  state().load.AddTo(*context_);
  Finish(ErrorOf(*context_, text_.too_long() ? text_.status() : status,
                 {request_id(), state().draining}));
}

}  // namespace tidegate
