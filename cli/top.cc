// `tidegate top`: a running service at a glance, once a second.
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <deque>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/flags.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "cli/client_options.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/terminal_text.h"
#include "cli/top_view.h"
#include "server/config.h"
#include "weightstore/store_config.h"

namespace tidegate {
namespace {

using TopClock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kFetchTimeout{2000};
// "now" is the mean over so many readings: single tokens from flash may take seconds.
constexpr size_t kReadings = 6;

constexpr const char* kTopFooter = R"(
Reads what both programs tell Prometheus. "now" is the mean of the last five readings, "in all"
since the program has been started. q or Ctrl-C ends it. Where the engine has keys, TIDEGATE_KEY
holds one with the scope metrics.

Examples:
  tidegate top
  tidegate top --metrics 10.0.0.7:9464 --store-metrics 10.0.0.7:9465
  tidegate top --once
)";

struct TopOptions {
  std::string engine, store;
  std::chrono::nanoseconds interval = std::chrono::seconds(1);
  bool once = false;
};

TopReading Read(const TopOptions& options) {
  TopReading reading;
  const auto take = [](const std::string& address, const std::string& key,
                       std::optional<ReadMetrics>& metrics, std::string& problem) {
    const absl::StatusOr<std::string> page = FetchMetrics(address, kFetchTimeout, key);
    if (page.ok()) {
      metrics.emplace(*page);
    } else {
      problem = std::string(page.status().message());
    }
  };
  take(options.engine, KeyOfEnvironment(), reading.engine, reading.engine_problem);
  take(options.store, "", reading.store, reading.store_problem);
  reading.time_s = std::chrono::duration<double>(TopClock::now().time_since_epoch()).count();
  return reading;
}

absl::Status CheckAnyAnswer(const TopReading& reading) {
  if (reading.engine || reading.store) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat(reading.engine_problem, "\n", reading.store_problem,
                   "\nis the service running? --metrics and --store-metrics name where"));
}

// The terminal as long as the view is on it. Restore() by anybody.
class TopScreen {
 public:
  TopScreen() {
    if (::tcgetattr(STDIN_FILENO, &before_) == 0) {
      termios raw = before_;
      raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);  // keys come at once; Ctrl-C stays
      has_keys_ = ::tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
    }
    Write("\x1b[?1049h\x1b[?25l");  // the other screen, without the cursor
  }
  ~TopScreen() { Restore(); }
  TopScreen(const TopScreen&) = delete;

  void Restore() {
    if (restored_.exchange(true)) return;
    if (has_keys_) ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
    Write("\x1b[?25h\x1b[?1049l");
  }

  bool has_keys() const { return has_keys_; }

  void Draw(const TopReading* before, const TopReading& now) {
    if (restored_) return;
    winsize size = {};
    ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    const size_t columns = size.ws_col == 0 ? 80 : size.ws_col;
    size_t rows = size.ws_row == 0 ? 24 : size.ws_row;
    std::string screen = "\x1b[H";
    const std::string table = TopTable(before, now, columns);
    for (const absl::string_view line : absl::StrSplit(table, '\n', absl::SkipEmpty())) {
      if (rows-- == 0) break;
      absl::StrAppend(&screen, screen.size() > 3 ? "\r\n" : "", line, "\x1b[K");
    }
    Write(screen + "\x1b[J");
  }

 private:
  static void Write(std::string_view text) {
    while (!text.empty()) {
      const ssize_t written = ::write(STDOUT_FILENO, text.data(), text.size());
      if (written <= 0) return;
      text.remove_prefix(static_cast<size_t>(written));
    }
  }

  termios before_ = {};
  bool has_keys_ = false;
  std::atomic<bool> restored_ = false;
};

// Until `end`; true if q was pressed or `event` is readable.
bool WaitForEnd(bool has_keys, int event, TopClock::time_point end) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - TopClock::now());
    if (left.count() <= 0) return false;
    pollfd ready[] = {{event, POLLIN, 0}, {has_keys ? STDIN_FILENO : -1, POLLIN, 0}};
    if (::poll(ready, 2, static_cast<int>(left.count())) <= 0) continue;
    if (ready[0].revents != 0) return true;
    char key = 0;
    const ssize_t got = ::read(STDIN_FILENO, &key, 1);
    if (got == 1 && (key == 'q' || key == 'Q')) return true;
    if (got <= 0) has_keys = false;  // the input has ended
  }
}

absl::Status ShowOnce(const TopOptions& options) {
  const TopReading before = Read(options);
  RETURN_IF_ERROR(CheckAnyAnswer(before));
  std::this_thread::sleep_for(options.interval);
  const TopReading now = Read(options);
  RETURN_IF_ERROR(CheckAnyAnswer(now));
  constexpr size_t kNoLimit = 1000;
  std::fputs(TopTable(&before, now, kNoLimit).c_str(), stdout);
  return absl::OkStatus();
}

absl::Status ShowTop(const TopOptions& options) {
  if (options.once) return ShowOnce(options);
  if (!OutputIsTerminal()) {
    return absl::FailedPreconditionError("standard output is no terminal; --once prints one table");
  }
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) return absl::UnavailableError("no descriptor is left");
  std::deque<TopReading> readings;
  readings.push_back(Read(options));
  RETURN_IF_ERROR(CheckAnyAnswer(readings.back()));
  TopScreen screen;
  InterruptGuard interrupt([&] {
    screen.Restore();
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(event.get(), &one, sizeof(one));
  });
  while (true) {
    screen.Draw(readings.size() > 1 ? &readings.front() : nullptr, readings.back());
    if (WaitForEnd(screen.has_keys(), event.get(), TopClock::now() + options.interval)) break;
    readings.push_back(Read(options));
    if (readings.size() > kReadings) readings.pop_front();
  }
  return absl::OkStatus();
}

}  // namespace

void AddTopCommand(CLI::App& app, CommandRun& run) {
  auto options = std::make_shared<TopOptions>();
  options->engine = ServerConfig().metrics_listen;
  options->store = StoreConfig().metrics_listen;
  CLI::App& command = AddSubcommand(
      app, "top", "Watch a running service: speed, queue, cache, flash, memory", kTopFooter,
      [options, &run](const CLI::App&) { run = [options] { return ShowTop(*options); }; });
  AddAddressFlag(command, "--metrics", options->engine,
                 "Metrics of tidegate-engine: HOST:PORT or unix:PATH");
  AddAddressFlag(command, "--store-metrics", options->store,
                 "Metrics of tidegate-store: HOST:PORT or unix:PATH");
  AddDurationFlag(command, "--interval", options->interval, "Time between two readings");
  AddSwitch(command, "--once", options->once, "Print one table and exit");
}

}  // namespace tidegate
