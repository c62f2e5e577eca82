// What `tidegate load` sends and when: arrival times, prompts and lengths, all drawn from a seed,
// so that a run can be repeated. Pure; owned by one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tidegate {

// Pseudo-random numbers that are the same on every machine: SplitMix64 (Steele, Lea, Flood 2014).
class SeededNumbers {
 public:
  // `stream` tells sequences of one seed apart.
  SeededNumbers(uint64_t seed, uint64_t stream);
  uint64_t Next();
  double Unit();                   // [0, 1)
  uint64_t Below(uint64_t bound);  // [0, bound); REQUIRES: bound > 0

 private:
  uint64_t state_;
};

// Lengths in tokens, each equally likely. Both ends belong to it.
struct LengthRange {
  uint32_t low = 1, high = 1;

  std::string ToString() const;  // as ParseLengthRange() reads it
};

// "64" or "16-128". INVALID_ARGUMENT names the text.
absl::StatusOr<LengthRange> ParseLengthRange(std::string_view text);

enum class ArrivalProcess {
  kPoisson,   // independent users: exponential gaps
  kConstant,  // equal gaps
};

const char* ArrivalProcessName(ArrivalProcess process);  // "poisson" or "constant"

// When requests are due, in seconds since the start; the first one at 0.
class ArrivalTimes {
 public:
  // `rate` per second; unset: all are due at once, and only the limit of open streams holds them
  // back (closed loop).
  ArrivalTimes(std::optional<double> rate, ArrivalProcess process, uint64_t seed);

  double due() const { return due_; }  // of the next request
  void Advance();                      // that one has been begun

 private:
  std::optional<double> rate_;
  ArrivalProcess process_;
  SeededNumbers numbers_;
  double due_ = 0;
};

// What requests are made of.
struct Workload {
  LengthRange prompt_tokens = {}, output_tokens = {};
  uint32_t shared_prefix = 0;  // so many first tokens are the same in all prompts
  uint64_t seed = 0;
  uint32_t vocab_size = 1;           // ids of prompts are below it
  std::vector<uint32_t> start = {};  // ids that every prompt begins with, within its length
  std::vector<uint32_t> text = {};   // prompts are pieces of it; empty: random ids
};

struct PlannedRequest {
  std::vector<uint32_t> prompt;  // never empty
  uint32_t output_tokens = 0;
  uint64_t sampling_seed = 0;
};

// Request number `index` of a workload, whatever was planned before it.
PlannedRequest PlanRequest(const Workload& workload, uint64_t index);

}  // namespace tidegate
