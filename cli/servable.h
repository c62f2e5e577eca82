// Whether an engine would serve what a plan or a pack describes: asked before a long packing, and
// by `tidegate inspect`. Looks at the manifest alone, not at weights. Stateless, thread-safe.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "packer/pack_plan.h"
#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

// Makes the tokenizer as the engine does when it attaches. Errors are those of Tokenizer::Create(),
// and INVALID_ARGUMENT where the embedding has fewer rows than there are tokens.
absl::Status CheckServable(const store::v1::Manifest& manifest);

// Reads the chat template as the engine does at the first chat; OK if there is none. A model whose
// template is wrong still generates, and may be given another: --chat-template.
absl::Status CheckChatTemplate(const store::v1::Manifest& manifest);

// The plan to pack `source`, if an engine would serve the result: what WritePack() would refuse,
// and what the engine, is said before the long work. Errors name the source. A chat template that
// cannot be used is one warning in the log.
absl::StatusOr<PackPlan> ServablePlan(const SourceModel& source, const PackOptions& options);

}  // namespace tidegate
