#include "engine/logprobs.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "base/check.h"

namespace tidegate {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// log(p / p of the most likely token).
double Behind(float logit, float maximum) {
  if (!(logit > kNever)) return kNever;  // NaN too
  return logit == maximum ? 0 : static_cast<double>(logit) - maximum;
}

// Puts `one` into the best `count` seen so far, if it belongs there. They come in the order of ids.
void Keep(const TopLogprob& one, size_t count, std::vector<TopLogprob>& best) {
  if (count == 0 || (best.size() == count && one.logprob <= best.back().logprob)) return;
  if (best.size() == count) best.pop_back();
  const auto after =
      std::ranges::upper_bound(best, one.logprob, std::greater<>(), &TopLogprob::logprob);
  best.insert(after, one);
}

}  // namespace

TokenLogprobs LogprobsOf(std::span<const float> logits, TokenId token, uint32_t top) {
  CHECK(token >= 0 && static_cast<size_t>(token) < logits.size());
  float maximum = kNever;
  for (const float logit : logits) {
    if (logit > maximum) maximum = logit;
  }
  TokenLogprobs result;
  double sum = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double behind = Behind(logits[i], maximum);
    sum += std::exp(behind);
    if (behind > kNever) Keep({static_cast<TokenId>(i), behind}, top, result.top);
  }
  const double log_sum = std::log(sum);  // of nothing possible: -infinity, and nothing uses it
  const double behind = Behind(logits[static_cast<size_t>(token)], maximum);
  result.logprob = behind > kNever ? behind - log_sum : behind;
  for (TopLogprob& one : result.top) one.logprob -= log_sum;
  return result;
}

}  // namespace tidegate
