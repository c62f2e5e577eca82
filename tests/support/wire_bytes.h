// Protobuf bytes made by hand, for what no library writes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tidegate {

inline std::string WireVarint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

// The key in front of a field's value: wire type 0 varint, 1 fixed64, 2 bytes, 3 and 4 group, 5
// fixed32.
inline std::string WireKey(uint32_t number, uint32_t wire_type) {
  return WireVarint(number << 3 | wire_type);
}

// A string, a message or packed numbers.
inline std::string WireField(uint32_t number, std::string_view value) {
  return WireKey(number, 2) + WireVarint(value.size()) + std::string(value);
}

// The first half of a surrogate pair as JavaScript's libraries write it: no UTF-8.
inline constexpr std::string_view kHalfAPair = "\xed\xa0\xbd";

}  // namespace tidegate
