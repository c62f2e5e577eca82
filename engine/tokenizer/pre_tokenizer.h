// Cuts a text into words, within which alone byte pairs are merged, by the regular expressions of a
// vocabulary (store.v1.SplitStep). Expressions are PCRE2 with UTF and UCP, compiled once. What is
// not UTF-8 becomes a word of its own and reaches no expression.
//
// Patterns may come from a file: compiling is bounded by PCRE2's own limits, matching by match and
// heap limits; where a pattern runs into them, the rest of its piece stays in one.
//
// Thread-safe after Create().
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

class PreTokenizer {
 public:
  // INVALID_ARGUMENT: a pattern that PCRE2 refuses (with its reason and place), too many or too
  // long patterns, an unknown way to cut. Without steps, texts are not cut.
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> Create(const store::v1::Tokenizer& data);
  ~PreTokenizer();

  // Calls `put` for each word of `text` in order; words point into it. The words together are the
  // text, except what a step removes. Memory O(1).
  void Split(std::string_view text, absl::FunctionRef<void(std::string_view)> put) const;

 private:
  struct Step;
  class Pass;
  PreTokenizer();

  std::vector<Step> steps_;
};

}  // namespace tidegate
