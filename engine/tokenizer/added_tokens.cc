#include "engine/tokenizer/added_tokens.h"

#include "base/check.h"

namespace tidegate {

void AddedTokens::Add(std::string_view text, int32_t id, bool control) {
  CHECK(!text.empty() && text.size() <= kMaxBytes);
  first_bytes_.set(static_cast<uint8_t>(text.front()));
  uint32_t node = 0;
  for (const char c : text) {
    const uint64_t key = uint64_t{node} << 8 | static_cast<uint8_t>(c);
    const auto [found, inserted] = children_.emplace(key, nodes_);
    if (inserted) ++nodes_;
    node = found->second;
  }
  ends_.emplace(node, Node{id, control});
}

AddedTokens::Match AddedTokens::Longest(std::string_view text, size_t trusted_bytes) const {
  Match longest;
  if (text.empty() || !first_bytes_.test(static_cast<uint8_t>(text.front()))) return longest;
  uint32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto child = children_.find(uint64_t{node} << 8 | static_cast<uint8_t>(text[i]));
    if (child == children_.end()) break;
    node = child->second;
    const auto end = ends_.find(node);
    if (end == ends_.end() || (end->second.control && i + 1 > trusted_bytes)) continue;
    longest = {end->second.id, i + 1};
  }
  return longest;
}

}  // namespace tidegate
