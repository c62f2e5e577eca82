// Which pieces a vocabulary can produce by merging, and the merges that it lists. Tables that the
// text models share.
//
// Thread-safe after creation.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/tokenizer/pair_merger.h"
#include "engine/tokenizer/vocabulary.h"
#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

// Longer pieces are never produced: hashing them would let a vocabulary make texts slow. Real ones
// stay below 512.
inline constexpr size_t kMaxPieceBytes = 4096;

// By text; what `rank` means is the text model's.
using PieceTable = absl::flat_hash_map<absl::string_view, PairMerge>;

inline absl::string_view PieceKey(std::string_view text) { return {text.data(), text.size()}; }

class MergeTable {
 public:
  // The merges of `data`, ranks in their order; of equal ones the first. Those whose outcome is not
  // in `pieces` are left out. INVALID_ARGUMENT: an id outside the vocabulary.
  static absl::StatusOr<MergeTable> Create(const store::v1::Tokenizer& data,
                                           const Vocabulary& vocabulary, const PieceTable& pieces);

  // Null if the two do not merge. Ids may be kNoToken.
  const PairMerge* Find(int32_t left, int32_t right) const {
    if (left < 0 || right < 0) return nullptr;
    const auto found = merges_.find(Key(left, right));
    return found == merges_.end() ? nullptr : &found->second;
  }

 private:
  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  }

  absl::flat_hash_map<uint64_t, PairMerge> merges_;
};

}  // namespace tidegate
