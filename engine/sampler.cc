#include "engine/sampler.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/request_limits.h"

namespace tidegate {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// exp(kSmallestExponent) times the largest vocabulary is below the rounding of a double near 1.
constexpr double kSmallestExponent = -64;

// Fixed point with 60 bits after the point.
constexpr int kPoint = 60;
constexpr uint64_t kLn2 = 0xb17217f7d1cf79a;

constexpr uint64_t FixedProduct(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> kPoint);
}

// 1 / n!
constexpr std::array<uint64_t, 18> kInverseFactorials = [] {
  std::array<uint64_t, 18> values{};
  values[0] = uint64_t{1} << kPoint;
  for (size_t n = 1; n < values.size(); ++n) values[n] = values[n - 1] / n;
  return values;
}();

// exp(y) by `terms` terms of its Taylor series. REQUIRES: y < 1, terms <= 18.
constexpr uint64_t FixedExp(uint64_t y, size_t terms) {
  uint64_t sum = 0;
  while (terms-- > 0) sum = FixedProduct(sum, y) + kInverseFactorials[terms];
  return sum;
}

// 2^(i / 64)
constexpr int kPowerBits = 6;
constexpr std::array<uint64_t, 1 << kPowerBits> kPowers = [] {
  std::array<uint64_t, 1 << kPowerBits> values{};
  for (size_t i = 0; i < values.size(); ++i) values[i] = FixedExp(i * (kLn2 >> kPowerBits), 18);
  return values;
}();

// exp(x) for kSmallestExponent <= x <= 0, relative error below 1e-14. Not std::exp: its last bit
// depends on the C library and the CPU, and a polynomial in double depends on what the compiler
// fuses. Integers do not. With t = x / ln(2): exp(x) = 2^floor(t) * 2^(i / 64) * exp(ln(2) * rest),
// where i and rest are the upper and lower bits of the fraction of t; 8 terms are enough for so
// small a rest.
double PortableExp(double x) {
  constexpr double kInverseLn2 = 0x1.71547652b82fep+0;
  constexpr int kFractionBits = 52;  // |t| < 2^7 leaves the 64 bits room for no more than 56
  const auto t = static_cast<int64_t>(x * (kInverseLn2 * (uint64_t{1} << kFractionBits)));
  const int64_t exponent = t >> kFractionBits;  // rounds down
  const uint64_t fraction = static_cast<uint64_t>(t) << (kPoint - kFractionBits);
  const size_t index = fraction >> (kPoint - kPowerBits) & (kPowers.size() - 1);
  const uint64_t rest = fraction & ((uint64_t{1} << (kPoint - kPowerBits)) - 1);
  const uint64_t value = FixedProduct(kPowers[index], FixedExp(FixedProduct(rest, kLn2), 8));
  // A product with a power of two is exact.
  const auto power = std::bit_cast<double>(static_cast<uint64_t>(1023 - kPoint + exponent) << 52);
  return static_cast<double>(value) * power;
}

uint64_t RandomSeed() {
  uint64_t seed = 0;
  CHECK(getrandom(&seed, sizeof(seed), 0) == static_cast<ssize_t>(sizeof(seed)));
  return seed;
}

// Smallest id with the largest logit.
TokenId Greedy(std::span<const float> logits) {
  size_t best = logits.size();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) continue;
    if (best == logits.size() || logits[i] > logits[best]) best = i;
  }
  return best == logits.size() ? 0 : static_cast<TokenId>(best);
}

absl::Status CheckRange(const char* field, float value, RealRange range) {
  if (IsIn(range, value)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, "; it must be in ", IntervalText(range)));
}

absl::Status CheckLogitBias(const SamplingParams& params, size_t vocab_size) {
  for (const auto& [id, bias] : params.logit_bias) {
    if (id < 0 || static_cast<size_t>(id) >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "logit_bias has token ", id, "; ids of this model are in [0, ", vocab_size, ")"));
    }
    if (std::isnan(bias) || bias == kInfinity) {
      return absl::InvalidArgumentError(absl::StrCat(
          "logit_bias of token ", id, " is ", bias, "; it must be finite, or -infinity to ban it"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateSamplingParams(const SamplingParams& params, size_t vocab_size) {
  RETURN_IF_ERROR(CheckRange("temperature", params.temperature, kTemperatureRange));
  RETURN_IF_ERROR(CheckRange("top_p", params.top_p, kTopPRange));
  RETURN_IF_ERROR(CheckRange("min_p", params.min_p, kMinPRange));
  RETURN_IF_ERROR(
      CheckRange("repetition_penalty", params.repetition_penalty, kRepetitionPenaltyRange));
  RETURN_IF_ERROR(CheckRange("presence_penalty", params.presence_penalty, kPenaltyRange));
  RETURN_IF_ERROR(CheckRange("frequency_penalty", params.frequency_penalty, kPenaltyRange));
  return CheckLogitBias(params, vocab_size);
}

Sampler::Sampler(const SamplingParams& params, std::span<const TokenId> prompt)
    : params_(params),
      penalise_(params.penalty_window > 0 &&
                (params.repetition_penalty != 1 || params.presence_penalty != 0 ||
                 params.frequency_penalty != 0)),
      seed_(params.seed.has_value() ? *params.seed : RandomSeed()),
      rng_(seed_) {
  const size_t first = prompt.size() - std::min<size_t>(prompt.size(), params.penalty_window);
  for (const TokenId token : prompt.subspan(first)) Remember(token);
}

TokenId Sampler::Sample(std::span<float> logits) {
  CHECK(!logits.empty());
  for (const auto& [id, bias] : params_.logit_bias) logits[static_cast<size_t>(id)] += bias;
  ApplyPenalties(logits);
  const TokenId token = params_.temperature == 0 ? Greedy(logits) : Draw(logits);
  Remember(token);
  return token;
}

void Sampler::ApplyPenalties(std::span<float> logits) const {
  for (const auto& [id, count] : counts_) {
    if (id < 0 || static_cast<size_t>(id) >= logits.size()) continue;
    float& logit = logits[static_cast<size_t>(id)];
    if (logit > 0) {
      logit /= params_.repetition_penalty;
    } else {
      logit *= params_.repetition_penalty;
    }
    // In double the product is exact, so it does not matter whether the compiler fuses it.
    const double frequency = static_cast<double>(params_.frequency_penalty) * count;
    logit = static_cast<float>(logit - frequency - params_.presence_penalty);
  }
}

bool Sampler::CollectCandidates(std::span<const float> logits) {
  candidates_->clear();
  sorted_ = 0;
  maximum_ = -kInfinity;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] > -kInfinity)) continue;  // NaN too
    candidates_->emplace_back(logits[i], static_cast<TokenId>(i));
    maximum_ = std::max(maximum_, logits[i]);
  }
  if (params_.top_k > 0 && params_.top_k < candidates_->size()) {
    SortPrefix(params_.top_k);
    candidates_->resize(params_.top_k);
    sorted_ = candidates_->size();
  }
  return !candidates_->empty();
}

void Sampler::SortPrefix(size_t count) {
  if (count <= sorted_) return;
  const auto before = [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  // In growing steps: mostly a few of many thousands are ever looked at.
  const size_t end = std::min(candidates_->size(), std::max({count, 2 * sorted_, size_t{64}}));
  const auto at = [this](size_t i) {
    return candidates_->begin() + static_cast<std::ptrdiff_t>(i);
  };
  std::nth_element(at(sorted_), at(end - 1), candidates_->end(), before);
  std::sort(at(sorted_), at(end), before);
  sorted_ = end;
}

double Sampler::Weight(float logit) const {
  if (logit == maximum_) return 1;  // also of infinities
  const double exponent = (static_cast<double>(logit) - maximum_) / params_.temperature;
  return exponent < kSmallestExponent ? 0 : PortableExp(exponent);
}

TokenId Sampler::Draw(std::span<const float> logits) {
  thread_local std::vector<std::pair<float, TokenId>> candidates;  // 8 bytes a token of the model
  candidates.reserve(logits.size());
  candidates_ = &candidates;
  if (!CollectCandidates(logits)) return Greedy(logits);
  size_t kept = candidates_->size();
  double mass = 0;  // Sum over all; in the order of ids, or sorted after top-k: never in no order.
  for (const auto& [logit, id] : *candidates_) mass += Weight(logit);
  if (params_.top_p < 1 || params_.min_p > 0) {
    const double enough = params_.top_p < 1 ? params_.top_p * mass : kInfinity;
    mass = 0;
    for (kept = 0; kept < candidates_->size() && mass < enough; ++kept) {
      SortPrefix(kept + 1);
      const double weight = Weight((*candidates_)[kept].first);
      if (weight < params_.min_p) break;
      mass += weight;
    }
  }
  const double target = Uniform() * mass;
  double passed = 0;
  TokenId token = 0;
  for (size_t i = 0; i < kept; ++i) {
    SortPrefix(i + 1);
    const double weight = Weight((*candidates_)[i].first);
    if (weight == 0) break;  // Rounding left `passed` just below `target`.
    token = (*candidates_)[i].second;
    passed += weight;
    if (passed > target) break;
  }
  return token;
}

double Sampler::Uniform() { return static_cast<double>(rng_() >> 11) * 0x1p-53; }

void Sampler::Remember(TokenId token) {
  if (!penalise_) return;
  ++counts_[token];
  if (window_.size() < params_.penalty_window) {
    window_.push_back(token);
    return;
  }
  const auto oldest = counts_.find(window_[window_next_]);
  if (--oldest->second == 0) counts_.erase(oldest);
  window_[window_next_] = token;
  window_next_ = (window_next_ + 1) % window_.size();
}

}  // namespace tidegate
