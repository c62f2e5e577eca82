#include "template/characters.h"

#include <locale.h>
#include <wctype.h>

namespace tidegate::jinja {
namespace {

bool IsContinuation(char byte) { return (static_cast<uint8_t>(byte) & 0xc0) == 0x80; }

// The C library's tables of Unicode, whatever the process's own locale; ASCII where it has none.
locale_t Unicode() {
  static const locale_t locale = [] {
    const locale_t found = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
    return found != nullptr ? found : newlocale(LC_CTYPE_MASK, "C", nullptr);
  }();
  return locale;
}

wint_t Wide(char32_t c) { return static_cast<wint_t>(c); }

}  // namespace

size_t NextCharacter(std::string_view text, size_t at) {
  do ++at;
  while (at < text.size() && IsContinuation(text[at]));
  return at;
}

size_t PreviousCharacter(std::string_view text, size_t at) {
  do --at;
  while (at > 0 && IsContinuation(text[at]));
  return at;
}

size_t CharacterCount(std::string_view text) {
  size_t count = 0;
  for (size_t at = 0; at < text.size(); ++at) count += at == 0 || !IsContinuation(text[at]);
  return count;
}

char32_t CodePointAt(std::string_view text, size_t at) {
  constexpr char32_t kReplacement = 0xfffd;
  const uint8_t lead = static_cast<uint8_t>(text[at]);
  if (lead < 0x80) return lead;
  const size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || NextCharacter(text, at) - at != bytes) return kReplacement;
  char32_t c = lead & (0xff >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) c = c << 6 | (static_cast<uint8_t>(text[at + i]) & 0x3f);
  return c;
}

void AppendCodePoint(char32_t c, std::string& out) {
  const auto tail = [&](int shift) {
    out.push_back(static_cast<char>(0x80 | (c >> shift & 0x3f)));
  };
  if (c < 0x80) {
    out.push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out.push_back(static_cast<char>(0xc0 | c >> 6));
    tail(0);
  } else if (c < 0x10000) {
    out.push_back(static_cast<char>(0xe0 | c >> 12));
    tail(6);
    tail(0);
  } else {
    out.push_back(static_cast<char>(0xf0 | (c >> 18 & 7)));
    tail(12);
    tail(6);
    tail(0);
  }
}

bool IsSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
         c == 0x205f || c == 0x3000;
}

bool IsLineBreak(char32_t c) {
  return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

bool IsUpper(char32_t c) { return iswupper_l(Wide(c), Unicode()) != 0; }
bool IsLower(char32_t c) { return iswlower_l(Wide(c), Unicode()) != 0; }
bool IsDigit(char32_t c) { return c >= '0' && c <= '9'; }
bool IsAlpha(char32_t c) { return !IsDigit(c) && iswalpha_l(Wide(c), Unicode()) != 0; }
char32_t ToUpper(char32_t c) { return static_cast<char32_t>(towupper_l(Wide(c), Unicode())); }
char32_t ToLower(char32_t c) { return static_cast<char32_t>(towlower_l(Wide(c), Unicode())); }

std::string LowerCase(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size(); at = NextCharacter(text, at)) {
    AppendCodePoint(ToLower(CodePointAt(text, at)), out);
  }
  return out;
}

}  // namespace tidegate::jinja
