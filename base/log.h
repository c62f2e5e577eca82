// One line per event on standard error: time, level, program, message; as text or as JSON.
// Thread-safe. Messages never contain prompts, generated text or keys.
//
// A JSON line is {"ts": RFC 3339 with microseconds, "severity": "debug" ... "error", "program",
// "message"} and the line's fields.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace tidegate {

enum class LogLevel { kDebug, kInfo, kWarning, kError };
enum class LogFormat { kText, kJson };

// A fact of a line that programs look for, such as "request_id". Names are ours, values anything.
struct LogField {
  std::string_view name, value;
};

// Name shown in every line, the lowest level printed and the form. Call once, before threads start.
void InitLog(std::string_view program, LogLevel lowest = LogLevel::kInfo,
             LogFormat format = LogFormat::kText);
// From now on; by anybody.
void SetLogLevel(LogLevel lowest);
void SetLogFormat(LogFormat format);

// In text, fields stand behind the message as name=value.
void Log(LogLevel level, std::string_view message, std::span<const LogField> fields = {});

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
