// A hostile client of tidegate-engine, for measuring what docs/security.md says. Only loopback.
//
//   attack PORT KIND CONNECTIONS SECONDS [PID]
//
// KIND: idle       connect and send nothing
//       reset      Generate, then RST_STREAM, as fast as it goes; a connection cut off comes again
//       unknown    the same with a method that does not exist
//       cancel     Generate, and RST_STREAM once something has come back
//       flood      calls of a method that does not exist, answers unread until the socket is full
//       churn      preface, one call, close; again
//       watch      health watches, as many as a connection may have open
//       large      Generate calls with 200 KiB of a message of 1 MiB
//       half-open  HEADERS of Generate calls whose message never comes
//       unread     Generate calls of one token whose stream has a window of 0
//       ping       PING frames, answers unread
// Prints, each second: connections open, how often one was cut off, calls begun, resident memory of
// PID in MiB, and how long an honest client waited for a health check on a new connection (-1: 2 s
// were too little).
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/http2_frames.h"
#include "base/numbers.h"
#include "base/read_file.h"
#include "tests/support/raw_http2.h"

namespace tidegate {
namespace {

using std::chrono::duration;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr char kGenerate[] = "/tidegate.v1.GenerationService/Generate";
constexpr char kHealth[] = "/grpc.health.v1.Health/Check";
constexpr int kSecondsAfter = 10;  // reported after the attack
constexpr int kCallsPerBatch = 64;
constexpr int kCallsPerConnection = 1000;  // below the server's limit of streams

struct Totals {
  std::atomic<int> open = 0;
  std::atomic<uint64_t> cut = 0, calls = 0;
  std::atomic<bool> stop = false;
};

std::string Message() {
  return std::string("\x0a\x01") + "a" + "\x20\x01";  // text "a", max_tokens 1
}

constexpr char kWatch[] = "/grpc.health.v1.Health/Watch";

// Calls that stay open, up to kCallsPerConnection of them.
std::string OpenCall(const std::string& kind, uint32_t stream) {
  if (kind == "half-open") return GrpcHeaders(stream, kGenerate);
  if (kind == "watch") return GrpcHeaders(stream, kWatch) + GrpcMessage(stream, "");
  if (kind == "unread") return GrpcHeaders(stream, kGenerate) + GrpcMessage(stream, Message());
  std::string call = GrpcHeaders(stream, kGenerate);  // large; no more than the first window allows
  call += RawFrame(Http2Frame::kData, 0, stream, std::string("\0\0\x10\0\0", 5));
  for (int i = 0; i < 3; ++i)
    call += RawFrame(Http2Frame::kData, 0, stream, std::string(16000, 'a'));
  return call;
}

// What a connection sends next; an empty string: nothing more.
std::string NextBatch(const std::string& kind, uint32_t& stream) {
  std::string batch;
  if (kind == "idle") return batch;
  if (kind == "ping") {
    for (int i = 0; i < kCallsPerBatch; ++i) batch += RawFrame(Http2Frame::kPing, 0, 0, "12345678");
    return batch;
  }
  const bool endless = kind == "reset" || kind == "unknown" || kind == "flood" || kind == "cancel";
  const int calls = kind == "churn" ? 1 : kCallsPerBatch;
  for (int i = 0; i < calls; ++i, stream += 2) {
    if (!endless && kind != "churn") {
      if (stream > 2 * kCallsPerConnection) break;
      batch += OpenCall(kind, stream);
      continue;
    }
    const bool generate = kind == "reset" || kind == "cancel";
    batch += GrpcHeaders(stream, generate ? kGenerate : "/no.such.Service/Method");
    batch += GrpcMessage(stream, Message());
    if (kind == "reset" || kind == "unknown") batch += RstStream(stream);
  }
  return batch;
}

void RunConnection(uint16_t port, const std::string& kind, Totals& totals) {
  while (!totals.stop) {
    const UniqueFd fd = ConnectLoopback(port);
    if (!fd.valid()) {
      std::this_thread::sleep_for(milliseconds(20));
      continue;
    }
    ++totals.open;
    uint32_t stream = 1;
    bool alive = kind == "idle" || SendAll(fd.get(), RawPreface(kind == "unread" ? 0 : 65535));
    while (alive && !totals.stop && stream < 0x7fffff00) {
      const uint32_t before = stream;
      const std::string batch = NextBatch(kind, stream);
      alive = SendAll(fd.get(), batch) && (kind == "flood" || DrainInput(fd.get()));
      if (kind == "cancel") {
        pollfd wait = {fd.get(), POLLIN, 0};
        poll(&wait, 1, 100);
        for (uint32_t reset = before; reset < stream; reset += 2) {
          alive = alive && SendAll(fd.get(), RstStream(reset));
        }
      }
      if (kind == "churn") break;
      totals.calls += (stream - before) / 2;
      if (batch.empty()) std::this_thread::sleep_for(milliseconds(20));
    }
    --totals.open;
    if (!alive) ++totals.cut;
  }
}

double ResidentMib(const std::string& pid) {
  std::istringstream file(ReadFile("/proc/" + pid + "/statm", 4096).value_or(""));
  uint64_t size = 0, resident = 0;
  file >> size >> resident;
  return static_cast<double>(resident) * 4096 / (1 << 20);
}

// Milliseconds until an honest client has an answer; -1: none in 2 s.
double HealthMilliseconds(uint16_t port) {
  const auto start = steady_clock::now();
  const UniqueFd fd = ConnectLoopback(port);
  const std::string call = RawPreface() + GrpcHeaders(1, kHealth) + GrpcMessage(1, "");
  if (!fd.valid() || !SendAll(fd.get(), call)) return -1;
  std::string got;
  while (steady_clock::now() < start + std::chrono::seconds(2)) {
    pollfd wait = {fd.get(), POLLIN, 0};
    poll(&wait, 1, 100);
    char buffer[4096];
    const ssize_t bytes = recv(fd.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    if (bytes == 0) return -1;
    if (bytes > 0) got.append(buffer, static_cast<size_t>(bytes));
    if (got.find("grpc-status") != std::string::npos) {
      return duration<double, std::milli>(steady_clock::now() - start).count();
    }
  }
  return -1;
}

int Attack(uint16_t port, const std::string& kind, uint64_t connections, int seconds,
           const std::string& pid) {
  rlimit files = {};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  Totals totals;
  std::vector<std::thread> threads;
  const auto report = [&](int second) {
    std::printf("%3d s: open %d, cut off %llu, calls %llu, resident %.0f MiB, health %.1f ms\n",
                second, totals.open.load(), static_cast<unsigned long long>(totals.cut),
                static_cast<unsigned long long>(totals.calls), pid.empty() ? 0.0 : ResidentMib(pid),
                HealthMilliseconds(port));
    std::fflush(stdout);
  };
  report(0);
  for (uint64_t i = 0; i < connections; ++i) {
    threads.emplace_back([&] { RunConnection(port, kind, totals); });
  }
  const auto start = steady_clock::now();
  for (int second = 1; second <= seconds + kSecondsAfter; ++second) {
    std::this_thread::sleep_until(start + std::chrono::seconds(second));
    if (second >= seconds && !totals.stop) {
      totals.stop = true;
      for (std::thread& thread : threads) thread.join();
    }
    report(second);
    second = static_cast<int>((steady_clock::now() - start) / std::chrono::seconds(1));
  }
  return 0;
}

int Main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: attack PORT KIND CONNECTIONS SECONDS [PID]\n");
    return 1;
  }
  const auto port = ParseInteger(argv[1], {1, 65535});
  const auto connections = ParseInteger(argv[3], {1, 100000});
  const auto seconds = ParseInteger(argv[4], {1, 86400});
  for (const absl::Status& status : {port.status(), connections.status(), seconds.status()}) {
    if (status.ok()) continue;
    std::fprintf(stderr, "attack: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  return Attack(static_cast<uint16_t>(*port), argv[2], *connections, static_cast<int>(*seconds),
                argc > 5 ? argv[5] : "");
}

}  // namespace
}  // namespace tidegate

int main(int argc, char** argv) { return tidegate::Main(argc, argv); }
