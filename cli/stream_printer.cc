#include "cli/stream_printer.h"

#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"
#include "cli/proto_json.h"
#include "cli/terminal_text.h"

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
      finished_ = response.finished();
      break;
    case v1::GenerateResponse::kProgress:
      PrintProgress(response.progress());
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

void StreamPrinter::PrintDelta(const v1::Delta& delta) {
  if (delta.token_ids_size() > 0 && !first_token_.has_value()) {
    first_token_ = std::chrono::steady_clock::now();
  }
  token_count_ += delta.token_ids_size();
  logprobs_.insert(logprobs_.end(), delta.logprobs().begin(), delta.logprobs().end());
  if (form_ == Form::kJson || delta.logprobs_size() > 0) {
    token_ids_.insert(token_ids_.end(), delta.token_ids().begin(), delta.token_ids().end());
  }
  if (form_ == Form::kJson) {
    text_ += delta.text();
    return;
  }
  if (delta.text().empty()) return;
  line_open_ = delta.text().back() != '\n';
  out_ << (terminal_ ? ForTerminal(delta.text()) : delta.text()) << std::flush;
}

void StreamPrinter::Finish() {
  if (form_ == Form::kJson) return PrintJson();
  if (line_open_) out_ << '\n' << std::flush;
  line_open_ = false;
  PrintLogprobs();
  if (form_ == Form::kQuiet) return;
  if (finished_.has_value()) {
    PrintAccounts(*finished_);
  } else {
    PrintPartialAccounts();
  }
}

// Ids and not text: a token need not be whole characters.
void StreamPrinter::PrintLogprobs() {
  if (logprobs_.empty()) return;
  err_ << "\n   token   logprob  most likely\n";
  for (size_t i = 0; i < logprobs_.size() && i < token_ids_.size(); ++i) {
    err_ << absl::StreamFormat("%8d %9.4f ", token_ids_[i], logprobs_[i].logprob());
    for (const v1::TopLogprob& top : logprobs_[i].top()) {
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
  json["text"] = text_;
  json["token_ids"] = token_ids_;
  for (const v1::TokenLogprobs& logprobs : logprobs_) {
    json["logprobs"].push_back(ProtoToJson(logprobs));
  }
  if (finished_.has_value()) {
    json["finished"] = ProtoToJson(*finished_);
  } else {
    json["finished"] = nullptr;
  }
  out_ << json.dump(2, ' ', /*ensure_ascii=*/terminal_) << '\n' << std::flush;
}

}  // namespace tidegate
