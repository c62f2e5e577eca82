// Where the time of forward passes goes, by stage. Plain sums of wall-clock seconds on the decode
// thread; reading the clock twice per stage costs below 0.1 % of a token. Thread-compatible.
#pragma once

#include <chrono>
#include <cstddef>
#include <string_view>

namespace tidegate {

enum class Stage : size_t {
  kProjections,  // query, key, value and output matrices of attention
  kAttention,    // scores and weighted values over the KV cache
  kMasks,        // which units: scores, penalty, threshold
  kLeases,       // asking for units, gathering their addresses, giving them back
  kStalls,       // waiting for units on their way from flash, or for the store's answer
  kUnits,        // adding columns; the activation between
  kHead,         // logits
  kOther,        // embedding, norms, rotation, storing keys and values
};
inline constexpr size_t kStages = 8;

constexpr std::string_view StageName(Stage stage) {
  constexpr std::string_view kNames[kStages] = {"projections", "attention", "masks", "leases",
                                                "stalls",      "units",     "head",  "other"};
  return kNames[static_cast<size_t>(stage)];
}

class StageTimes {
 public:
  void Add(Stage stage, double seconds) { seconds_[static_cast<size_t>(stage)] += seconds; }
  void Add(const StageTimes& other) {
    for (size_t stage = 0; stage < kStages; ++stage) seconds_[stage] += other.seconds_[stage];
  }
  double seconds(Stage stage) const { return seconds_[static_cast<size_t>(stage)]; }
  double total() const {
    double sum = 0;
    for (const double seconds : seconds_) sum += seconds;
    return sum;
  }

 private:
  double seconds_[kStages] = {};
};

// Charges its lifetime to a stage, less what others charged meanwhile.
class StageTimer {
 public:
  StageTimer(StageTimes& times, Stage stage)
      : times_(times), stage_(stage), charged_(times.total()), start_(Clock::now()) {}
  ~StageTimer() {
    const double elapsed = std::chrono::duration<double>(Clock::now() - start_).count();
    times_.Add(stage_, elapsed - (times_.total() - charged_));
  }
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  StageTimes& times_;
  const Stage stage_;
  const double charged_;
  const Clock::time_point start_;
};

}  // namespace tidegate
