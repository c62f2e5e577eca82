#include "base/shutdown.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace tidegate {
namespace {

// What the handler works with: no allocation, no lock, only lock-free words and system calls.

constexpr int kSlots = 64;
enum SlotState : int { kFree, kBeingWritten, kRegistered, kTaken };
struct Slot {
  std::atomic<int> state = kFree;
  char path[PATH_MAX];
};
Slot g_slots[kSlots];

std::atomic<bool> g_orderly = false;  // the next signal goes to Wait()
std::atomic<int> g_number = 0;        // of the signal that has gone there
std::atomic<int> g_event = -1;        // eventfd that wakes Wait(); stays open
// The same of HangUpSignal.
std::atomic<bool> g_hangup_waited = false;
std::atomic<int> g_hangup_event = -1;
std::atomic<bool> g_had_terminal = false;
bool g_hangup_ignored = false;  // by the caller of the program; main thread
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

// Files first, so that their folders are empty.
void RemoveRegistered() {
  for (Slot& slot : g_slots) {
    int registered = kRegistered;
    if (slot.state.compare_exchange_strong(registered, kTaken)) ::unlink(slot.path);
  }
  for (Slot& slot : g_slots) {
    if (slot.state == kTaken) ::rmdir(slot.path);
  }
}

void WakeEvent(int event) {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(event, &one, sizeof(one));
}

bool HasTerminal() {
  const int fd = ::open("/dev/tty", O_RDONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  if (fd >= 0) ::close(fd);
  return fd >= 0 || (errno != ENXIO && errno != EIO && errno != ENOENT);
}

void OnSignal(int number) {
  const int saved_errno = errno;
  if (number == SIGHUP) {
    if (!g_hangup_waited || (g_had_terminal && !HasTerminal())) EndBySignal(number);
    WakeEvent(g_hangup_event);
  } else {
    if (!g_orderly.exchange(false)) EndBySignal(number);
    g_number = number;
    WakeEvent(g_event);
  }
  errno = saved_errno;
}

void Handle(int number) {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  sigaddset(&action.sa_mask, SIGTERM);  // one handler at a time on a thread
  sigaddset(&action.sa_mask, SIGINT);
  sigaddset(&action.sa_mask, SIGHUP);
  CHECK(sigaction(number, &action, nullptr) == 0);
}

}  // namespace

// Dies of the signal, as the parent expects it; process 1 does not, and exits as a shell would say.
void EndBySignal(int number) {
  RemoveRegistered();
  signal(number, SIG_DFL);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, number);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  raise(number);
  ::_exit(128 + number);
}

void HandleShutdownSignals() {
  Handle(SIGTERM);
  Handle(SIGINT);
  struct sigaction hangup;
  g_hangup_ignored = sigaction(SIGHUP, nullptr, &hangup) != 0 || hangup.sa_handler == SIG_IGN;
  if (!g_hangup_ignored) Handle(SIGHUP);
}

ShutdownSignal::ShutdownSignal() {
  if (g_event < 0) g_event = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  CHECK(g_event >= 0);
  CHECK(!g_orderly.exchange(true));
}

ShutdownSignal::~ShutdownSignal() { g_orderly = false; }

int ShutdownSignal::Wait() {
  pollfd readable = {g_event, POLLIN, 0};
  while (g_number == 0) ::poll(&readable, 1, -1);
  return g_number;
}

HangUpSignal::HangUpSignal() {
  if (g_hangup_event < 0) g_hangup_event = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  CHECK(g_hangup_event >= 0);
  // Who ignored it (nohup) wants the process to outlive its terminal.
  g_had_terminal = !g_hangup_ignored && HasTerminal();
  CHECK(!g_hangup_waited.exchange(true));
  Handle(SIGHUP);
}

HangUpSignal::~HangUpSignal() {
  if (g_hangup_ignored) signal(SIGHUP, SIG_IGN);
  g_hangup_waited = false;
}

bool HangUpSignal::Wait() {
  pollfd readable = {g_hangup_event, POLLIN, 0};
  uint64_t count = 0;
  while (!stopped_) {
    if (::read(g_hangup_event, &count, sizeof(count)) == sizeof(count)) return !stopped_;
    ::poll(&readable, 1, -1);
  }
  return false;
}

void HangUpSignal::StopWaiting() {
  stopped_ = true;
  WakeEvent(g_hangup_event);
}

RemovedAtEnd::RemovedAtEnd(std::string_view path) {
  if (path.size() >= PATH_MAX) return;
  for (int i = 0; i < kSlots; ++i) {
    int free = kFree;
    if (!g_slots[i].state.compare_exchange_strong(free, kBeingWritten)) continue;
    *std::copy(path.begin(), path.end(), g_slots[i].path) = '\0';
    g_slots[i].state = kRegistered;
    slot_ = i;
    return;
  }
  LogWarning(std::string(path),
             " stays behind if a signal ends this process: too many files are open at once");
}

RemovedAtEnd& RemovedAtEnd::operator=(RemovedAtEnd&& other) noexcept {
  std::swap(slot_, other.slot_);
  return *this;
}

RemovedAtEnd::~RemovedAtEnd() {
  if (slot_ < 0) return;
  int registered = kRegistered;  // Not so where the process is about to end.
  g_slots[slot_].state.compare_exchange_strong(registered, kFree);
}

void EndProcessAt(std::chrono::steady_clock::time_point when, std::string why) {
  std::thread([when, why = std::move(why)] {
    std::this_thread::sleep_until(when);
    RemoveRegistered();
    // What hangs may be the log: nothing of ours waits for it here but this line.
    pollfd writable = {STDERR_FILENO, POLLOUT, 0};
    if (::poll(&writable, 1, 0) == 1) {
      LogError(why, "; ending anyway with exit code ", kHardEndExitCode);
    }
    ::_exit(kHardEndExitCode);
  }).detach();
}

}  // namespace tidegate
