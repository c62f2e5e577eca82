// The source of a template as tokens, with Jinja's whitespace control as Hugging Face sets it:
// trim_blocks and lstrip_blocks on, one line break at the end of the source dropped. Comments and
// {% raw %} are dealt with here. Source: "Template Designer Documentation" of Jinja.
//
// Thread-safe: a free function.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tidegate::jinja {

inline constexpr size_t kMaxSourceBytes = 1 << 20;

struct Token {
  enum class Kind {
    kData,           // text between tags
    kVariableBegin,  // {{
    kVariableEnd,
    kBlockBegin,  // {%
    kBlockEnd,
    kName,
    kString,  // text without quotes, escapes resolved
    kInteger,
    kFloat,
    kOperator,  // text is the operator
    kEnd,
  };
  Kind kind;
  int line;
  std::string text;
  int64_t integer = 0;
  double number = 0;
};

// Ends with kEnd. INVALID_ARGUMENT "line N: ..." for what is no template, for more than
// kMaxSourceBytes, and for bytes that are not UTF-8.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

// INVALID_ARGUMENT "line N: message".
absl::Status SyntaxError(int line, std::string_view message);

}  // namespace tidegate::jinja
