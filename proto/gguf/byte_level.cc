#include "proto/gguf/byte_level.h"

#include <array>
#include <cstdint>

namespace tidegate {
namespace {

constexpr uint32_t kFirstMoved = 0x100;
constexpr size_t kMoved = 68;

constexpr bool StandsForItself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) ||
         (byte >= 0xae && byte <= 0xff);
}

constexpr std::array<uint8_t, kMoved> MovedBytes() {
  std::array<uint8_t, kMoved> bytes{};
  size_t count = 0;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    if (!StandsForItself(byte)) bytes[count++] = static_cast<uint8_t>(byte);
  }
  return bytes;
}

// The byte of a character, -1 if there is none.
int ByteOf(uint32_t character) {
  static constexpr std::array<uint8_t, kMoved> kMovedBytes = MovedBytes();
  if (character < kFirstMoved) return StandsForItself(character) ? static_cast<int>(character) : -1;
  return character - kFirstMoved < kMoved ? kMovedBytes[character - kFirstMoved] : -1;
}

}  // namespace

std::optional<std::string> BytesOfByteLevel(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    uint32_t character = static_cast<uint8_t>(text[i]);
    if (character >= 0x80) {  // All characters of the alphabet have one or two bytes.
      if (character < 0xc2 || character > 0xdf || i + 1 == text.size()) return std::nullopt;
      const uint32_t next = static_cast<uint8_t>(text[++i]);
      if ((next & 0xc0) != 0x80) return std::nullopt;
      character = (character & 0x1f) << 6 | (next & 0x3f);
    }
    const int byte = ByteOf(character);
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
  }
  return bytes;
}

}  // namespace tidegate
