#include "base/text.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/utf8.h"

namespace tidegate {
namespace {

constexpr std::string_view kCut = "...";

// REQUIRES: `character` is one well-formed character.
uint32_t CodePoint(std::string_view character) {
  const auto lead = static_cast<uint8_t>(character[0]);
  if (character.size() == 1) return lead;
  uint32_t code = lead & (0xffu >> (character.size() + 1));
  for (const char byte : character.substr(1))
    code = code << 6 | (static_cast<uint8_t>(byte) & 0x3f);
  return code;
}

// What a terminal or a viewer of logs acts upon instead of showing it. Source: Unicode 15, general
// category Cc, the line and paragraph separators, and the controls of UAX #9 (bidirectional text).
bool IsControl(uint32_t code) {
  return code < 0x20 || (code >= 0x7f && code <= 0x9f) || code == 0x61c ||
         (code >= 0x200e && code <= 0x200f) || (code >= 0x2028 && code <= 0x202e) ||
         (code >= 0x2066 && code <= 0x2069);
}

std::string Escaped(std::string_view piece, Utf8Kind kind) {
  if (kind != Utf8Kind::kCharacter) {
    std::string hex;
    for (const char byte : piece)
      absl::StrAppendFormat(&hex, "\\x%02x", static_cast<uint8_t>(byte));
    return hex;
  }
  const uint32_t code = CodePoint(piece);
  if (code == '\n') return "\\n";
  if (code == '\r') return "\\r";
  if (code == '\t') return "\\t";
  if (IsControl(code)) return absl::StrFormat("\\u{%x}", code);
  return std::string(piece);
}

std::string Shown(std::string_view text, size_t max_bytes, bool lines) {
  std::string shown;
  size_t whole = 0;  // bytes of `shown` that leave room for kCut
  const size_t room = max_bytes - std::min(kCut.size(), max_bytes);
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    const bool stays = lines && (text.front() == '\n' || text.front() == '\t');
    const std::string piece =
        stays ? std::string(1, text.front()) : Escaped(text.substr(0, step.bytes), step.kind);
    if (shown.size() + piece.size() > max_bytes) {
      shown.resize(whole);
      shown.append(kCut.substr(0, max_bytes));
      return shown;
    }
    shown += piece;
    if (shown.size() <= room) whole = shown.size();
    text.remove_prefix(step.bytes);
  }
  return shown;
}

}  // namespace

bool IsValidUtf8(std::string_view text) {
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    if (step.kind != Utf8Kind::kCharacter) return false;
    text.remove_prefix(step.bytes);
  }
  return true;
}

std::string_view CutAtCharacter(std::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  size_t end = 0;
  while (true) {
    const size_t next = end + NextUtf8(text.substr(end)).bytes;
    if (next > max_bytes) return text.substr(0, end);
    end = next;
  }
}

std::string Printable(std::string_view text, size_t max_bytes) {
  return Shown(text, max_bytes, /*lines=*/false);
}

std::string PrintableLines(std::string_view text, size_t max_bytes) {
  return Shown(text, max_bytes, /*lines=*/true);
}

std::string Quoted(std::string_view text, size_t max_bytes) {
  return absl::StrCat("'", Printable(text, max_bytes), "'");
}

}  // namespace tidegate
