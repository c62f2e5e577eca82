// Finds stop strings in text that arrives piece by piece, and holds back what may be the beginning
// of one. Owned by one sequence and used by one
// thread at a time.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tidegate {

class StopMatcher {
 public:
  // Empty strings are ignored. include_match: the matched string stays in the text.
  StopMatcher(std::vector<std::string> strings, bool include_match);

  // Text that can go out now: everything before a match, or everything but a tail that could still
  // become one. After a match nothing more comes out.
  std::string Add(std::string_view text);

  // What was held back, at the end of a stream without a match.
  std::string Finish();

  // The string that matched first in the text (the longest of those that begin there); empty: none.
  const std::string& matched() const { return matched_; }

 private:
  bool FindMatch();
  size_t HeldBytes() const;

  std::vector<std::string> strings_;
  const bool include_match_;
  std::string pending_;
  std::string matched_;
};

}  // namespace tidegate
