#include "base/json_text.h"

#include "absl/strings/str_format.h"
#include "base/utf8.h"

namespace tidegate {
namespace {

// "" where the character stays as it is. REQUIRES: well-formed.
std::string JsonEscape(std::string_view character) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(character[i]); };
  if (character.size() == 1) {
    switch (character[0]) {
      case '"':
        return "\\\"";
      case '\\':
        return "\\\\";
      case '\n':
        return "\\n";
      case '\r':
        return "\\r";
      case '\t':
        return "\\t";
    }
    return byte(0) < 0x20 || byte(0) == 0x7f ? absl::StrFormat("\\u%04x", byte(0)) : "";
  }
  if (byte(0) == 0xc2 && byte(1) < 0xa0) return absl::StrFormat("\\u%04x", byte(1));
  if (character == "\xe2\x80\xa8") return "\\u2028";
  if (character == "\xe2\x80\xa9") return "\\u2029";
  return "";
}

}  // namespace

std::string JsonText(std::string_view text) {
  std::string json = "\"";
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    const std::string_view piece = text.substr(0, step.bytes);
    text.remove_prefix(step.bytes);
    if (step.kind != Utf8Kind::kCharacter) {
      json += kReplacementCharacter;
      continue;
    }
    const std::string escape = JsonEscape(piece);
    json += escape.empty() ? piece : std::string_view(escape);
  }
  json += '"';
  return json;
}

}  // namespace tidegate
