#include "cli/load_schedule.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/numbers.h"
#include "base/text.h"

namespace tidegate {
namespace {

// Sequences of one seed. Requests have their own, numbered from kFirstRequest on.
constexpr uint64_t kArrivals = 0, kSharedPrefix = 1, kFirstRequest = 2;

constexpr IntegerRange kLengths = {1, uint64_t{1} << 24};

uint64_t Mixed(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

uint32_t Drawn(LengthRange range, SeededNumbers& numbers) {
  return range.low + static_cast<uint32_t>(numbers.Below(uint64_t{range.high} - range.low + 1));
}

// Adds ids to `prompt` up to `length`: random ones, or the text from a random place on. The shared
// prefix is the text's beginning.
void Extend(const Workload& workload, size_t length, bool from_begin, SeededNumbers& numbers,
            std::vector<uint32_t>& prompt) {
  size_t at = 0;
  if (!workload.text.empty() && !from_begin) at = numbers.Below(workload.text.size());
  while (prompt.size() < length) {
    if (workload.text.empty()) {
      prompt.push_back(static_cast<uint32_t>(numbers.Below(workload.vocab_size)));
    } else {
      prompt.push_back(workload.text[at++ % workload.text.size()]);
    }
  }
}

}  // namespace

SeededNumbers::SeededNumbers(uint64_t seed, uint64_t stream)
    : state_(Mixed(Mixed(seed) + stream)) {}

uint64_t SeededNumbers::Next() { return Mixed(state_ += 0x9e3779b97f4a7c15); }

double SeededNumbers::Unit() {
  return static_cast<double>(Next() >> 11) * 0x1p-53;  // as many bits as a double's fraction has
}

uint64_t SeededNumbers::Below(uint64_t bound) {
  // The bias is below bound / 2^53, which no length or vocabulary makes visible.
  return std::min(bound - 1, static_cast<uint64_t>(Unit() * static_cast<double>(bound)));
}

std::string LengthRange::ToString() const {
  return low == high ? absl::StrCat(low) : absl::StrCat(low, "-", high);
}

absl::StatusOr<LengthRange> ParseLengthRange(std::string_view text) {
  const size_t dash = text.find('-');
  const auto low = ParseInteger(text.substr(0, dash), kLengths);
  const auto high =
      dash == std::string_view::npos ? low : ParseInteger(text.substr(dash + 1), kLengths);
  if (low.ok() && high.ok() && *low <= *high) {
    return LengthRange{static_cast<uint32_t>(*low), static_cast<uint32_t>(*high)};
  }
  return absl::InvalidArgumentError(absl::StrCat(
      Quoted(text), " is not a number of tokens such as 64 or a range such as 16-128"));
}

const char* ArrivalProcessName(ArrivalProcess process) {
  return process == ArrivalProcess::kPoisson ? "poisson" : "constant";
}

ArrivalTimes::ArrivalTimes(std::optional<double> rate, ArrivalProcess process, uint64_t seed)
    : rate_(rate), process_(process), numbers_(seed, kArrivals) {}

void ArrivalTimes::Advance() {
  if (!rate_.has_value()) return;
  const double gaps = process_ == ArrivalProcess::kConstant ? 1 : -std::log1p(-numbers_.Unit());
  due_ += gaps / *rate_;
}

PlannedRequest PlanRequest(const Workload& workload, uint64_t index) {
  SeededNumbers numbers(workload.seed, kFirstRequest + index);
  PlannedRequest request;
  const uint32_t length = Drawn(workload.prompt_tokens, numbers);
  request.output_tokens = Drawn(workload.output_tokens, numbers);
  request.sampling_seed = numbers.Next();
  request.prompt.reserve(length);
  for (const uint32_t id : workload.start) {
    if (request.prompt.size() < length) request.prompt.push_back(id);
  }
  SeededNumbers shared(workload.seed, kSharedPrefix);
  Extend(workload, std::min(workload.shared_prefix, length), /*from_begin=*/true, shared,
         request.prompt);
  Extend(workload, length, /*from_begin=*/false, numbers, request.prompt);
  return request;
}

}  // namespace tidegate
