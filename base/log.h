// One line per event on standard error: time, level, program, message. Thread-safe.
// Messages never contain prompts, generated text or keys.
#pragma once

#include <string>
#include <string_view>

namespace tidegate {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Name shown in every line and the lowest level printed. Call once, before threads start.
void InitLog(std::string_view program, LogLevel lowest = LogLevel::kInfo);

void Log(LogLevel level, std::string_view message);

template <typename... Parts>
void LogInfo(const Parts&... parts);
template <typename... Parts>
void LogWarning(const Parts&... parts);
template <typename... Parts>
void LogError(const Parts&... parts);

}  // namespace tidegate

#include "absl/strings/str_cat.h"

namespace tidegate {

template <typename... Parts>
void LogInfo(const Parts&... parts) {
  Log(LogLevel::kInfo, absl::StrCat(parts...));
}
template <typename... Parts>
void LogWarning(const Parts&... parts) {
  Log(LogLevel::kWarning, absl::StrCat(parts...));
}
template <typename... Parts>
void LogError(const Parts&... parts) {
  Log(LogLevel::kError, absl::StrCat(parts...));
}

}  // namespace tidegate
