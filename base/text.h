// Text from outside (files, peers, requests, flags) on its way to a log, a terminal, a label or a
// status.
//
// Not here: what model text means (engine/tokenizer/detokenizer), quoting for JSON or HTML.
// Stateless, thread-safe.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace tidegate {

// What an error or a log line shows of one text that it did not write itself.
inline constexpr size_t kShownBytes = 200;

bool IsValidUtf8(std::string_view text);

// The longest beginning of `text` that has at most `max_bytes` bytes and does not end inside a
// UTF-8 character. Bytes that are no UTF-8 count as characters of their own.
std::string_view CutAtCharacter(std::string_view text, size_t max_bytes);

// `text` as one line of valid UTF-8 that no terminal acts upon: line breaks and tabs become \n, \r
// and \t, other control characters (C0, DEL, C1) and what reorders a line (bidirectional controls,
// line and paragraph separators) \u{..}, bytes that are no UTF-8 \x... A backslash stays as it is:
// the result is to be read, not to be parsed. At most `max_bytes` bytes; "..." within them tells
// that something was cut.
std::string Printable(std::string_view text, size_t max_bytes = kShownBytes);

// The same for text of several lines, such as an answer on a terminal or an error with its details:
// line feeds and tabs stay.
std::string PrintableLines(std::string_view text, size_t max_bytes);

// Printable() between single quotes, for the middle of a sentence.
std::string Quoted(std::string_view text, size_t max_bytes = kShownBytes);

}  // namespace tidegate
