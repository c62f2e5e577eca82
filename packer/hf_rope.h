// The part of a config.json that says how positions turn heads: rope_theta, partial_rotary_factor,
// rope_scaling (older files) or rope_parameters (newer ones) become GGUF metadata and the tensors
// of factors. Every key of the two objects is used or refused by name. Formulas: Llama 3's and
// Phi-3's factors are those of the models' authors, YaRN's magnitude that of the transformers
// library. Stateless; any thread.
#pragma once

#include "absl/status/status.h"
#include "packer/hf_config.h"
#include "packer/json_object.h"

namespace tidegate {

// Adds to metadata and tensors of `out`, whose family and head_rows are set.
absl::Status TranslateRope(const JsonObject& json, HfConfig& out);

}  // namespace tidegate
