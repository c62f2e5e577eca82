#include "base/progress.h"

#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"

namespace tidegate {
namespace {

constexpr int kBarCells = 24;
constexpr auto kRedrawPeriod = std::chrono::milliseconds(100);

double Fraction(uint64_t done, uint64_t total) {
  return total == 0 ? 1.0 : std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
}

// "1.00 GiB of 2.00 GiB, 512.00 MiB/s, 2.0 s left"; "256 of 512 tokens, 64/s, 4.0 s left".
std::string Amounts(uint64_t done, uint64_t total, double seconds, std::string_view unit) {
  const bool bytes = unit.empty();
  std::string text = bytes ? absl::StrCat(FormatBytes(done), " of ", FormatBytes(total))
                           : absl::StrCat(done, " of ", total, " ", std::string(unit));
  if (done == 0 || seconds <= 0) return text;
  const double rate = static_cast<double>(done) / seconds;
  absl::StrAppend(&text, ", ",
                  bytes ? FormatBytes(static_cast<uint64_t>(rate)) : absl::StrFormat("%.3g", rate),
                  "/s, ");
  if (done >= total) return absl::StrCat(text, FormatSeconds(seconds));
  return absl::StrCat(text, FormatSeconds(static_cast<double>(total - done) / rate), " left");
}

}  // namespace

std::string ProgressBarLine(const std::string& label, uint64_t done, uint64_t total, double seconds,
                            std::string_view unit) {
  const double fraction = Fraction(done, total);
  const auto filled = static_cast<size_t>(fraction * kBarCells);
  return absl::StrFormat("%s [%s%s] %3d %%  %s", label, std::string(filled, '#'),
                         std::string(kBarCells - filled, '.'), static_cast<int>(fraction * 100),
                         Amounts(done, total, seconds, unit));
}

std::string ProgressPlainLine(const std::string& label, uint64_t done, uint64_t total,
                              double seconds, std::string_view unit) {
  return absl::StrFormat("%s: %d %% (%s)", label, static_cast<int>(Fraction(done, total) * 100),
                         Amounts(done, total, seconds, unit));
}

Progress::Progress(std::string label, std::string unit)
    : Progress(std::move(label), stderr, ::isatty(STDERR_FILENO) == 1, std::move(unit)) {}

Progress::Progress(std::string label, std::FILE* out, bool terminal, std::string unit)
    : label_(std::move(label)), unit_(std::move(unit)), out_(out), terminal_(terminal) {}

Progress::~Progress() { Finish(); }

void Progress::Update(uint64_t done, uint64_t total) {
  const Clock::time_point now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - start_).count();
  if (terminal_) {
    if (done < total && now - drawn_ < kRedrawPeriod) return;
    drawn_ = now;
    line_open_ = true;
    // Carriage return, the line, "erase to the end" for what a longer one left behind.
    std::fprintf(out_, "\r%s\x1b[K", ProgressBarLine(label_, done, total, seconds, unit_).c_str());
    std::fflush(out_);
    return;
  }
  const int tenth = static_cast<int>(Fraction(done, total) * 10);
  if (tenth <= last_tenth_) return;
  last_tenth_ = tenth;
  std::fprintf(out_, "%s\n", ProgressPlainLine(label_, done, total, seconds, unit_).c_str());
}

void Progress::Finish() {
  if (line_open_) std::fputc('\n', out_);
  line_open_ = false;
}

}  // namespace tidegate
