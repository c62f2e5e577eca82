// Opens a Hugging Face folder (config.json, *.safetensors, tokenizer and chat template) as a model
// in GGUF's vocabulary: see ModelParts. F32, F16 and BF16 weights. Stateless, thread-safe.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "packer/source_model.h"

namespace tidegate {

// Errors name the file, and the key or tensor that stands in the way.
absl::StatusOr<ModelParts> ReadHuggingFaceFolder(const std::string& folder);

}  // namespace tidegate
