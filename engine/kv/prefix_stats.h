// What the prefix cache tells of itself. Plain data; any thread may hold a copy.
#pragma once

#include <cstdint>

namespace tidegate {

// What the prefix cache did since the engine attached (prefix_index.h).
struct PrefixStats {
  uint64_t lookup_tokens = 0;  // of prompts that were looked up
  uint64_t hit_tokens = 0;     // of these, found
  uint64_t evicted_pages = 0;  // given up for memory
  uint32_t pages = 0;          // held now
};

}  // namespace tidegate
