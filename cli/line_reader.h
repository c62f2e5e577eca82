// Lines from a terminal or a pipe, where Ctrl-C at the prompt is an event and not the end of the
// program. One thread; at most one at a time, because the handler of SIGINT is the process's.
#pragma once

#include <signal.h>

#include <string>

namespace tidegate {

class LineReader {
 public:
  enum class Event { kLine, kEnd, kInterrupt };

  // Reads from `fd`, not owned. Takes SIGINT over until it is destroyed.
  explicit LineReader(int fd);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // Waits for the next line, without its line break. kEnd: end of file (Ctrl-D) or an error of
  // reading. kInterrupt: Ctrl-C while it waited; what was typed on the line is dropped.
  Event Next(std::string& line);

 private:
  const int fd_;
  std::string buffer_;
  bool ended_ = false;
  struct sigaction previous_;
};

}  // namespace tidegate
