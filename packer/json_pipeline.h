// The parts of a tokenizer.json around its model: normalizer, pre_tokenizer, post_processor. They
// come as trees of typed steps; these functions walk them and write what we support to a tokenizer.
// Stateless, thread-safe.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "absl/status/status.h"
#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

// Members that may be missing or of another type: an empty string, the fallback, null.
std::string JsonText(const nlohmann::json& object, const char* key);
bool JsonFlag(const nlohmann::json& object, const char* key, bool fallback);
const nlohmann::json& JsonMember(const nlohmann::json& object, const char* key);

// Whether a step of this type is anywhere in the tree.
bool HasStep(const nlohmann::json& tree, const std::string& type);

// Each: INVALID_ARGUMENT names a step that would change ids and is not supported. tokenizer.model()
// is set before.
absl::Status TakeNormalizer(const nlohmann::json& tree, store::v1::Tokenizer& tokenizer);
absl::Status TakePreTokenizer(const nlohmann::json& tree, store::v1::Tokenizer& tokenizer);
// Sets BOS and EOS where the post-processor puts one of each around a text.
absl::Status TakePostProcessor(const nlohmann::json& tree, store::v1::Tokenizer& tokenizer);

}  // namespace tidegate
