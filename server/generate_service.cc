#include "server/generate_service.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/generate_stream.h"
#include "server/parse_request.h"
#include "server/unary_call.h"
#include "server/violations.h"

namespace tidegate {
namespace {

// What most clients take in one message, and gRPC sends. An answer is refused by us: gRPC would end
// the call with a status that names nothing, after it was counted as answered.
absl::Status CheckAnswerBytes(const char* field, size_t bytes) {
  if (bytes <= kMaxMessageBytes) return absl::OkStatus();
  Violations violations;
  violations.Add(field, absl::StrCat("makes an answer of more than ", kMaxMessageBytes,
                                     " bytes; send it in parts"));
  return violations.ToStatus();
}

absl::Status TokenizeText(const ServedModel& model, const v1::TokenizeRequest& request,
                          v1::TokenizeResponse& response) {
  RETURN_IF_ERROR(model.Find(request.model()).status());
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer, model.engine().tokenizer());
  RETURN_IF_ERROR(CheckTokenizeRequest(request));
  const bool add_special = !request.has_add_special() || request.add_special();
  for (const TokenId id : tokenizer->Encode(request.text(), add_special)) {
    response.add_token_ids(static_cast<uint32_t>(id));
    if (request.with_pieces()) {
      response.add_pieces(std::string(tokenizer->Piece(id, /*render_special=*/true)));
    }
  }
  return CheckAnswerBytes("text", response.ByteSizeLong());
}

absl::Status DetokenizeIds(const ServedModel& model, const v1::DetokenizeRequest& request,
                           v1::DetokenizeResponse& response) {
  RETURN_IF_ERROR(model.Find(request.model()).status());
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer, model.engine().tokenizer());
  RETURN_IF_ERROR(CheckDetokenizeRequest(request, *tokenizer));
  // Not Decode(): its bytes need not be UTF-8, and a proto3 string must be.
  StreamingDetokenizer detokenizer(*tokenizer, /*continues_text=*/false);
  for (const uint32_t id : request.token_ids()) {
    response.mutable_text()->append(detokenizer.Add(static_cast<TokenId>(id)));
    // Tokens may be long: 4 MiB of ids would else become gigabytes.
    RETURN_IF_ERROR(CheckAnswerBytes("token_ids", response.text().size()));
  }
  response.mutable_text()->append(detokenizer.Finish());
  return CheckAnswerBytes("token_ids", response.ByteSizeLong());
}

absl::Status CancelStreams(ServingState& state, const v1::CancelRequest& request,
                           v1::CancelResponse& response, const Caller& caller) {
  RETURN_IF_ERROR(CheckCancelRequest(request));
  const std::string owner = caller.is_admin() ? "" : caller.client();
  const std::vector<uint64_t> ids = state.streams.Cancel(request.request_id(), owner);
  for (const uint64_t id : ids) state.engine.Cancel(id);
  response.set_found(!ids.empty());
  return absl::OkStatus();
}

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerationServiceImpl::Generate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return GenerateStream::Begin<v1::GenerateRequest>(state_, context, *request);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerationServiceImpl::Chat(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return GenerateStream::Begin<v1::ChatRequest>(state_, context, *request);
}

grpc::ServerUnaryReactor* GenerationServiceImpl::Tokenize(grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer* request,
                                                          grpc::ByteBuffer* response) {
  return AnswerUnary<v1::TokenizeRequest, v1::TokenizeResponse>(
      {context, request, response, RpcMethod::kTokenize}, state_,
      [this](const auto& in, auto& out) { return TokenizeText(state_.model, in, out); });
}

grpc::ServerUnaryReactor* GenerationServiceImpl::Detokenize(grpc::CallbackServerContext* context,
                                                            const grpc::ByteBuffer* request,
                                                            grpc::ByteBuffer* response) {
  return AnswerUnary<v1::DetokenizeRequest, v1::DetokenizeResponse>(
      {context, request, response, RpcMethod::kDetokenize}, state_,
      [this](const auto& in, auto& out) { return DetokenizeIds(state_.model, in, out); });
}

grpc::ServerUnaryReactor* GenerationServiceImpl::Cancel(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* request,
                                                        grpc::ByteBuffer* response) {
  return AnswerCaller<v1::CancelRequest, v1::CancelResponse>(
      {context, request, response, RpcMethod::kCancel}, state_,
      [this](const auto& in, auto& out, const Caller& caller) {
        return CancelStreams(state_, in, out, caller);
      });
}

}  // namespace tidegate
