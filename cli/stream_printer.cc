#include "cli/stream_printer.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"
#include "cli/proto_json.h"
#include "cli/terminal_text.h"
#include "engine/request_limits.h"

namespace tidegate {
namespace {

// FINISH_REASON_MAX_TOKENS -> "max tokens".
std::string ReasonText(v1::FinishReason reason) {
  std::string name = v1::FinishReason_Name(reason);
  const std::string prefix = "FINISH_REASON_";
  if (name.rfind(prefix, 0) == 0) name.erase(0, prefix.size());
  for (char& c : name) c = c == '_' ? ' ' : absl::ascii_tolower(c);
  return name;
}

}  // namespace

StreamPrinter::StreamPrinter(Form form, bool terminal, std::ostream& out, std::ostream& err)
    : form_(form),
      terminal_(terminal),
      out_(out),
      err_(err),
      begin_(std::chrono::steady_clock::now()) {}

bool StreamPrinter::Print(const v1::GenerateResponse& response) {
  switch (response.event_case()) {
    case v1::GenerateResponse::kStarted:
      started_ = response.started();
      break;
    case v1::GenerateResponse::kDelta:
      PrintDelta(response.delta());
      break;
    case v1::GenerateResponse::kFinished:
      TakeFinished(response.finished());
      break;
    case v1::GenerateResponse::kProgress:
      PrintProgress(response.progress());
      break;
    case v1::GenerateResponse::kPromptLogprobs: {
      const v1::PromptLogprobs& prompt = response.prompt_logprobs();
      prompt_ids_.insert(prompt_ids_.end(), prompt.token_ids().begin(), prompt.token_ids().end());
      prompt_logprobs_.insert(prompt_logprobs_.end(), prompt.logprobs().begin(),
                              prompt.logprobs().end());
      break;
    }
    case v1::GenerateResponse::kKeepAlive:
      break;
    case v1::GenerateResponse::EVENT_NOT_SET:  // of a later version
      break;
  }
  return out_.good();
}

void StreamPrinter::PrintProgress(const v1::PromptProgress& progress) {
  err_ << absl::StreamFormat("prompt: %d of %d tokens", progress.processed_tokens(),
                             progress.total_tokens());
  if (progress.cached_tokens() > 0) {
    err_ << absl::StreamFormat(", %d from the cache", progress.cached_tokens());
  }
  err_ << std::endl;
}

StreamPrinter::Choice* StreamPrinter::At(uint32_t choice) {
  if (choice >= kMaxChoices) return nullptr;
  if (choice >= choices_.size()) choices_.resize(choice + 1);
  while (form_ != Form::kJson && shown_ < choice && choices_[shown_].finished.has_value()) {
    ShowNext();
  }
  return &choices_[choice];
}

void StreamPrinter::PrintDelta(const v1::Delta& delta) {
  if (delta.token_ids_size() > 0 && !first_token_.has_value()) {
    first_token_ = std::chrono::steady_clock::now();
  }
  token_count_ += delta.token_ids_size();
  Choice* const choice = At(delta.choice());
  if (choice == nullptr) return;
  choice->logprobs.insert(choice->logprobs.end(), delta.logprobs().begin(), delta.logprobs().end());
  if (form_ == Form::kJson || delta.logprobs_size() > 0) {
    choice->token_ids.insert(choice->token_ids.end(), delta.token_ids().begin(),
                             delta.token_ids().end());
  }
  if (form_ != Form::kJson && delta.choice() == shown_) return PrintText(delta.text());
  choice->text += delta.text();
}

void StreamPrinter::TakeFinished(const v1::Finished& finished) {
  if (Choice* const choice = At(finished.choice())) choice->finished = finished;
  while (form_ != Form::kJson && shown_ + 1 < choices_.size() &&
         choices_[shown_].finished.has_value()) {
    ShowNext();
  }
}

void StreamPrinter::ShowNext() {
  EndLine();
  ++shown_;
  out_ << "--- choice " << shown_ + 1 << " ---\n";
  PrintText(std::exchange(choices_[shown_].text, {}));
}

void StreamPrinter::PrintText(const std::string& text) {
  if (text.empty()) return;
  line_open_ = text.back() != '\n';
  out_ << (terminal_ ? ForTerminal(text) : text) << std::flush;
}

void StreamPrinter::EndLine() {
  if (line_open_) out_ << '\n' << std::flush;
  line_open_ = false;
}

void StreamPrinter::Finish() {
  if (form_ == Form::kJson) return PrintJson();
  while (shown_ + 1 < choices_.size()) ShowNext();
  EndLine();
  if (!prompt_logprobs_.empty()) err_ << "\nprompt, from its second token on:";
  PrintLogprobs(prompt_ids_, prompt_logprobs_);
  bool complete = true;
  for (size_t i = 0; i < choices_.size(); ++i) {
    PrintEnd(i);
    complete &= choices_[i].finished.has_value();
  }
  if (form_ != Form::kQuiet && !complete) PrintPartialAccounts();
}

void StreamPrinter::PrintEnd(size_t i) {
  const Choice& choice = choices_[i];
  const bool accounts = form_ != Form::kQuiet && choice.finished.has_value();
  if (choices_.size() > 1 && (accounts || !choice.logprobs.empty())) {
    err_ << "\nchoice " << i + 1 << ':';
  }
  PrintLogprobs(choice.token_ids, choice.logprobs);
  if (accounts) PrintAccounts(*choice.finished);
}

// Ids and not text: a token need not be whole characters.
void StreamPrinter::PrintLogprobs(const std::vector<uint32_t>& ids,
                                  const std::vector<v1::TokenLogprobs>& logprobs) {
  if (logprobs.empty()) return;
  err_ << "\n   token   logprob  most likely\n";
  for (size_t i = 0; i < logprobs.size() && i < ids.size(); ++i) {
    err_ << absl::StreamFormat("%8d %9.4f ", ids[i], logprobs[i].logprob());
    for (const v1::TopLogprob& top : logprobs[i].top()) {
      err_ << absl::StreamFormat(" %d:%.4f", top.token_id(), top.logprob());
    }
    err_ << '\n';
  }
}

void StreamPrinter::PrintAccounts(const v1::Finished& finished) {
  const v1::Timings& timings = finished.timings();
  const v1::FlashAccounts& flash = finished.flash();
  err_ << absl::StreamFormat(
      "\n%d tokens, %.1f tokens/s, first token after %s (%d prompt tokens); ended by %s\n",
      finished.usage().generated_tokens(), timings.tokens_per_second(),
      FormatSeconds(timings.first_token_seconds()), finished.usage().prompt_tokens(),
      ReasonText(finished.finish_reason()));
  err_ << absl::StreamFormat(
      "%s from flash per token, hit rate %.1f %%, density %.2f, waited %s for flash\n",
      FormatBytes(static_cast<uint64_t>(flash.bytes_per_token())), 100 * flash.hit_rate(),
      flash.density(), FormatSeconds(flash.stall_seconds()));
  const v1::PruningAccounts& pruning = finished.pruning();
  if (!pruning.has_predicted_perplexity_increase()) return;
  err_ << absl::StreamFormat(
      "steered: points %d to %d of the server's ladder, density %.2f, gamma %.2f, perplexity "
      "foretold %+.1f %%\n",
      pruning.most_accurate_position(), pruning.fastest_position(), pruning.density(),
      pruning.gamma(), 100 * pruning.predicted_perplexity_increase());
}

void StreamPrinter::PrintPartialAccounts() {
  if (!first_token_.has_value()) return;
  const std::chrono::duration<double> first = *first_token_ - begin_;
  const std::chrono::duration<double> rest = std::chrono::steady_clock::now() - *first_token_;
  err_ << absl::StreamFormat("\nbroken off: %d tokens, first after %s, %s since\n", token_count_,
                             FormatSeconds(first.count()), FormatSeconds(rest.count()));
}

void StreamPrinter::PrintJson() {
  nlohmann::ordered_json json;
  json["started"] = ProtoToJson(started_);
  if (!prompt_logprobs_.empty()) json["prompt_token_ids"] = prompt_ids_;
  for (const v1::TokenLogprobs& logprobs : prompt_logprobs_) {
    json["prompt_logprobs"].push_back(ProtoToJson(logprobs));
  }
  nlohmann::ordered_json choices;
  for (const Choice& choice : choices_) {
    nlohmann::ordered_json one;
    one["text"] = choice.text;
    one["token_ids"] = choice.token_ids;
    for (const v1::TokenLogprobs& logprobs : choice.logprobs) {
      one["logprobs"].push_back(ProtoToJson(logprobs));
    }
    one["finished"] = nullptr;
    if (choice.finished.has_value()) one["finished"] = ProtoToJson(*choice.finished);
    choices.push_back(std::move(one));
  }
  // One alone needs no list.
  if (choices.size() == 1) {
    json.update(choices[0]);
  } else {
    json["choices"] = std::move(choices);
  }
  out_ << json.dump(2, ' ', /*ensure_ascii=*/terminal_) << '\n' << std::flush;
}

}  // namespace tidegate
