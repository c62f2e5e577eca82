// Checks a request against the model and the server's bounds, before it may wait in the queue.
// A pure function: safe to call from any thread.
#pragma once

#include "absl/status/status.h"
#include "engine/engine_options.h"
#include "engine/generation.h"
#include "engine/tokenizer/tokenizer.h"

namespace tidegate {

// INVALID_ARGUMENT names the field, the value and its range; OUT_OF_RANGE: the prompt leaves no
// room in the context.
absl::Status CheckRequest(const GenerationRequest& request, const PruningBounds& bounds,
                          const Tokenizer& tokenizer, uint32_t context_tokens);

}  // namespace tidegate
