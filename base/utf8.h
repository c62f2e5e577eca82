// Steps through bytes that should be UTF-8 but may be anything. Stateless, thread-safe.
// Source: Unicode 15, table 3-7 (well-formed sequences) and section 3.9 (maximal subparts).
#pragma once

#include <cstddef>
#include <string_view>

namespace tidegate {

enum class Utf8Kind {
  kCharacter,   // `bytes` bytes are one character
  kInvalid,     // `bytes` bytes can never become one, whatever follows; one U+FFFD stands for them
  kIncomplete,  // the text ends within a character that further bytes may complete
};

struct Utf8Step {
  Utf8Kind kind = Utf8Kind::kCharacter;
  size_t bytes = 0;  // at least 1
};

// What `text` begins with. REQUIRES: text is not empty.
Utf8Step NextUtf8(std::string_view text);

// U+FFFD.
inline constexpr std::string_view kReplacementCharacter = "\xef\xbf\xbd";

}  // namespace tidegate
