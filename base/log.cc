#include "base/log.h"

#include <sys/time.h>

#include <atomic>
#include <cstdio>
#include <ctime>

#include "absl/strings/str_format.h"
#include "base/json_text.h"
#include "base/text.h"

namespace tidegate {
namespace {

constexpr size_t kMaxLogMessageBytes = 4096;
constexpr size_t kMaxFieldBytes = 256;

std::string& LogProgram() {
  static std::string& program = *new std::string("tidegate");
  return program;
}
std::atomic<LogLevel> g_lowest = LogLevel::kInfo;
std::atomic<LogFormat> g_format = LogFormat::kText;

// "2026-12-01T00:04:23.123456Z", with `digits` of the fraction.
std::string LogTime(int digits) {
  timeval now;
  gettimeofday(&now, nullptr);
  tm parts;
  gmtime_r(&now.tv_sec, &parts);
  char stamp[32];
  strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &parts);
  const std::string fraction = absl::StrFormat("%06d", now.tv_usec).substr(0, digits);
  return absl::StrCat(stamp, ".", fraction, "Z");
}

std::string TextLine(const char* level, std::string_view message,
                     std::span<const LogField> fields) {
  std::string line = absl::StrCat(LogTime(3), " ", LogProgram(), " ", level, ": ",
                                  Printable(message, kMaxLogMessageBytes));
  for (const LogField& field : fields) {
    absl::StrAppend(&line, " ", std::string(field.name), "=",
                    Printable(field.value, kMaxFieldBytes));
  }
  return line;
}

std::string JsonLine(const char* level, std::string_view message,
                     std::span<const LogField> fields) {
  std::string line =
      absl::StrCat("{\"ts\":\"", LogTime(6), "\",\"severity\":\"", level,
                   "\",\"program\":", JsonText(LogProgram()),
                   ",\"message\":", JsonText(CutAtCharacter(message, kMaxLogMessageBytes)));
  for (const LogField& field : fields) {
    absl::StrAppend(&line, ",", JsonText(field.name), ":",
                    JsonText(CutAtCharacter(field.value, kMaxFieldBytes)));
  }
  return line + "}";
}

}  // namespace

void InitLog(std::string_view program, LogLevel lowest, LogFormat format) {
  LogProgram() = std::string(program);
  g_lowest = lowest;
  g_format = format;
}

void SetLogLevel(LogLevel lowest) { g_lowest = lowest; }
void SetLogFormat(LogFormat format) { g_format = format; }

void Log(LogLevel level, std::string_view message, std::span<const LogField> fields) {
  if (level < g_lowest) return;
  static constexpr const char* kNames[] = {"debug", "info", "warning", "error"};
  const char* name = kNames[static_cast<int>(level)];
  const std::string line = g_format == LogFormat::kJson ? JsonLine(name, message, fields)
                                                        : TextLine(name, message, fields);
  // One fprintf per line: stdio locks the stream, so lines of several threads do not mix. Whatever
  // a message holds of names and paths, it cannot begin a line of its own.
  std::fprintf(stderr, "%s\n", line.c_str());
}

}  // namespace tidegate
