// How fast this machine reads memory, with 1, 2, 4, ... threads: the roof over every kernel that
// walks weights. One JSON object on standard output, gigabytes per second, the best of several
// passes:
//
//   machine_bench            {"read_gb_per_s": {"1": 25.9, "2": 30.2}}
//
//   TIDEGATE_BENCH_MIB       size of the memory that is read, 1024 unless set: far above the caches
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/numbers.h"
#include "base/units.h"

namespace tidegate {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPasses = 7;

// Eight independent sums: additions never wait for each other, only for memory.
uint64_t Sum(std::span<const uint64_t> words) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= words.size(); i += 8) {
    for (size_t lane = 0; lane < 8; ++lane) sums[lane] += words[i + lane];
  }
  uint64_t all = 0;
  for (const uint64_t sum : sums) all += sum;
  return all;
}

// Bytes per second of one pass over `words`, each thread reading its own part.
double Pass(std::span<const uint64_t> words, size_t threads, uint64_t& sum) {
  const size_t part = words.size() / threads;
  std::vector<std::thread> workers;
  std::vector<uint64_t> sums(threads);
  const auto begin = Clock::now();
  for (size_t t = 0; t < threads; ++t) {
    workers.emplace_back([&, t] { sums[t] = Sum(words.subspan(t * part, part)); });
  }
  for (std::thread& worker : workers) worker.join();
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  for (const uint64_t one : sums) sum += one;
  return static_cast<double>(part * threads * sizeof(uint64_t)) / seconds;
}

int Run() {
  const char* setting = std::getenv("TIDEGATE_BENCH_MIB");
  const auto mib = ParseInteger(setting != nullptr ? setting : "1024", {1, 65536});
  if (!mib.ok()) {
    std::fprintf(stderr, "machine_bench: TIDEGATE_BENCH_MIB: %s\n",
                 std::string(mib.status().message()).c_str());
    return 1;
  }
  const size_t bytes = *mib * kMiB;
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    std::fprintf(stderr, "machine_bench: no memory for %s; set TIDEGATE_BENCH_MIB\n",
                 FormatBytes(bytes).c_str());
    return 1;
  }
  std::memset(memory, 1, bytes);  // Untouched pages are all the same zero page.
  const std::span<const uint64_t> words(static_cast<const uint64_t*>(memory),
                                        bytes / sizeof(uint64_t));
  const size_t cores = std::max(1u, std::thread::hardware_concurrency());
  uint64_t sum = 0;
  std::string text;
  // 1, 2, 4, ... and all cores.
  for (size_t threads = 1; threads <= cores;
       threads = threads < cores ? std::min(2 * threads, cores) : cores + 1) {
    double best = 0;
    for (int pass = 0; pass < kPasses; ++pass) best = std::max(best, Pass(words, threads, sum));
    char entry[64];
    std::snprintf(entry, sizeof(entry), "%s\"%zu\": %.2f", text.empty() ? "" : ", ", threads,
                  best / 1e9);
    text += entry;
  }
  ::munmap(memory, bytes);
  // The sum is compared so that the reads cannot be left out.
  if (sum == 0) return 1;
  std::printf("{\"read_gb_per_s\": {%s}}\n", text.c_str());
  return 0;
}

}  // namespace
}  // namespace tidegate

int main() { return tidegate::Run(); }
