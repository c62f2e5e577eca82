// Texts as JSON, for programs that write a line or two of it. Documents are nlohmann-json's
// business. Pure.
#pragma once

#include <string>
#include <string_view>

namespace tidegate {

// `text` as a JSON string, quotes included: control characters and what ends a line in some reader
// (U+2028, U+2029, DEL, C1) are escaped, and each piece that is no UTF-8 becomes one U+FFFD.
std::string JsonText(std::string_view text);

}  // namespace tidegate
