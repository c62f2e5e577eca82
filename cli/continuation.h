// From a conversation to a text that is to be continued: for models without a chat template. Pure.
#pragma once

#include "tidegate/v1/generation.pb.h"

namespace tidegate {

// Continues the content of the last message, asked for as `chat` asks: every field of ChatRequest
// but the messages goes over into the one of the same name. REQUIRES: there is a message.
v1::GenerateRequest ContinuationOf(const v1::ChatRequest& chat);

}  // namespace tidegate
