// One /v1/chat/completions or /v1/completions request: a GenerationCall over an HTTP reply, as one
// JSON answer or as a stream of server-sent events.
//
// The reply's callbacks hold it until the connection is done with it. Threads: see GenerationCall;
// nothing blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/http_message.h"
#include "base/http_reply.h"
#include "server/generation_call.h"
#include "server/openai/answer.h"

namespace tidegate {

class CompletionCall final : public GenerationCall,
                             public std::enable_shared_from_this<CompletionCall> {
 public:
  using Headers = std::vector<std::pair<std::string, std::string>>;

  // Parses `http`, checks and submits it; `status`: what was found wrong before. `headers` go with
  // every answer. `state` outlives the engine's interest in the call.
  static void Begin(ServingState& state, bool is_chat, const HttpRequest& http, HttpReply reply,
                    absl::Status status, Headers headers);

 private:
  struct Choice {
    AnswerTokens tokens;  // of an answer that comes whole
    uint64_t offset = 0;  // LogprobsJson()
    FinishReason reason = FinishReason::kError;
  };

  CompletionCall(ServingState& state, bool is_chat, const std::string& request_id, HttpReply reply,
                 Headers headers);
  template <typename Request>
  void StartWith(Request request, absl::Status status, CallOrigin origin);

  // From GenerationCall.
  void Write(TokenBuffer::Move move) override;
  void Cut() override { reply_.Abort(); }

  void OnSent(bool sent);
  void AwaitSent();
  void BeginAnswer();
  void WriteTokens(TokenBuffer::Move move);
  void WriteProgress(const PromptProgress& progress);
  void TakeResult(const GenerationResult& result, uint32_t choice);
  void FinishAnswer();
  void FinishWithError(const absl::Status& status);
  void Send(HttpResponse response);
  void SendEvent(std::string_view data);
  void End();  // the answer is complete

  AnswerHead head_;
  const Headers headers_;
  std::shared_ptr<const Tokenizer> tokenizer_;  // with log-probabilities
  HttpReply reply_;
  std::vector<Choice> choices_;
  size_t bytes_ = 0;             // of the choices' tokens
  GenerationAccounts accounts_;  // tokens of all choices together
  bool begun_ = false;           // the head of a stream is out
  bool too_long_ = false;        // for an answer that comes whole
  std::chrono::steady_clock::time_point last_written_;
};

}  // namespace tidegate
