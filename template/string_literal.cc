#include "template/string_literal.h"

#include <charconv>

#include "base/status_macros.h"
#include "template/cat.h"
#include "template/characters.h"

namespace tidegate::jinja {
namespace {

// Appends the code point of `digits` hex digits at the front of `rest`.
absl::Status AppendHex(std::string_view rest, size_t digits, std::string& out) {
  uint32_t value = 0;
  const std::string_view hex = rest.substr(0, digits);
  const auto result = std::from_chars(hex.data(), hex.data() + hex.size(), value, 16);
  const bool surrogate = value >= 0xd800 && value < 0xe000;
  if (hex.size() != digits || result.ptr != hex.data() + digits || value > 0x10ffff || surrogate) {
    return absl::InvalidArgumentError(
        Cat("an escape in a string needs ", digits, " hex digits of a code point"));
  }
  AppendCodePoint(value, out);
  return absl::OkStatus();
}

size_t AppendOctal(std::string_view rest, std::string& out) {
  size_t digits = 0;
  char32_t value = 0;
  for (; digits < 3 && digits < rest.size() && rest[digits] >= '0' && rest[digits] <= '7';
       ++digits) {
    value = value * 8 + static_cast<char32_t>(rest[digits] - '0');
  }
  AppendCodePoint(value, out);
  return digits;
}

}  // namespace

absl::StatusOr<std::string> UnescapeString(std::string_view literal) {
  static constexpr std::string_view kLetters = "abfnrtv\\'\"";
  static constexpr std::string_view kMeanings = "\a\b\f\n\r\t\v\\'\"";
  std::string out;
  for (size_t i = 0; i < literal.size(); ++i) {
    if (literal[i] != '\\' || i + 1 == literal.size()) {
      out.push_back(literal[i]);
      continue;
    }
    const char c = literal[++i];
    if (const size_t letter = kLetters.find(c); letter != std::string_view::npos) {
      out.push_back(kMeanings[letter]);
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      RETURN_IF_ERROR(AppendHex(literal.substr(i + 1), digits, out));
      i += digits;
    } else if (c >= '0' && c <= '7') {
      i += AppendOctal(literal.substr(i), out) - 1;
    } else if (c != '\n') {
      out.push_back('\\');
      out.push_back(c);
    }
  }
  return out;
}

}  // namespace tidegate::jinja
