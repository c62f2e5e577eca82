// absl::StrCat() for std::string_view as well: the packaged Abseil has its own string_view. Pure.
#pragma once

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace tidegate::jinja {

template <typename T>
const T& ForAbseil(const T& value) {
  return value;
}
inline absl::string_view ForAbseil(const std::string_view& text) {
  return {text.data(), text.size()};
}

template <typename... Parts>
std::string Cat(const Parts&... parts) {
  return absl::StrCat(ForAbseil(parts)...);
}

}  // namespace tidegate::jinja
