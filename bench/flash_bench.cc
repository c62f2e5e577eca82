// Random reads of one file through every flash backend: gigabytes per second, reads per second and
// latency by request size and queue depth. A plain table, to set beside fio:
//
//   fio --name=x --filename=FILE --rw=randread --direct=1 --ioengine=io_uring --bs=16k --iodepth=32
//
//   TIDEGATE_BENCH_FILE      the file to read, at least 64 MiB; unset: 1 GiB is made under $TMPDIR
//   TIDEGATE_BENCH_SECONDS   time for each cell, 1 unless set
//   TIDEGATE_BENCH_BACKENDS  comma-separated, of io_uring, pread, modelled; all unless set
//   TIDEGATE_BENCH_HUGE      0: ordinary pages behind the target memory instead of huge ones
//
// Reads are random, aligned to their own size, and land in one registered buffer; the loop waits in
// poll(2) when nothing has completed, as a store with nothing else to do does.
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "weightstore/io/flash_device.h"

namespace tidegate {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kSizes[] = {4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20};
constexpr uint32_t kDepths[] = {1, 32, 128};
constexpr char kModel[] = "bandwidth=1GB/s,latency=80us,iops=200k";
constexpr uint64_t kSmallestFile = 64 * kMiB;

std::string Setting(const char* name, const char* fallback) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : fallback;
}

// Removes the file that MakeFile() made; a file of the user's stays.
struct BenchFile {
  std::string path;
  bool ours = false;
  uint64_t bytes = 0;

  BenchFile() = default;
  BenchFile(const BenchFile&) = delete;
  BenchFile& operator=(const BenchFile&) = delete;
  ~BenchFile() {
    if (ours) ::unlink(path.c_str());
  }
};

// Random bytes, so that no layer below compresses or skips them, and on the drive, not in a cache.
absl::Status MakeFile(BenchFile& file) {
  file.path = Setting("TMPDIR", "/tmp") + "/tidegate_flash_bench_XXXXXX";
  UniqueFd fd(::mkstemp(file.path.data()));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("mkstemp ", file.path));
  file.ours = true;
  file.bytes = kGiB;
  std::vector<uint64_t> chunk(kMiB / sizeof(uint64_t));
  std::mt19937_64 random(1);
  for (uint64_t offset = 0; offset < file.bytes; offset += kMiB) {
    for (uint64_t& word : chunk) word = random();
    RETURN_IF_ERROR(WriteAt(fd.get(), offset, chunk.data(), kMiB));
  }
  if (::fsync(fd.get()) != 0) return absl::ErrnoToStatus(errno, "fsync");
  return absl::OkStatus();
}

absl::Status FindFile(BenchFile& file) {
  file.path = Setting("TIDEGATE_BENCH_FILE", "");
  if (file.path.empty()) return MakeFile(file);
  ASSIGN_OR_RETURN(const UniqueFd fd, UniqueFd::Open(file.path, O_RDONLY));
  ASSIGN_OR_RETURN(file.bytes, FileSize(fd.get()));
  if (file.bytes >= kSmallestFile) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(file.path, " has ", FormatBytes(file.bytes),
                                                 "; TIDEGATE_BENCH_FILE needs at least ",
                                                 FormatBytes(kSmallestFile)));
}

// The modelled device reads through the page cache, and its times hold only while the file is
// there.
absl::Status WarmPageCache(const BenchFile& file) {
  ASSIGN_OR_RETURN(const UniqueFd fd, UniqueFd::Open(file.path, O_RDONLY));
  std::vector<char> chunk(kMiB);
  for (uint64_t offset = 0; offset + kMiB <= file.bytes; offset += kMiB) {
    RETURN_IF_ERROR(ReadAt(fd.get(), offset, chunk.data(), kMiB));
  }
  return absl::OkStatus();
}

struct Cell {
  uint64_t reads = 0;
  double seconds = 0;
  double mean_latency_us = 0;
};

// Keeps `depth` reads of `bytes` out for `seconds`.
absl::StatusOr<Cell> Measure(FlashDevice& device, std::byte* buffer, uint64_t file_bytes,
                             uint32_t bytes, uint32_t depth, double seconds) {
  std::mt19937_64 random(bytes + depth);
  const uint64_t positions = file_bytes / bytes;
  std::vector<FlashCompletion> done;
  const auto enqueue = [&](uint64_t slot) {
    const FlashSegment segment{buffer + slot * bytes, bytes};
    device.Enqueue({random() % positions * bytes, {&segment, 1}, slot});
  };
  for (uint64_t slot = 0; slot < depth; ++slot) enqueue(slot);
  RETURN_IF_ERROR(device.Submit());
  Cell cell;
  double latency = 0;
  const auto begin = Clock::now();
  while (device.in_flight() > 0) {
    done.clear();
    device.Reap(done);
    if (done.empty()) {
      pollfd wait{device.event_fd(), POLLIN, 0};
      ::poll(&wait, 1, -1);
      continue;
    }
    cell.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    for (const FlashCompletion& completion : done) {
      RETURN_IF_ERROR(completion.status);
      ++cell.reads;
      latency += std::chrono::duration<double, std::micro>(completion.latency).count();
      if (cell.seconds < seconds) enqueue(completion.tag);
    }
    RETURN_IF_ERROR(device.Submit());
  }
  cell.mean_latency_us = latency / static_cast<double>(cell.reads);
  return cell;
}

absl::Status MeasureBackend(const BenchFile& file, const std::string& backend,
                            std::span<std::byte> buffer, double seconds) {
  FlashOptions options;
  options.path = file.path;
  options.queue_depth = std::end(kDepths)[-1];
  options.buffer = buffer;
  if (backend == "modelled") {
    ASSIGN_OR_RETURN(options.model, ParseFlashModel(kModel));
    RETURN_IF_ERROR(WarmPageCache(file));
  } else {
    options.backend = backend;
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<FlashDevice> device, OpenFlashDevice(options));
  std::printf("\n%s: %s%s\n", device->info().backend.c_str(), device->info().reason.c_str(),
              device->info().direct ? ", O_DIRECT" : ", page cache");
  std::printf("%10s %6s %10s %10s %12s\n", "size", "depth", "GB/s", "reads/s", "latency us");
  for (const uint32_t bytes : kSizes) {
    for (const uint32_t depth : kDepths) {
      ASSIGN_OR_RETURN(const Cell cell,
                       Measure(*device, buffer.data(), file.bytes, bytes, depth, seconds));
      const double rate = static_cast<double>(cell.reads) / cell.seconds;
      std::printf("%10s %6u %10.3f %10.0f %12.1f\n", FormatBytes(bytes).c_str(), depth,
                  rate * bytes / 1e9, rate, cell.mean_latency_us);
      std::fflush(stdout);
    }
  }
  return absl::OkStatus();
}

absl::Status Run() {
  BenchFile file;
  RETURN_IF_ERROR(FindFile(file));
  double seconds = 0;
  const std::string text = Setting("TIDEGATE_BENCH_SECONDS", "1");
  if (!absl::SimpleAtod(text, &seconds) || !(seconds > 0 && seconds <= 3600)) {
    return absl::InvalidArgumentError(
        absl::StrCat("TIDEGATE_BENCH_SECONDS '", text, "' is not in (0, 3600]"));
  }
  const size_t bytes = size_t{std::end(kSizes)[-1]} * std::end(kDepths)[-1];
  // Huge pages: a drive that takes few segments for each request gets fewer, larger ones.
  const std::unique_ptr<void, decltype(&std::free)> memory(std::aligned_alloc(2 * kMiB, bytes),
                                                           &std::free);
  if (memory == nullptr) return absl::ResourceExhaustedError("no memory for the read targets");
  const bool wanted = Setting("TIDEGATE_BENCH_HUGE", "1") != "0";
  const bool huge = wanted && ::madvise(memory.get(), bytes, MADV_HUGEPAGE) == 0;
  if (!huge) ::madvise(memory.get(), bytes, MADV_NOHUGEPAGE);  // fails where there are none anyway
  std::printf("%s, %s, %.1f s for each row, %s pages\n", file.path.c_str(),
              FormatBytes(file.bytes).c_str(), seconds, huge ? "huge" : "ordinary");
  const std::vector<std::string> backends =
      absl::StrSplit(Setting("TIDEGATE_BENCH_BACKENDS", "io_uring,pread,modelled"), ',');
  for (const std::string& backend : backends) {
    RETURN_IF_ERROR(
        MeasureBackend(file, backend, {static_cast<std::byte*>(memory.get()), bytes}, seconds));
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace tidegate

int main() {
  const absl::Status status = tidegate::Run();
  if (status.ok()) return 0;
  std::fprintf(stderr, "flash_bench: %s\n", status.ToString().c_str());
  return 1;
}
