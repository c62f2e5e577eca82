#include "server/openai/answer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/json_text.h"
#include "base/utf8.h"

namespace tidegate {
namespace {

// What JSON has no word for; the least that OpenAI's answers have.
constexpr double kLeastLogprob = -9999;

std::string LogprobText(double logprob) {
  return absl::StrCat(std::max(kLeastLogprob, logprob));  // NaN: the first
}

std::string BytesJson(std::string_view bytes) {
  return absl::StrCat("[",
                      absl::StrJoin(bytes, ",",
                                    [](std::string* out, char c) {
                                      absl::StrAppend(
                                          out, static_cast<int>(static_cast<unsigned char>(c)));
                                    }),
                      "]");
}

uint64_t CountCharacters(std::string_view text) {
  uint64_t count = 0;
  while (!text.empty()) {
    text.remove_prefix(NextUtf8(text).bytes);
    ++count;
  }
  return count;
}

// "token":...,"logprob":...,"bytes":[...]
std::string ChatToken(std::string_view piece, double logprob) {
  return absl::StrCat("\"token\":", JsonText(piece), ",\"logprob\":", LogprobText(logprob),
                      ",\"bytes\":", BytesJson(piece));
}

std::string ChatLogprobs(const Tokenizer& tokenizer, const AnswerTokens& tokens) {
  std::string items;
  for (size_t i = 0; i < tokens.logprobs.size() && i < tokens.ids.size(); ++i) {
    const TokenLogprobs& one = tokens.logprobs[i];
    std::string top;
    for (const TopLogprob& other : one.top) {
      absl::StrAppend(&top, top.empty() ? "{" : ",{",
                      ChatToken(tokenizer.Piece(other.id, true), other.logprob), "}");
    }
    absl::StrAppend(&items, items.empty() ? "{" : ",{",
                    ChatToken(tokenizer.Piece(tokens.ids[i], true), one.logprob),
                    ",\"top_logprobs\":[", top, "]}");
  }
  return absl::StrCat("{\"content\":[", items, "],\"refusal\":null}");
}

std::string CompletionLogprobs(const Tokenizer& tokenizer, const AnswerTokens& tokens,
                               uint64_t& offset) {
  std::string texts, logprobs, tops, offsets;
  for (size_t i = 0; i < tokens.logprobs.size() && i < tokens.ids.size(); ++i) {
    const char* const comma = i == 0 ? "" : ",";
    const std::string_view piece = tokenizer.Piece(tokens.ids[i], true);
    absl::StrAppend(&texts, comma, JsonText(piece));
    absl::StrAppend(&logprobs, comma, LogprobText(tokens.logprobs[i].logprob));
    absl::StrAppend(&offsets, comma, offset);
    std::string top;
    for (const TopLogprob& other : tokens.logprobs[i].top) {
      absl::StrAppend(&top, top.empty() ? "" : ",", JsonText(tokenizer.Piece(other.id, true)), ":",
                      LogprobText(other.logprob));
    }
    absl::StrAppend(&tops, comma, "{", top, "}");
    offset += CountCharacters(piece);
  }
  return absl::StrCat("{\"tokens\":[", texts, "],\"token_logprobs\":[", logprobs,
                      "],\"top_logprobs\":[", tops, "],\"text_offset\":[", offsets, "]}");
}

std::string HeadJson(const AnswerHead& head, std::string_view object) {
  return absl::StrCat("{\"id\":", JsonText(head.id), ",\"object\":\"", std::string(object),
                      "\",\"created\":", head.created, ",\"model\":", JsonText(head.model));
}

std::string ChunkJson(const AnswerHead& head, std::string_view choices, std::string_view usage) {
  return absl::StrCat(HeadJson(head, head.is_chat ? "chat.completion.chunk" : "text_completion"),
                      ",\"choices\":[", std::string(choices), "]",
                      head.options.include_usage ? ",\"usage\":" : "",
                      head.options.include_usage ? std::string(usage) : "", "}");
}

// `content`: "delta" of a chat or "text", with its name.
std::string ChoiceChunk(const AnswerHead& head, uint32_t choice, const std::string& content,
                        std::string_view logprobs, const std::string& finish_reason) {
  return ChunkJson(head,
                   absl::StrCat("{\"index\":", choice, ",", content, ",\"logprobs\":",
                                std::string(logprobs), ",\"finish_reason\":", finish_reason, "}"),
                   "null");
}

}  // namespace

std::string_view OpenAiFinishReason(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEndOfText:
    case FinishReason::kStopString:
    case FinishReason::kStopToken:
      return "stop";
    default:
      return "length";
  }
}

std::string LogprobsJson(const AnswerHead& head, const Tokenizer& tokenizer,
                         const AnswerTokens& tokens, uint64_t& offset) {
  return head.is_chat ? ChatLogprobs(tokenizer, tokens)
                      : CompletionLogprobs(tokenizer, tokens, offset);
}

std::string UsageJson(const GenerationAccounts& accounts) {
  return absl::StrCat(
      "{\"prompt_tokens\":", accounts.prompt_tokens,
      ",\"completion_tokens\":", accounts.generated_tokens,
      ",\"total_tokens\":", accounts.prompt_tokens + accounts.generated_tokens,
      ",\"prompt_tokens_details\":{\"cached_tokens\":", accounts.cached_prompt_tokens, "}}");
}

std::string RoleChunk(const AnswerHead& head, uint32_t choice) {
  return ChoiceChunk(head, choice, R"("delta":{"role":"assistant","content":""})", "null", "null");
}

std::string TextChunk(const AnswerHead& head, uint32_t choice, std::string_view text,
                      std::string_view logprobs) {
  const std::string content = head.is_chat
                                  ? absl::StrCat("\"delta\":{\"content\":", JsonText(text), "}")
                                  : absl::StrCat("\"text\":", JsonText(text));
  return ChoiceChunk(head, choice, content, logprobs, "null");
}

std::string FinishChunk(const AnswerHead& head, uint32_t choice, FinishReason reason) {
  return ChoiceChunk(head, choice, head.is_chat ? "\"delta\":{}" : "\"text\":\"\"", "null",
                     absl::StrCat("\"", std::string(OpenAiFinishReason(reason)), "\""));
}

std::string UsageChunk(const AnswerHead& head, const GenerationAccounts& accounts) {
  return ChunkJson(head, "", UsageJson(accounts));
}

std::string ChoiceJson(const AnswerHead& head, uint32_t choice, std::string_view text,
                       std::string_view logprobs, FinishReason reason) {
  const std::string content = head.is_chat
                                  ? absl::StrCat(R"("message":{"role":"assistant","content":)",
                                                 JsonText(text), ",\"refusal\":null}")
                                  : absl::StrCat("\"text\":", JsonText(text));
  return absl::StrCat("{\"index\":", choice, ",", content, ",\"logprobs\":", std::string(logprobs),
                      ",\"finish_reason\":\"", std::string(OpenAiFinishReason(reason)), "\"}");
}

std::string AnswerJson(const AnswerHead& head, std::string_view choices,
                       const GenerationAccounts& accounts) {
  return absl::StrCat(HeadJson(head, head.is_chat ? "chat.completion" : "text_completion"),
                      ",\"choices\":[", std::string(choices), "],\"usage\":", UsageJson(accounts),
                      "}");
}

}  // namespace tidegate
