// What the methods of str and the filters of the same name have in common. Marks of origin travel
// with the bytes.
//
// Thread-safe: free functions; the Runtime belongs to one rendering.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "template/runtime.h"

namespace tidegate::jinja {

// Argument `index`, or the one called `name`; nullptr if it is not given.
const Value* Argument(const Arguments& arguments, size_t index, std::string_view name);
// The same as an integer, a truth value or a string; `otherwise` if it is not given.
absl::StatusOr<int64_t> IntArgument(Runtime& runtime, const Arguments& arguments, size_t index,
                                    std::string_view name, int64_t otherwise);
bool BoolArgument(const Arguments& arguments, size_t index, std::string_view name, bool otherwise);
// An error if it is no string.
absl::StatusOr<Text> TextArgument(Runtime& runtime, const Arguments& arguments, size_t index,
                                  std::string_view name, std::string_view otherwise);

enum class Side { kLeft, kRight, kBoth };
// `characters`: what to take away; nullptr: blanks.
absl::StatusOr<Text> Strip(Runtime& runtime, const Text& text, const Text* characters, Side side);

enum class Case { kUpper, kLower, kTitle, kCapitalize, kSwap };
// kTitle: as str.title(), a capital after what is no letter. WordTitle: as the filter, after blanks
// and - ( { [ <.
absl::StatusOr<Text> ChangeCase(Runtime& runtime, const Text& text, Case form);
absl::StatusOr<Text> WordTitle(Runtime& runtime, const Text& text);

// `count` < 0: all.
absl::StatusOr<Text> Replace(Runtime& runtime, const Text& text, std::string_view from,
                             const Text& to, int64_t count);

// Pieces between separators; `separator` nullptr: between blanks. At most `limit` cuts if it is not
// negative, counted from the right with `from_right`.
absl::StatusOr<std::vector<Text>> Split(Runtime& runtime, const Text& text, const Text* separator,
                                        int64_t limit, bool from_right);
absl::StatusOr<std::vector<Text>> SplitLines(Runtime& runtime, const Text& text, bool keep_ends);

absl::StatusOr<Value> ToList(Runtime& runtime, std::vector<Text> texts);

}  // namespace tidegate::jinja
