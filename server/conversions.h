// Between the engine's types and the messages of tidegate.v1. Nothing is checked here.
// Thread-safe: free functions.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/engine_options.h"
#include "engine/engine_stats.h"
#include "engine/generation.h"
#include "engine/model_info.h"
#include "tidegate/v1/generation.pb.h"
#include "tidegate/v1/model.pb.h"

namespace tidegate {

// Unset for DECODE_MODE_UNSPECIFIED and for numbers of a later version.
std::optional<DecodeMode> FromProto(v1::DecodeMode mode);
v1::DecodeMode ToProto(DecodeMode mode);
v1::FinishReason ToProto(FinishReason reason);
v1::Finished ToProto(const GenerationResult& result);  // of choice 0
v1::TokenLogprobs ToProto(const TokenLogprobs& logprobs);
v1::PromptProgress ToProto(const PromptProgress& progress);
v1::PruningBounds ToProto(const PruningBounds& bounds);
v1::Model ToProto(const ModelInfo& info, const std::vector<std::string>& aliases,
                  uint32_t context_tokens, const PruningBounds& bounds);

// The first event; density and gamma as they take effect in the request's mode, or by what the
// engine steers.
v1::Started MakeStarted(const std::string& request_id, const std::string& model,
                        const GenerationRequest& request, const SteeringStats& steering);

}  // namespace tidegate
