// Names in manifests. They come from files that anybody may have made, and go into logs, labels of
// metrics and answers of servers: whoever parses a manifest bounds them first. Pure.
#pragma once

#include <cstddef>

#include "proto/store/v1/manifest.pb.h"
#include "proto/store/v1/profile.pb.h"

namespace tidegate {

// Of a model's name, and of every other name here.
inline constexpr size_t kMaxModelNameBytes = 256;

// Makes every name that is shown one line of valid UTF-8 of at most kMaxModelNameBytes. Names that
// the packer wrote stay as they are. Tensors keep theirs: they are looked up by them.
void BoundNames(store::v1::Manifest& manifest);
void BoundNames(store::v1::Profile& profile);

}  // namespace tidegate
