// Finds tokens that are taken whole out of a text before anything is merged: user-defined tokens
// everywhere, control tokens where the caller trusts the text. A trie; a look-up reads no more than
// the longest such token, which Add() bounds.
//
// Thread-safe after the last Add().
#pragma once

#include <bitset>
#include <cstdint>
#include <string_view>

#include "absl/container/flat_hash_map.h"

namespace tidegate {

class AddedTokens {
 public:
  // Longer ones would let a text of n bytes cost n times their length. Real ones have below 64.
  static constexpr size_t kMaxBytes = 1024;

  struct Match {
    int32_t id = -1;  // -1: nothing found
    size_t bytes = 0;
  };

  // The first of equal texts stays. REQUIRES: 0 < text.size() <= kMaxBytes.
  void Add(std::string_view text, int32_t id, bool control);

  // The longest token that `text` begins with. Control tokens count only if they end within its
  // first `trusted_bytes` bytes.
  Match Longest(std::string_view text, size_t trusted_bytes) const;

 private:
  struct Node {
    int32_t id = -1;
    bool control = false;
  };

  absl::flat_hash_map<uint64_t, uint32_t> children_;  // node << 8 | byte -> node
  absl::flat_hash_map<uint32_t, Node> ends_;          // nodes where tokens end
  std::bitset<256> first_bytes_;
  uint32_t nodes_ = 1;  // node 0 is the root
};

}  // namespace tidegate
