#include "server/openai/completion_call.h"

#include <algorithm>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "engine/request_limits.h"
#include "server/openai/http_error.h"
#include "server/openai/parse_json.h"
#include "server/parse_options.h"

namespace tidegate {
namespace {

// Text and log-probabilities of an answer that comes whole. Its JSON may take eight times as much.
constexpr size_t kMaxAnswerBytes = 4 << 20;
// Between signs of life while a prompt is read. Proxies close what is silent for a minute.
constexpr std::chrono::seconds kProgressInterval{5};

size_t BytesOf(const TokenBuffer::Move& move) {
  size_t bytes = move.text.size() + move.ids.size() * sizeof(TokenId);
  for (const TokenLogprobs& one : move.logprobs) {
    bytes += sizeof(one) + one.top.size() * sizeof(TopLogprob);
  }
  return bytes;
}

absl::Status AnswerTooLong() {
  return absl::OutOfRangeError(
      absl::StrCat("the answer has more than ", kMaxAnswerBytes,
                   " bytes of text and log-probabilities; ask for it with \"stream\": true"));
}

}  // namespace

CompletionCall::CompletionCall(ServingState& state, bool is_chat, const std::string& request_id,
                               HttpReply reply, Headers headers)
    : GenerationCall(state, is_chat ? RpcMethod::kChatCompletions : RpcMethod::kCompletions,
                     request_id),
      headers_(std::move(headers)),
      reply_(std::move(reply)) {
  head_.is_chat = is_chat;
  head_.id = absl::StrCat(is_chat ? "chatcmpl-" : "cmpl-", this->request_id());
  head_.created = std::time(nullptr);
}

void CompletionCall::Begin(ServingState& state, bool is_chat, const HttpRequest& http,
                           HttpReply reply, absl::Status status, Headers headers) {
  const std::shared_ptr<CompletionCall> call(
      new CompletionCall(state, is_chat, std::string(http.Header("X-Request-Id")), std::move(reply),
                         std::move(headers)));
  const RpcMethod method = is_chat ? RpcMethod::kChatCompletions : RpcMethod::kCompletions;
  CallOrigin origin;
  const absl::Status denied = AuthorizeHttp(state.access, http, method, origin);
  if (status.ok()) status = denied;
  call->TraceAs(http.Header("traceparent"), http.Header("tracestate"));
  if (is_chat) {
    v1::ChatRequest request;
    if (status.ok()) status = ParseChatJson(http.body, request, call->head_.options);
    call->StartWith(std::move(request), std::move(status), std::move(origin));
  } else {
    v1::GenerateRequest request;
    if (status.ok()) status = ParseCompletionJson(http.body, request, call->head_.options);
    call->StartWith(std::move(request), std::move(status), std::move(origin));
  }
}

template <typename Request>
void CompletionCall::StartWith(Request request, absl::Status status, CallOrigin origin) {
  // At least one, and no more than may be: what is wrong with the number is said later.
  choices_.resize(std::clamp<uint32_t>(request.choices(), 1, kMaxChoices));
  if (!request.has_max_tokens()) request.set_max_tokens(state().engine.context_tokens());
  if (head_.options.logprobs) {
    if (const auto tokenizer = state().engine.tokenizer(); tokenizer.ok()) tokenizer_ = *tokenizer;
  }
  Start(request, std::move(status), std::move(origin), shared_from_this());
  // Only now: before, there is no request to cancel.
  reply_.OnGone([self = shared_from_this()] { self->ClientLeft(absl::StatusCode::kCancelled); });
}

void CompletionCall::Write(TokenBuffer::Move move) {
  switch (move.action) {
    case TokenBuffer::Action::kWriteStarted:
      head_.model = started().model();
      if (!head_.options.stream) return WriteDone(true);
      return BeginAnswer();
    case TokenBuffer::Action::kWriteTokens:
      return WriteTokens(std::move(move));
    case TokenBuffer::Action::kWriteProgress:
      return WriteProgress(move.progress);
    case TokenBuffer::Action::kWriteResult:
      TakeResult(move.result, move.choice);
      return begun_ ? AwaitSent() : WriteDone(true);
    case TokenBuffer::Action::kFinishWithResult:
      TakeResult(move.result, move.choice);
      return FinishAnswer();
    case TokenBuffer::Action::kFinish:
      return FinishWithError(move.status);
    case TokenBuffer::Action::kWritePromptLogprobs:
    case TokenBuffer::Action::kWriteKeepAlive:
      return WriteDone(true);  // not asked for
    case TokenBuffer::Action::kNone:
    case TokenBuffer::Action::kAbort:
      return;  // never given
  }
}

void CompletionCall::OnSent(bool sent) {
  if (!sent) ClientLeft(absl::StatusCode::kCancelled);
  WriteDone(sent);
}

void CompletionCall::AwaitSent() {
  last_written_ = std::chrono::steady_clock::now();
  reply_.WhenSent([self = shared_from_this()](bool sent) { self->OnSent(sent); });
}

void CompletionCall::BeginAnswer() {
  begun_ = true;
  HttpResponse head{200, "text/event-stream; charset=utf-8", "", headers_};
  head.headers.emplace_back("Cache-Control", "no-cache");
  head.headers.emplace_back("X-Accel-Buffering", "no");  // proxies are to pass events on at once
  head.headers.emplace_back("X-Request-Id", request_id());
  reply_.Begin(std::move(head));
  for (uint32_t i = 0; head_.is_chat && i < choices_.size(); ++i) SendEvent(RoleChunk(head_, i));
  AwaitSent();
}

void CompletionCall::SendEvent(std::string_view data) {
  reply_.Write(absl::StrCat("data: ", std::string(data), "\n\n"));
}

void CompletionCall::WriteTokens(TokenBuffer::Move move) {
  Choice& choice = choices_[move.choice];
  if (head_.options.stream) {
    const AnswerTokens tokens = {std::move(move.text), std::move(move.ids),
                                 std::move(move.logprobs)};
    const std::string logprobs =
        tokenizer_ == nullptr ? "null" : LogprobsJson(head_, *tokenizer_, tokens, choice.offset);
    // Without log-probabilities an incomplete character is nobody's business.
    if (tokens.text.empty() && tokenizer_ == nullptr) return WriteDone(true);
    SendEvent(TextChunk(head_, move.choice, tokens.text, logprobs));
    return AwaitSent();
  }
  bytes_ += BytesOf(move);
  too_long_ = too_long_ || bytes_ > kMaxAnswerBytes;
  if (too_long_) {
    choice.tokens = {};
  } else {
    AnswerTokens& tokens = choice.tokens;
    tokens.text += move.text;
    tokens.ids.insert(tokens.ids.end(), move.ids.begin(), move.ids.end());
    std::move(move.logprobs.begin(), move.logprobs.end(), std::back_inserter(tokens.logprobs));
  }
  WriteDone(true);
}

// A comment, which clients skip.
void CompletionCall::WriteProgress(const PromptProgress& progress) {
  const auto now = std::chrono::steady_clock::now();
  if (!begun_ || now - last_written_ < kProgressInterval) return WriteDone(true);
  reply_.Write(
      absl::StrCat(": ", progress.processed, " of ", progress.total, " prompt tokens\n\n"));
  AwaitSent();
}

void CompletionCall::TakeResult(const GenerationResult& result, uint32_t choice) {
  choices_[choice].reason = result.reason;
  accounts_.prompt_tokens += result.accounts.prompt_tokens;
  accounts_.cached_prompt_tokens += result.accounts.cached_prompt_tokens;
  accounts_.generated_tokens += result.accounts.generated_tokens;
  if (begun_) SendEvent(FinishChunk(head_, choice, result.reason));
}

void CompletionCall::FinishAnswer() {
  if (begun_) {
    if (head_.options.include_usage) SendEvent(UsageChunk(head_, accounts_));
    SendEvent("[DONE]");
    reply_.End();
    return End();
  }
  if (too_long_) return FinishWithError(AnswerTooLong());
  std::string choices;
  for (uint32_t i = 0; i < choices_.size(); ++i) {
    Choice& one = choices_[i];
    const std::string logprobs =
        tokenizer_ == nullptr ? "null" : LogprobsJson(head_, *tokenizer_, one.tokens, one.offset);
    absl::StrAppend(&choices, i == 0 ? "" : ",",
                    ChoiceJson(head_, i, one.tokens.text, logprobs, one.reason));
  }
  Send({200, "application/json", AnswerJson(head_, choices, accounts_)});
}

void CompletionCall::FinishWithError(const absl::Status& status) {
  const ErrorContext context = {request_id(), state().draining};
  if (!begun_) return Send(OpenAiError(status, context));
  SendEvent(OpenAiErrorJson(status, context));
  SendEvent("[DONE]");
  reply_.End();
  End();
}

void CompletionCall::Send(HttpResponse response) {
  response.headers.insert(response.headers.end(), headers_.begin(), headers_.end());
  response.headers.emplace_back("X-Request-Id", request_id());
  reply_.Send(std::move(response));
  End();
}

// Open until the client has it all.
void CompletionCall::End() {
  reply_.WhenSent([self = shared_from_this()](bool) { self->Closed(); });
}

}  // namespace tidegate
