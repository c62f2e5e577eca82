// The alphabet of byte-level vocabularies: every byte is written as one printable character, so
// that tokens are readable text. Printable Latin-1 bytes stand for themselves; the other 68 are
// U+0100 to U+0143 in order, the space being U+0120. Source: Radford et al., GPT-2, encoder.py.
//
// Stateless, thread-safe.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tidegate {

// The bytes that `text` stands for; nullopt if a character is not of the alphabet.
std::optional<std::string> BytesOfByteLevel(std::string_view text);

}  // namespace tidegate
