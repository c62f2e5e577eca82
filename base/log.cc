#include "base/log.h"

#include <sys/time.h>

#include <cstdio>
#include <ctime>

#include "base/text.h"

namespace tidegate {
namespace {

constexpr size_t kMaxMessageBytes = 4096;

std::string& Program() {
  static std::string& program = *new std::string("tidegate");
  return program;
}
LogLevel g_lowest = LogLevel::kInfo;

}  // namespace

void InitLog(std::string_view program, LogLevel lowest) {
  Program() = std::string(program);
  g_lowest = lowest;
}

void Log(LogLevel level, std::string_view message) {
  if (level < g_lowest) return;
  timeval now;
  gettimeofday(&now, nullptr);
  tm parts;
  gmtime_r(&now.tv_sec, &parts);
  char stamp[32];
  strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &parts);
  static constexpr const char* kNames[] = {"debug", "info", "warning", "error"};
  // One fprintf per line: stdio locks the stream, so lines of several threads do not mix. Whatever
  // a message holds of names and paths, it cannot begin a line of its own.
  std::fprintf(stderr, "%s.%03dZ %s %s: %s\n", stamp, static_cast<int>(now.tv_usec / 1000),
               Program().c_str(), kNames[static_cast<int>(level)],
               Printable(message, kMaxMessageBytes).c_str());
}

}  // namespace tidegate
