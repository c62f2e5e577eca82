// Chooses the next token from logits. Order of the steps, as in llama.cpp and vLLM: logit bias,
// penalties, (greedy ends here), temperature, top-k, top-p, min-p, draw.
//
// Logits that are NaN or -infinity are never drawn. If nothing else is left, the smallest id that
// is not NaN is the answer (0 if all are), so that a stream always ends by its own rules. Of
// +infinity there may be several: they share all of the probability. Probabilities below e^-64 of
// the largest count as 0.
//
// A sampler belongs to one sequence and is used by one thread at a time.
//
// Sources: nucleus sampling, arXiv 1904.09751; min-p, arXiv 2407.01082; CTRL, arXiv 1909.05858.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "engine/tokenizer/tokenizer.h"

namespace tidegate {

struct SamplingParams {
  float temperature = 0.8f;         // [0, 100]; 0 is greedy
  uint32_t top_k = 40;              // 0: off
  float top_p = 0.95f;              // (0, 1]; 1: off
  float min_p = 0.05f;              // [0, 1]; 0: off; relative to the most likely token
  float repetition_penalty = 1.0f;  // (0, 10]; 1: off; CTRL (arXiv 1909.05858): divides logits > 0,
                                    // multiplies logits < 0, of tokens in the window
  float presence_penalty = 0.0f;    // [-10, 10]; subtracted once from tokens in the window
  float frequency_penalty = 0.0f;   // [-10, 10]; subtracted once per occurrence
  uint32_t penalty_window = 64;     // last tokens that penalties look at, prompt included
  std::optional<uint64_t> seed;     // unset: a random one, reported in the result
  std::vector<std::pair<TokenId, float>> logit_bias;  // added; finite, or
                                                      // -infinity, which bans
};

// INVALID_ARGUMENT names the field, the value and the range.
absl::Status ValidateSamplingParams(const SamplingParams& params, size_t vocab_size);

// State of one stream. Owned by the thread that decodes it. The same seed, logits and history give
// the same token on every machine.
class Sampler {
 public:
  // REQUIRES: params are valid. `prompt` seeds the penalty window.
  Sampler(const SamplingParams& params, std::span<const TokenId> prompt);

  // The next token, which also becomes the latest one of the penalty window. logits [vocab_size]
  // are changed in place. Ties go to the smallest id. REQUIRES: logits is not empty.
  TokenId Sample(std::span<float> logits);

  uint64_t seed() const { return seed_; }

 private:
  void ApplyPenalties(std::span<float> logits) const;
  TokenId Draw(std::span<const float> logits);
  // Candidates of `logits` with those beyond top_k taken out; sets maximum_. False if there are
  // none.
  bool CollectCandidates(std::span<const float> logits);
  // Puts the best `count` candidates in front, in order; the others are in no order.
  void SortPrefix(size_t count);
  double Weight(float logit) const;  // probability relative to that of maximum_
  double Uniform();                  // [0, 1), from 53 bits of rng_
  void Remember(TokenId token);

  SamplingParams params_;
  bool penalise_;
  uint64_t seed_;
  std::mt19937_64 rng_;
  std::vector<TokenId> window_;  // the last penalty_window tokens; a ring once it is full
  size_t window_next_ = 0;       // the oldest token of a full ring
  absl::flat_hash_map<TokenId, uint32_t> counts_;  // of tokens in window_
  // Of the draw under way, which one sampler of a thread has at a time: they share its memory.
  std::vector<std::pair<float, TokenId>>* candidates_ = nullptr;
  size_t sorted_ = 0;  // candidates in order
  float maximum_ = 0;  // largest logit among candidates
};

}  // namespace tidegate
