#include "cli/load_meter.h"

#include <algorithm>
#include <utility>

namespace tidegate {
namespace {

// Kinds of errors that are told apart; the server may make up any number of reasons.
constexpr size_t kMaxErrorKinds = 32;

}  // namespace

double ServerAccounts::hit_rate() const {
  const auto units = static_cast<double>(hit_units + miss_units);
  return units == 0 ? 0 : static_cast<double>(hit_units) / units;
}

double ServerAccounts::flash_bytes_per_token() const {
  const auto tokens = static_cast<double>(generated_tokens);
  return tokens == 0 ? 0 : static_cast<double>(decode_bytes) / tokens;
}

void LoadMeter::Advance(double now) {
  result_.waiting.AddSpan(advanced_, now, waiting_);
  result_.receiving.AddSpan(advanced_, now, receiving_);
  advanced_ = std::max(advanced_, now);
}

LoadMeter::Stream LoadMeter::Begin(double due, double now, uint32_t prompt_tokens) {
  Advance(now);
  ++result_.begun;
  ++waiting_;
  result_.most_streams = std::max(result_.most_streams, waiting_ + receiving_);
  result_.latest_start = std::max(result_.latest_start, now - due);
  return {.start = due, .last = due, .prompt_tokens = prompt_tokens};
}

void LoadMeter::Tokens(Stream& stream, double now, uint64_t count) {
  if (count == 0) return;
  if (stream.first.has_value()) {
    result_.itl.Add(now - stream.last);
  } else {
    Advance(now);
    --waiting_;
    ++receiving_;
    stream.first = now;
    result_.ttft.Add(now - stream.start);
    result_.prompt_tokens += stream.prompt_tokens;
  }
  stream.last = now;
  stream.tokens += count;
  result_.output_tokens += count;
  ++result_.token_events;
  result_.tokens.Add(now, static_cast<double>(count));
}

void LoadMeter::End(const Stream& stream, double now) {
  Advance(now);
  --(stream.first.has_value() ? receiving_ : waiting_);
}

bool LoadMeter::IsGood(double ttft, std::optional<double> tpot, double e2el) const {
  return (!goals_.ttft.has_value() || ttft <= *goals_.ttft) &&
         (!goals_.tpot.has_value() || !tpot.has_value() || *tpot <= *goals_.tpot) &&
         (!goals_.e2el.has_value() || e2el <= *goals_.e2el);
}

void LoadMeter::Complete(Stream& stream, double now, const v1::Finished& finished) {
  // Tokens without a text, such as the end token, come with no event of their own.
  const uint64_t generated = finished.usage().generated_tokens();
  if (generated > stream.tokens) {
    const uint64_t rest = generated - stream.tokens;
    if (!stream.first.has_value()) {
      Tokens(stream, now, rest);
    } else {
      stream.tokens += rest;
      result_.output_tokens += rest;
      result_.tokens.Add(now, static_cast<double>(rest));
    }
  }
  End(stream, now);
  ++result_.completed;
  ++result_.finish_reasons[finished.finish_reason()];
  const double e2el = now - stream.start;
  result_.e2el.Add(e2el);
  std::optional<double> tpot;
  if (stream.tokens > 1) {
    tpot = (stream.last - *stream.first) / static_cast<double>(stream.tokens - 1);
    result_.tpot.Add(*tpot);
  }
  if (IsGood(stream.first.value_or(now) - stream.start, tpot, e2el)) ++result_.good;

  const v1::Timings& timings = finished.timings();
  const v1::FlashAccounts& flash = finished.flash();
  ServerAccounts& server = result_.server;
  result_.queue.Add(timings.queue_seconds());
  server.generated_tokens += generated;
  server.decode_bytes += flash.decode_bytes();
  server.prefill_bytes += flash.prefill_bytes();
  server.reads += flash.reads();
  server.hit_units += flash.hit_units();
  server.miss_units += flash.miss_units();
  server.prefill_seconds += timings.prefill_seconds();
  server.decode_seconds += timings.decode_seconds();
  server.stall_seconds += flash.stall_seconds();
}

void LoadMeter::Refuse(const Stream& stream, double now) {
  End(stream, now);
  ++result_.refused;
}

void LoadMeter::Fail(const Stream& stream, double now, const ErrorFacts& error,
                     const std::string& example) {
  End(stream, now);
  ++result_.failed;
  for (LoadErrors& kind : result_.errors) {
    if (kind.code != error.code || kind.reason != error.reason) continue;
    ++kind.count;
    return;
  }
  if (result_.errors.size() == kMaxErrorKinds) return;
  result_.errors.push_back(
      {.code = error.code, .reason = error.reason, .example = example, .count = 1});
}

void LoadMeter::CutOff(const Stream& stream, double now) {
  End(stream, now);
  ++result_.cut_off;
  if (!stream.first.has_value()) ++result_.cut_off_waiting;
}

LoadResult LoadMeter::Finish(double end) {
  Advance(end);
  result_.seconds = end;
  std::stable_sort(result_.errors.begin(), result_.errors.end(),
                   [](const LoadErrors& a, const LoadErrors& b) { return a.count > b.count; });
  return std::move(result_);
}

}  // namespace tidegate
