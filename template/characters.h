// What Python's str knows of characters: where they begin, which are blank, their case.
//
// Strings are UTF-8. A byte that is no continuation byte begins a character, so that nothing here
// fails on bytes that are not UTF-8. Thread-safe: free functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tidegate::jinja {

// The first byte of the character after the one at `at`. REQUIRES: at < text.size().
size_t NextCharacter(std::string_view text, size_t at);
// The first byte of the character that ends at `at`. REQUIRES: 0 < at <= text.size().
size_t PreviousCharacter(std::string_view text, size_t at);
size_t CharacterCount(std::string_view text);

// The code point at `at`; U+FFFD for bytes that are not UTF-8. REQUIRES: at < text.size().
char32_t CodePointAt(std::string_view text, size_t at);
void AppendCodePoint(char32_t code_point, std::string& out);

// As str.isspace() and str.splitlines() see it.
bool IsSpace(char32_t c);
bool IsLineBreak(char32_t c);
bool IsUpper(char32_t c);
bool IsLower(char32_t c);
bool IsAlpha(char32_t c);
bool IsDigit(char32_t c);

// One code point to one; the few that Python maps to several (U+00DF) stay as they are.
char32_t ToUpper(char32_t c);
char32_t ToLower(char32_t c);
std::string LowerCase(std::string_view text);

}  // namespace tidegate::jinja
