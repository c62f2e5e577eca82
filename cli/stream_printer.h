// What a person sees of a stream: the words as they arrive, then its accounts. Or one JSON
// document. Of several choices, one after the other under a heading: what comes of later ones is
// held until those before them have ended.
//
// Thread-compatible. Streams are not owned.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "tidegate/v1/generation.pb.h"

namespace tidegate {

class StreamPrinter {
 public:
  enum class Form {
    kText,   // words to `out`, accounts to `err`
    kQuiet,  // words to `out`
    kJson,   // one object to `out` at the end
  };
  // `terminal`: control characters in words are shown, not acted upon.
  StreamPrinter(Form form, bool terminal, std::ostream& out, std::ostream& err);

  // False when `out` cannot be written any more: the reader has gone.
  bool Print(const v1::GenerateResponse& response);

  // After the last event. A stream that broke off gets the accounts that this side can give: tokens
  // and times.
  void Finish();

 private:
  void PrintProgress(const v1::PromptProgress& progress);  // to `err`, in every form
  void PrintDelta(const v1::Delta& delta);
  void TakeFinished(const v1::Finished& finished);
  // The words of the next choice from here on.
  void ShowNext();
  void PrintText(const std::string& text);
  void EndLine();
  void PrintEnd(size_t choice);  // of its logprobs and accounts
  void PrintAccounts(const v1::Finished& finished);
  void PrintPartialAccounts();
  void PrintJson();

  struct Choice {
    std::optional<v1::Finished> finished;
    std::string text;                 // for kJson, and held
    std::vector<uint32_t> token_ids;  // for kJson, and beside logprobs
    std::vector<v1::TokenLogprobs> logprobs;
  };
  void PrintLogprobs(const std::vector<uint32_t>& ids,
                     const std::vector<v1::TokenLogprobs>& logprobs);  // to `err`
  // Null: more than any request may have.
  Choice* At(uint32_t choice);

  const Form form_;
  const bool terminal_;
  std::ostream& out_;
  std::ostream& err_;
  const std::chrono::steady_clock::time_point begin_;
  std::optional<std::chrono::steady_clock::time_point> first_token_;
  v1::Started started_;
  std::vector<uint32_t> prompt_ids_;  // from the second on
  std::vector<v1::TokenLogprobs> prompt_logprobs_;
  std::vector<Choice> choices_ = std::vector<Choice>(1);
  size_t shown_ = 0;  // index of choices_: whose words are printed
  uint64_t token_count_ = 0;
  bool line_open_ = false;  // the last character was no newline
};

}  // namespace tidegate
