#include "engine/stop_matcher.h"

#include <algorithm>

namespace tidegate {

StopMatcher::StopMatcher(std::vector<std::string> strings, bool include_match)
    : strings_(std::move(strings)), include_match_(include_match) {
  std::erase(strings_, "");
}

// On a match cuts pending_ to the text that goes out and sets matched_.
bool StopMatcher::FindMatch() {
  size_t begin = std::string::npos;
  for (const std::string& stop : strings_) {
    const size_t at = pending_.find(stop);
    if (at == std::string::npos) continue;
    if (at < begin || (at == begin && stop.size() > matched_.size())) {
      begin = at;
      matched_ = stop;
    }
  }
  if (begin == std::string::npos) return false;
  pending_.resize(begin + (include_match_ ? matched_.size() : 0));
  return true;
}

// Length of the longest tail of pending_ that is a beginning of a stop string.
size_t StopMatcher::HeldBytes() const {
  size_t held = 0;
  for (const std::string& stop : strings_) {
    for (size_t n = std::min(stop.size() - 1, pending_.size()); n > held; --n) {
      if (pending_.compare(pending_.size() - n, n, stop, 0, n) == 0) {
        held = n;
        break;
      }
    }
  }
  return held;
}

std::string StopMatcher::Add(std::string_view text) {
  if (!matched_.empty()) return "";
  pending_.append(text);
  const size_t ready = FindMatch() ? pending_.size() : pending_.size() - HeldBytes();
  std::string out = pending_.substr(0, ready);
  pending_.erase(0, ready);
  return out;
}

std::string StopMatcher::Finish() {
  std::string out = matched_.empty() ? pending_ : "";
  pending_.clear();
  return out;
}

}  // namespace tidegate
