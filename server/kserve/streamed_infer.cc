#include "server/kserve/streamed_infer.h"

#include <utility>
#include <vector>

#include "server/kserve/infer_stream.h"
#include "server/status_mapping.h"
#include "server/wire_messages.h"

namespace tidegate {

using inference::ModelStreamInferResponse;

StreamedInfer::StreamedInfer(ServingState& state, std::shared_ptr<InferStream> stream,
                             InferPlan plan, absl::Status status)
    : GenerationCall(state, RpcMethod::kModelStreamInfer, plan.id),
      stream_(std::move(stream)),
      plan_(std::move(plan)),
      status_(std::move(status)) {
  if (plan_.echo_prompt) text_.Append(plan_.request.text());
}

std::shared_ptr<StreamedInfer> StreamedInfer::Create(ServingState& state,
                                                     std::shared_ptr<InferStream> stream,
                                                     const grpc::ByteBuffer& bytes,
                                                     absl::Status status) {
  inference::ModelInferRequest request;
  InferPlan plan;
  if (status.ok()) status = TakeRequest(bytes, request);
  if (status.ok()) status = ParseInferRequest(request, /*streams=*/true, plan);
  return std::shared_ptr<StreamedInfer>(
      new StreamedInfer(state, std::move(stream), std::move(plan), std::move(status)));
}

void StreamedInfer::Begin(CallOrigin origin, const std::shared_ptr<StreamedInfer>& self) {
  Start(plan_.request, std::move(status_), std::move(origin), self);
}

void StreamedInfer::Written(bool ok) {
  if (ended_) return Over();
  WriteDone(ok);
}

void StreamedInfer::Cut() { stream_->Cancel(); }

void StreamedInfer::Write(TokenBuffer::Move move) {
  switch (move.action) {
    case TokenBuffer::Action::kWriteTokens:
      return Append(std::move(move.text));
    case TokenBuffer::Action::kWriteStarted:
    case TokenBuffer::Action::kWriteProgress:
      return WriteDone(true);
    case TokenBuffer::Action::kFinishWithResult:
      return AnswerEnd(move.result);
    case TokenBuffer::Action::kFinish:
      return AnswerError(text_.too_long() ? text_.status() : move.status);
    default:
      return;  // never given, of one choice
  }
}

void StreamedInfer::Append(std::string text) {
  if (plan_.pieces && !text.empty()) {
    ModelStreamInferResponse answer;
    *answer.mutable_infer_response() = TextAnswer(plan_, started().model(), text);
    SetFinal(false, *answer.mutable_infer_response());
    return stream_->Send(this, {std::move(answer)});
  }
  if (!text_.too_long() && !text_.Append(text)) ClientLeft(absl::StatusCode::kInvalidArgument);
  WriteDone(true);
}

void StreamedInfer::AnswerEnd(const GenerationResult& result) {
  const std::string& model = started().model();
  std::vector<ModelStreamInferResponse> answers;
  const bool has_outputs = !plan_.pieces || plan_.finish_reason || plan_.num_input_tokens ||
                           plan_.num_output_tokens || !plan_.empty_final;
  if (has_outputs) {
    auto& answer = *answers.emplace_back().mutable_infer_response();
    answer = TextAnswer(plan_, model, text_.text());
    AddEndOutputs(plan_, result, answer);
    SetFinal(!plan_.empty_final, answer);
  }
  if (plan_.empty_final) {
    auto& answer = *answers.emplace_back().mutable_infer_response();
    answer = EmptyAnswer(plan_, model);
    SetFinal(true, answer);
  }
  ended_ = true;
  stream_->Send(this, answers);
}

void StreamedInfer::AnswerError(const absl::Status& status) {
  ended_ = true;
  const ErrorContext context{request_id(), state().draining};
  if (stream_->EndWith(status, context)) return Over();
  ModelStreamInferResponse answer;
  answer.set_error_message(ToGrpcStatus(status, context).error_message());
  *answer.mutable_infer_response() = EmptyAnswer(plan_, started().model());
  SetFinal(true, *answer.mutable_infer_response());
  stream_->Send(this, {std::move(answer)});
}

void StreamedInfer::Over() {
  Closed();
  const std::shared_ptr<InferStream> stream = stream_;
  stream->Done(this);
}

}  // namespace tidegate
