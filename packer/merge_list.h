// Writes the merges of a vocabulary as pairs of token ids. Owned by one thread.
#pragma once

#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

class MergeList {
 public:
  // `tokenizer` is not owned, has its tokens and keeps them as they are.
  explicit MergeList(store::v1::Tokenizer& tokenizer);

  // Adds the next merge. INVALID_ARGUMENT: one of the texts is no token.
  absl::Status Add(std::string_view left, std::string_view right);
  // The same, written "left right". A space never is the first character of either.
  absl::Status Add(std::string_view merge);

 private:
  store::v1::Tokenizer& tokenizer_;
  absl::flat_hash_map<absl::string_view, uint32_t> ids_;
};

}  // namespace tidegate
