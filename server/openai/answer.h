// Answers of the OpenAI-compatible API as JSON texts: whole ones, chunks of a stream, and lists of
// log-probabilities. Stateless; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/generation.h"

namespace tidegate {

// How a request wants its answer.
struct AnswerOptions {
  bool stream = false;
  bool include_usage = false;  // a last chunk of a stream with the usage
  bool logprobs = false;
};

// What all chunks of an answer have in common.
struct AnswerHead {
  bool is_chat = false;  // /v1/chat/completions, else /v1/completions
  std::string id;        // "chatcmpl-..."
  int64_t created = 0;   // seconds since 1970
  std::string model;
  AnswerOptions options;
};

// Tokens with what is known of each.
struct AnswerTokens {
  std::string text;
  std::vector<TokenId> ids;
  std::vector<TokenLogprobs> logprobs;  // of each of `ids`, or none
};

// "stop" or "length". Also what an operator's stop or a time limit cut off is "length": the text is
// valid, and there could have been more.
std::string_view OpenAiFinishReason(FinishReason reason);

// Log-probabilities in the shape of `head`'s endpoint. `offset`: of /v1/completions, the characters
// of the tokens before these; is moved on.
std::string LogprobsJson(const AnswerHead& head, const Tokenizer& tokenizer,
                         const AnswerTokens& tokens, uint64_t& offset);

std::string UsageJson(const GenerationAccounts& accounts);

// Chunks, without the framing of events. `logprobs`: LogprobsJson(), or "null".
std::string RoleChunk(const AnswerHead& head, uint32_t choice);  // the first of a chat
std::string TextChunk(const AnswerHead& head, uint32_t choice, std::string_view text,
                      std::string_view logprobs);
std::string FinishChunk(const AnswerHead& head, uint32_t choice, FinishReason reason);
std::string UsageChunk(const AnswerHead& head, const GenerationAccounts& accounts);

// One of the choices of a whole answer.
std::string ChoiceJson(const AnswerHead& head, uint32_t choice, std::string_view text,
                       std::string_view logprobs, FinishReason reason);
// `choices`: ChoiceJson(), with commas between them.
std::string AnswerJson(const AnswerHead& head, std::string_view choices,
                       const GenerationAccounts& accounts);

}  // namespace tidegate
