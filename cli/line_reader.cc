#include "cli/line_reader.h"

#include <unistd.h>

#include <cerrno>

#include "base/text.h"

namespace tidegate {
namespace {

// A line that is longer is cut there; the server takes 1 MiB.
constexpr size_t kMaxLineBytes = 1 << 20;

void Ignore(int) {}

}  // namespace

LineReader::LineReader(int fd) : fd_(fd) {
  struct sigaction action = {};
  action.sa_handler = Ignore;  // without SA_RESTART: read() comes back with EINTR
  sigaction(SIGINT, &action, &previous_);
}

LineReader::~LineReader() { sigaction(SIGINT, &previous_, nullptr); }

LineReader::Event LineReader::Next(std::string& line) {
  for (;;) {
    const size_t end = buffer_.find('\n');
    if (end != std::string::npos || buffer_.size() >= kMaxLineBytes ||
        (ended_ && !buffer_.empty())) {
      line = CutAtCharacter(std::string_view(buffer_).substr(0, end), kMaxLineBytes);
      const bool whole = line.size() == end;
      buffer_.erase(0, line.size() + (whole ? 1 : 0));
      return Event::kLine;
    }
    if (ended_) return Event::kEnd;
    char bytes[4096];
    const ssize_t n = ::read(fd_, bytes, sizeof(bytes));
    if (n < 0 && errno == EINTR) {
      buffer_.clear();
      return Event::kInterrupt;
    }
    if (n <= 0) {
      ended_ = true;
    } else {
      buffer_.append(bytes, static_cast<size_t>(n));
    }
  }
}

}  // namespace tidegate
