// Measures one run of `tidegate load`: told what happens to streams, it keeps the figures in
// bounded memory. Knows no network and no clock: times are seconds since the run began and never
// decrease. Pure; owned by one thread.
//
// Figures have the names that vLLM's `bench serve` gave them: TTFT (start to first token), ITL
// (between two events with tokens), TPOT (mean time per token after the first), E2EL (start to
// end). A request starts when it is due: what it waits because this program or its limit of streams
// is behind counts.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/client_options.h"
#include "cli/interval_sums.h"
#include "cli/latency_histogram.h"
#include "tidegate/v1/generation.pb.h"

namespace tidegate {

// Latencies, in seconds, that a good request does not exceed; unset: any.
struct LatencyGoals {
  std::optional<double> ttft = {}, tpot = {}, e2el = {};

  bool any() const { return ttft.has_value() || tpot.has_value() || e2el.has_value(); }
};

// Errors of one kind.
struct LoadErrors {
  std::string code, reason;  // the reason may be empty
  std::string example;       // the first one, for people
  uint64_t count = 0;
};

// Sums over the accounts that the server gave at the ends of streams.
struct ServerAccounts {
  uint64_t generated_tokens = 0;
  uint64_t decode_bytes = 0, prefill_bytes = 0, reads = 0;  // of flash
  uint64_t hit_units = 0, miss_units = 0;
  double prefill_seconds = 0, decode_seconds = 0, stall_seconds = 0;

  double hit_rate() const;               // 0 where no units were counted
  double flash_bytes_per_token() const;  // read while decoding, per generated token
};

struct LoadResult {
  double seconds = 0;  // from the beginning to the end of the last request, or to the cut
  // Requests. What was begun is one of the others.
  uint64_t begun = 0, completed = 0, refused = 0, failed = 0;
  uint64_t cut_off = 0;          // still open when the run ended
  uint64_t cut_off_waiting = 0;  // of these, without a first token
  uint64_t good = 0;             // completed, and within the goals
  uint64_t prompt_tokens = 0;    // of requests that got a first token
  uint64_t output_tokens = 0, token_events = 0;
  uint32_t most_streams = 0;  // open at once
  double latest_start = 0;    // the longest that a request waited for its begin, seconds
  LatencyHistogram ttft, itl, tpot, e2el;
  LatencyHistogram queue;  // as the server says: waiting to be admitted
  ServerAccounts server;
  std::map<v1::FinishReason, uint64_t> finish_reasons;  // of completed ones
  std::vector<LoadErrors> errors;                       // the most frequent kinds
  IntervalSums tokens, waiting, receiving;  // over time: tokens; streams before and after the first
};

class LoadMeter {
 public:
  // One open stream. Kept by the caller from Begin() until one of the ends.
  struct Stream {
    double start = 0;
    std::optional<double> first = {};  // event with tokens
    double last = 0;                   // event with tokens
    uint64_t tokens = 0;
    uint32_t prompt_tokens = 0;
  };

  explicit LoadMeter(LatencyGoals goals) : goals_(goals) {}

  Stream Begin(double due, double now, uint32_t prompt_tokens);
  // An event brought so many tokens; 0 is nothing.
  void Tokens(Stream& stream, double now, uint64_t count);

  // The four ends of a stream.
  void Complete(Stream& stream, double now, const v1::Finished& finished);
  void Refuse(const Stream& stream, double now);  // turned away with the advice to try again
  void Fail(const Stream& stream, double now, const ErrorFacts& error, const std::string& example);
  void CutOff(const Stream& stream, double now);

  // `end` of the run. After it nothing may be called.
  LoadResult Finish(double end);

 private:
  void Advance(double now);  // the numbers of open streams were the same until now
  void End(const Stream& stream, double now);
  bool IsGood(double ttft, std::optional<double> tpot, double e2el) const;

  const LatencyGoals goals_;
  LoadResult result_;
  double advanced_ = 0;
  uint32_t waiting_ = 0, receiving_ = 0;
};

}  // namespace tidegate
