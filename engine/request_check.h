// Checks a request against the model and the server's bounds, before it may wait in the queue.
#pragma once

#include "absl/status/status.h"
#include "engine/engine.h"

namespace tidegate {

// INVALID_ARGUMENT names the field, the value and its range; OUT_OF_RANGE: the prompt leaves no
// room in the context.
absl::Status CheckRequest(const GenerationRequest& request, const PruningBounds& bounds,
                          const Tokenizer& tokenizer, uint32_t context_tokens);

}  // namespace tidegate
