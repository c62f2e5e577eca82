// Log-probabilities of tokens: what a model makes of its logits before anything chooses among them.
// Plain data and pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/tokenizer/tokenizer.h"

namespace tidegate {

struct TopLogprob {
  TokenId id = -1;
  double logprob = 0;  // natural logarithm, at most 0
};

// At one place of a sequence.
struct TokenLogprobs {
  double logprob = 0;           // of the token that stands there; -infinity: the model bans it
  std::vector<TopLogprob> top;  // the likeliest first, of equals the smaller id
};

// Of `token`, and of the `top` most likely tokens that are possible at all, by the softmax of
// logits [vocab_size], computed in double. NaN counts as -infinity; of +infinity there may be
// several: they share all of the probability. REQUIRES: token is in [0, logits.size()).
TokenLogprobs LogprobsOf(std::span<const float> logits, TokenId token, uint32_t top);

}  // namespace tidegate
