// Keys of a model's configuration (GGUF metadata under the architecture's name, config.json) that
// nothing here reads. A key that changes what a model computes must not be passed over: one whose
// name speaks of such things is refused unless its value means "off". What is known to change
// nothing passes; the rest passes too, and is listed for the operator. Stateless; any thread.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "proto/gguf/gguf_parts.h"

namespace tidegate {

// Whether a value means that what its key speaks of is off: false, 0, empty, "none", zeros only, or
// 1 of a factor.
bool MeansOff(std::string_view key, const GgufValue& value);

// INVALID_ARGUMENT names the key and its value, `model` the models that do not have it: "llama".
// An unknown key is added to `ignored`. `key`: without the architecture.
absl::Status JudgeUnreadKey(std::string_view key, const GgufValue& value, std::string_view model,
                            std::vector<std::string>& ignored);
absl::Status JudgeUnreadKey(std::string_view key, const nlohmann::json& value,
                            std::string_view model, std::vector<std::string>& ignored);

}  // namespace tidegate
