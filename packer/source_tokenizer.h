// The tokenizer part of GGUF metadata (keys "tokenizer.ggml.*"), also of files without weights.
// Pure.
#pragma once

#include "absl/status/statusor.h"
#include "packer/source_model.h"
#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

// INVALID_ARGUMENT names the key that is missing or not supported.
absl::StatusOr<store::v1::Tokenizer> TokenizerOf(const SourceModel& source);

}  // namespace tidegate
