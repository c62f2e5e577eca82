// Random reads of one file through every flash backend, with fio beside them: gigabytes per second
// by request size and queue depth, medians of interleaved rounds, because a drive that others share
// changes from second to second.
//
//   TIDEGATE_BENCH_FILE      the file to read, at least 64 MiB; unset: 1 GiB is made under $TMPDIR
//   TIDEGATE_BENCH_SECONDS   time for each cell of a round, 0.5 unless set
//   TIDEGATE_BENCH_ROUNDS    3 unless set
//   TIDEGATE_BENCH_SIZES     comma-separated; 4KiB,8KiB,16KiB,32KiB,128KiB,1MiB unless set
//   TIDEGATE_BENCH_DEPTHS    comma-separated; 32,128 unless set
//   TIDEGATE_BENCH_COLUMNS   comma-separated, of io_uring, small (io_uring, ordinary pages), pread,
//                            modelled, fio; io_uring,small,fio unless set
//
// Reads are random, aligned to their own size, and land in one registered buffer of huge pages, as
// a store's region is; the loop waits in poll(2) when nothing has completed, as a store with
// nothing else to do does. `cpu` is the processor time that the first column takes per gigabyte.
// fio runs with the same settings: direct, registered file, fixed buffers.
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
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
#include "base/numbers.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "weightstore/io/flash_device.h"

namespace tidegate {
namespace {

using Clock = std::chrono::steady_clock;

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
  uint64_t bytes = 0;
  double seconds = 0;
  double cpu_seconds = 0;
};

double CpuSeconds() {
  rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Keeps `depth` reads of `bytes` out for `seconds`.
absl::StatusOr<Cell> Measure(FlashDevice& device, std::byte* buffer, uint64_t file_bytes,
                             uint32_t bytes, uint32_t depth, double seconds) {
  std::random_device entropy;  // Other places every time: a cache below the drive keeps the last.
  std::mt19937_64 random(entropy());
  const uint64_t positions = file_bytes / bytes;
  std::vector<FlashCompletion> done;
  const auto enqueue = [&](uint64_t slot) {
    const FlashSegment segment{buffer + slot * bytes, bytes};
    device.Enqueue({random() % positions * bytes, {&segment, 1}, slot});
  };
  const double cpu = CpuSeconds();
  for (uint64_t slot = 0; slot < depth; ++slot) enqueue(slot);
  RETURN_IF_ERROR(device.Submit());
  Cell cell;
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
      cell.bytes += bytes;
      if (cell.seconds < seconds) enqueue(completion.tag);
    }
    RETURN_IF_ERROR(device.Submit());
  }
  cell.cpu_seconds = CpuSeconds() - cpu;
  return cell;
}

// Everything that a program writes to its standard output; empty if it cannot run.
std::string OutputOf(std::vector<std::string> arguments) {
  int ends[2];
  if (::pipe(ends) != 0) return "";
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addclose(&actions, ends[0]);
  pid_t child = -1;
  const int error = ::posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  std::string output;
  char chunk[4096];
  for (ssize_t n = 0; error == 0 && (n = ::read(ends[0], chunk, sizeof(chunk))) > 0;) {
    output.append(chunk, static_cast<size_t>(n));
  }
  ::close(ends[0]);
  if (error == 0) ::waitpid(child, nullptr, 0);
  return output;
}

// The same reads by fio.
absl::StatusOr<Cell> MeasureFio(const std::string& path, uint32_t bytes, uint32_t depth,
                                double seconds) {
  const std::string output =
      OutputOf({"fio", "--name=reads", absl::StrCat("--filename=", path), "--rw=randread",
                "--direct=1", "--ioengine=io_uring", "--fixedbufs=1", "--registerfiles=1",
                absl::StrCat("--bs=", bytes), absl::StrCat("--iodepth=", depth),
                absl::StrCat("--runtime=", static_cast<int>(seconds * 1000), "ms"), "--time_based",
                "--readonly", "--randrepeat=0", "--minimal"});
  // Version 3 of its terse format: the seventh field is the rate in KiB/s.
  const std::vector<std::string> fields = absl::StrSplit(output, ';');
  double rate = 0;
  if (fields.size() < 8 || !absl::SimpleAtod(fields[6], &rate)) {
    return absl::NotFoundError("fio gave no answer; is it installed?");
  }
  return Cell{.bytes = static_cast<uint64_t>(rate * kKiB * seconds), .seconds = seconds};
}

struct Settings {
  BenchFile file;
  double seconds = 0;
  uint32_t rounds = 0;
  std::vector<uint32_t> sizes, depths;
  std::vector<std::string> columns;
};

// A column of the table: a device with target memory of its own, or fio.
struct Column {
  std::string name;
  std::unique_ptr<FlashDevice> device;  // null: fio
  std::unique_ptr<void, decltype(&std::free)> memory{nullptr, &std::free};
};

absl::StatusOr<Column> MakeColumn(const Settings& settings, const std::string& name) {
  Column column;
  column.name = name;
  if (name == "fio") return column;
  const uint32_t depth = *std::max_element(settings.depths.begin(), settings.depths.end());
  const size_t bytes = RoundUp(
      uint64_t{depth} * *std::max_element(settings.sizes.begin(), settings.sizes.end()), 2 * kMiB);
  column.memory.reset(std::aligned_alloc(2 * kMiB, bytes));
  if (column.memory == nullptr) return absl::ResourceExhaustedError("no memory for the targets");
  // Huge pages: a drive that takes few segments for each request gets fewer, larger ones.
  ::madvise(column.memory.get(), bytes, name == "small" ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
  FlashOptions options;
  options.path = settings.file.path;
  options.queue_depth = depth;
  options.buffer = {static_cast<std::byte*>(column.memory.get()), bytes};
  if (name == "modelled") {
    ASSIGN_OR_RETURN(options.model, ParseFlashModel(kModel));
    RETURN_IF_ERROR(WarmPageCache(settings.file));
  } else {
    options.backend = name == "small" ? "io_uring" : name;
  }
  ASSIGN_OR_RETURN(column.device, OpenFlashDevice(options));
  const FlashInfo& info = column.device->info();
  std::printf("%s: %s%s\n", name.c_str(), info.reason.c_str(),
              info.direct ? ", O_DIRECT" : ", page cache");
  return column;
}

absl::StatusOr<Cell> MeasureColumn(const Settings& settings, const Column& column, uint32_t bytes,
                                   uint32_t depth) {
  if (column.device == nullptr) {
    return MeasureFio(settings.file.path, bytes, depth, settings.seconds);
  }
  return Measure(*column.device, static_cast<std::byte*>(column.memory.get()), settings.file.bytes,
                 bytes, depth, settings.seconds);
}

double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

absl::Status MeasureRow(const Settings& settings, const std::vector<Column>& columns,
                        uint32_t bytes, uint32_t depth) {
  std::vector<std::vector<double>> rates(columns.size());
  std::vector<double> cpu;
  for (uint32_t round = 0; round < settings.rounds; ++round) {
    for (size_t c = 0; c < columns.size(); ++c) {
      ASSIGN_OR_RETURN(const Cell cell, MeasureColumn(settings, columns[c], bytes, depth));
      rates[c].push_back(static_cast<double>(cell.bytes) / cell.seconds / 1e9);
      if (c == 0) cpu.push_back(cell.cpu_seconds / static_cast<double>(cell.bytes) * 1e9);
    }
  }
  std::printf("%12s %6u", FormatBytes(bytes).c_str(), depth);
  for (const auto& rate : rates) std::printf(" %9.3f", Median(rate));
  std::printf(" %8.2f s %8.2f\n", Median(cpu), Median(rates.front()) / Median(rates.back()));
  std::fflush(stdout);
  return absl::OkStatus();
}

absl::Status ReadSettings(Settings& settings) {
  const auto named = [](const auto& number, const char* name) {
    return number.ok() ? absl::OkStatus() : Annotate(number.status(), name);
  };
  const auto seconds = ParseReal(Setting("TIDEGATE_BENCH_SECONDS", "0.5"), {0.001, 3600});
  RETURN_IF_ERROR(named(seconds, "TIDEGATE_BENCH_SECONDS"));
  const auto rounds = ParseInteger(Setting("TIDEGATE_BENCH_ROUNDS", "3"), {1, 10000});
  RETURN_IF_ERROR(named(rounds, "TIDEGATE_BENCH_ROUNDS"));
  settings.seconds = *seconds;
  settings.rounds = static_cast<uint32_t>(*rounds);
  for (const auto size :
       absl::StrSplit(Setting("TIDEGATE_BENCH_SIZES", "4KiB,8KiB,16KiB,32KiB,128KiB,1MiB"), ',')) {
    ASSIGN_OR_RETURN(const uint64_t bytes, ParseBytes({size.data(), size.size()}));
    if (bytes == 0 || bytes % 4096 != 0 || bytes > 64 * kMiB) {
      return absl::InvalidArgumentError("TIDEGATE_BENCH_SIZES: multiples of 4 KiB up to 64 MiB");
    }
    settings.sizes.push_back(static_cast<uint32_t>(bytes));
  }
  for (const auto text : absl::StrSplit(Setting("TIDEGATE_BENCH_DEPTHS", "32,128"), ',')) {
    const auto depth = ParseInteger({text.data(), text.size()}, {1, 4096});
    RETURN_IF_ERROR(named(depth, "TIDEGATE_BENCH_DEPTHS"));
    settings.depths.push_back(static_cast<uint32_t>(*depth));
  }
  settings.columns = absl::StrSplit(Setting("TIDEGATE_BENCH_COLUMNS", "io_uring,small,fio"), ',');
  return FindFile(settings.file);
}

absl::Status Run() {
  Settings settings;
  RETURN_IF_ERROR(ReadSettings(settings));
  std::printf("%s, %s, median of %u rounds of %.1f s\n", settings.file.path.c_str(),
              FormatBytes(settings.file.bytes).c_str(), settings.rounds, settings.seconds);
  std::vector<Column> columns;
  for (const std::string& name : settings.columns) {
    ASSIGN_OR_RETURN(Column column, MakeColumn(settings, name));
    columns.push_back(std::move(column));
  }
  std::printf("\n%12s %6s", "GB/s, size", "depth");
  for (const Column& column : columns) std::printf(" %9s", column.name.c_str());
  std::printf(" %10s %8s\n", "cpu/GB", "1st/last");
  for (const uint32_t bytes : settings.sizes) {
    for (const uint32_t depth : settings.depths) {
      RETURN_IF_ERROR(MeasureRow(settings, columns, bytes, depth));
    }
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
