// Multiple-choice questions for `tidegate eval --choices`: one JSON object per line,
//   {"context": "Tom was hungry. He", "choices": [" ate an apple.", " flew to the moon."],
//   "answer": 0}
// A choice continues the context as it stands: the space between them belongs to one of the two.
// Stateless, thread-safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/tokenizer.h"
#include "measure/evaluation.h"

namespace tidegate {

// At most kMaxQuestions of 2 to 16 choices. Errors name the file and the line.
inline constexpr size_t kMaxQuestions = 100'000;
absl::StatusOr<std::vector<ChoiceQuestion>> ReadChoiceQuestions(const std::string& path,
                                                                const Tokenizer& tokenizer);

}  // namespace tidegate
