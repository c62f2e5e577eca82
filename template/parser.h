// From tokens to a tree. Statements here, expressions in expression_parser.h.
//
// Nesting is bounded (kMaxNesting blocks, kMaxHeight of an expression), so that neither the parser
// nor those who walk the tree can run out of stack. Thread-safe: a free function.
#pragma once

#include "absl/status/statusor.h"
#include "template/ast.h"

namespace tidegate::jinja {

inline constexpr int kMaxNesting = 60;
inline constexpr int kMaxHeight = 150;

// INVALID_ARGUMENT "line N: ..." names what was found and what was expected.
absl::StatusOr<Block> ParseTemplate(std::string_view source);

}  // namespace tidegate::jinja
