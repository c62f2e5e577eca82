// The tokenizer of a Hugging Face folder: what TokenizerFromGguf() asks where the model is one.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

// From tokenizer.json or tokenizer.model; tokens that end an answer from generation_config.json.
// UNIMPLEMENTED: this build has no reader for them.
absl::StatusOr<store::v1::Tokenizer> TokenizerFromFolder(const std::string& folder);

}  // namespace tidegate
