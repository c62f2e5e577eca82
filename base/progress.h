// Shows how far a long job is, on standard error: one line redrawn in place on a terminal (bar,
// rate, time left), a plain line about every tenth elsewhere, so that logs stay short. Owned by one
// thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace tidegate {

class Progress {
 public:
  // `label` starts every line, e.g. "packing". `unit` is what Update() counts, e.g. "tokens";
  // empty: bytes.
  explicit Progress(std::string label, std::string unit = "");
  Progress(std::string label, std::FILE* out, bool terminal,
           std::string unit = "");  // `out` is not owned
  ~Progress();                      // Finish()
  Progress(const Progress&) = delete;

  // Cheap; draws at most ten times a second. `total` 0 counts as finished.
  void Update(uint64_t done, uint64_t total);

  // Ends the line on a terminal, so that what follows starts on a new one.
  void Finish();

 private:
  using Clock = std::chrono::steady_clock;

  const std::string label_;
  const std::string unit_;
  std::FILE* const out_;
  const bool terminal_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point drawn_ = {};
  bool line_open_ = false;
  int last_tenth_ = 0;
};

// The two forms of a line, without line ends. `elapsed_seconds` since the start gives rate and time
// left.
std::string ProgressBarLine(const std::string& label, uint64_t done, uint64_t total,
                            double elapsed_seconds, std::string_view unit = "");
std::string ProgressPlainLine(const std::string& label, uint64_t done, uint64_t total,
                              double elapsed_seconds, std::string_view unit = "");

}  // namespace tidegate
