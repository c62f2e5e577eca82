// Which backend is chosen and why, what a start refuses, and how much memory is registered.
// Refusals are real: a child process takes io_uring away from itself with a seccomp filter, as
// containers do.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <functional>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/mapping.h"
#include "tests/weightstore/io/flash_test_util.h"
#include "weightstore/io/fixed_buffers.h"

namespace tidegate::flash_backend_test {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr uint64_t kFileBytes = 1 << 20;

// Runs `body` in a child process and returns what it returned, or "" if the child died.
std::string InChild(const std::function<std::string()>& body) {
  int ends[2];
  CHECK(::pipe(ends) == 0);
  std::fflush(nullptr);  // or the child would print the parent's buffered lines again
  const pid_t pid = ::fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    const std::string text = body();
    const bool sent = ::write(ends[1], text.data(), text.size()) == ssize_t(text.size());
    ::_exit(sent ? 0 : 1);
  }
  ::close(ends[1]);
  std::string text;
  char chunk[4096];
  for (ssize_t n; (n = ::read(ends[0], chunk, sizeof(chunk))) > 0;) text.append(chunk, n);
  ::close(ends[0]);
  int status = 0;
  CHECK(::waitpid(pid, &status, 0) == pid);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? text : "";
}

// From now on `call` fails with `error` in this process. False where seccomp filters are not
// allowed.
bool Refuse(long call, int error) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{std::size(program), program};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

class FlashBackend : public ::testing::Test {
 protected:
  FlashBackend() : path_(dir_.File("pack")) { WriteFileOrDie(path_, MakeContent(kFileBytes)); }

  // Opens with `backend` and reads the whole file: "backend: reason" or the error.
  std::string OpenAndRead(const std::string& backend) const {
    PageBuffer buffer(kFileBytes);
    FlashOptions options = OptionsFor(backend, path_);
    options.buffer = buffer.span();
    const auto device = OpenFlashDevice(options);
    if (!device.ok()) return device.status().ToString();
    const OwnedRead read{0, {{buffer.data(), kFileBytes}}};
    const absl::Status status = ReadAll(**device, {read})[0].status;
    if (!status.ok() || !ContentMatches(buffer.span(), 0)) return "bad read: " + status.ToString();
    return absl::StrCat((*device)->info().backend, ": ", (*device)->info().reason);
  }

  std::string OpenRefused(long call, int error, const std::string& backend) const {
    return InChild([&] {
      if (!Refuse(call, error)) return std::string("no seccomp");
      return OpenAndRead(backend);
    });
  }

  TempDir dir_;
  std::string path_;
};

#define TG_SKIP_WITHOUT_SECCOMP(text) \
  if ((text) == "no seccomp") GTEST_SKIP() << "this process may not install seccomp filters"

TEST_F(FlashBackend, AutoFallsBackToPreadAndSaysWhy) {
  const std::string text = OpenRefused(__NR_io_uring_setup, EPERM, "auto");
  TG_SKIP_WITHOUT_SECCOMP(text);
  EXPECT_THAT(text, AllOf(StartsWith("pread: io_uring_setup: Operation not permitted"),
                          ::testing::AnyOf(HasSubstr("seccomp"), HasSubstr("io_uring_disabled"))));
}

TEST_F(FlashBackend, OtherRefusalsNameTheirCause) {
  const std::string absent = OpenRefused(__NR_io_uring_setup, ENOSYS, "auto");
  TG_SKIP_WITHOUT_SECCOMP(absent);
  EXPECT_THAT(absent, AllOf(StartsWith("pread: "), HasSubstr("kernel without io_uring")));
  EXPECT_THAT(OpenRefused(__NR_io_uring_setup, ENOMEM, "auto"),
              AllOf(StartsWith("pread: "), HasSubstr("RLIMIT_MEMLOCK")));
}

// A profile that forgets one of the three calls.
TEST_F(FlashBackend, PartialProfilesFallBackToo) {
  const std::string probe = OpenAndRead("io_uring");
  if (!probe.starts_with("io_uring: ")) GTEST_SKIP() << probe;
  const std::string enter = OpenRefused(__NR_io_uring_enter, EPERM, "auto");
  TG_SKIP_WITHOUT_SECCOMP(enter);
  EXPECT_THAT(enter, StartsWith("pread: io_uring_enter: "));
  EXPECT_THAT(OpenRefused(__NR_io_uring_register, EPERM, "auto"),
              StartsWith("pread: io_uring_register: "));
}

TEST_F(FlashBackend, InsistingOnIoUringIsAnErrorWhereItIsRefused) {
  const std::string text = OpenRefused(__NR_io_uring_setup, EPERM, "io_uring");
  TG_SKIP_WITHOUT_SECCOMP(text);
  EXPECT_THAT(text, AllOf(StartsWith("FAILED_PRECONDITION"), HasSubstr("io_uring_setup"),
                          HasSubstr("choose auto or pread")));
}

TEST_F(FlashBackend, AutoTakesIoUringWhereItWorks) {
  const std::string probe = OpenAndRead("io_uring");
  if (!probe.starts_with("io_uring: ")) GTEST_SKIP() << probe;
  EXPECT_THAT(OpenAndRead("auto"), StartsWith("io_uring: "));
  EXPECT_THAT(OpenAndRead("pread"), StartsWith("pread: asked for"));
}

TEST_F(FlashBackend, InfoTellsWhatIsInForce) {
  PageBuffer buffer(kFileBytes);
  FlashOptions options = OptionsFor("io_uring", path_);
  options.buffer = buffer.span();
  TG_OPEN_OR_SKIP(device, options);
  EXPECT_TRUE(device->info().fixed_file);
  EXPECT_LE(device->info().fixed_buffer_bytes, kFileBytes);
  EXPECT_THAT(device->info().reason, HasSubstr("restricted to reads"));
}

TEST_F(FlashBackend, ReadsAcrossRegisteredChunks) {
  PageBuffer buffer(2 * kFixedChunkBytes);  // two chunks, and a read that touches both
  FlashOptions options = OptionsFor("io_uring", path_);
  options.buffer = buffer.span();
  TG_OPEN_OR_SKIP(device, options);
  std::vector<OwnedRead> reads;
  for (const uint64_t target :
       {uint64_t{0}, kFixedChunkBytes - kFileBytes / 4, kFixedChunkBytes * 3 / 2}) {
    reads.push_back({0, {{buffer.data() + target, kFileBytes}}});
  }
  const auto results = ReadAll(*device, reads);
  for (size_t i = 0; i < reads.size(); ++i) {
    ASSERT_TRUE(results[i].status.ok()) << results[i].status;
    EXPECT_TRUE(ContentMatches({reads[i].segments[0].data, kFileBytes}, 0)) << i;
  }
}

// The store's slots lie in a shared tmpfs file, not in anonymous memory.
TEST_F(FlashBackend, RegistersAndReadsIntoSharedMemory) {
  PageBuffer anonymous(kFileBytes);
  FlashOptions options = OptionsFor("io_uring", path_);
  options.buffer = anonymous.span();
  TG_OPEN_OR_SKIP(reference, options);

  const int fd = ::memfd_create("slots", MFD_CLOEXEC);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(::ftruncate(fd, kFileBytes), 0);
  auto mapped = Mapping::Map(fd, kFileBytes, Mapping::Access::kReadWrite);
  ::close(fd);
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  options.buffer = {mapped->data(), mapped->size()};
  TG_OPEN_OR_SKIP(device, options);
  EXPECT_EQ(device->info().fixed_buffer_bytes, reference->info().fixed_buffer_bytes)
      << device->info().reason;
  const auto results = ReadAll(*device, {{0, {{mapped->data(), kFileBytes}}}});
  ASSERT_TRUE(results[0].status.ok()) << results[0].status;
  EXPECT_TRUE(ContentMatches(options.buffer, 0));
}

// Gives up CAP_IPC_LOCK, which root would use to ignore the limit.
void LimitLockedMemory(uint64_t bytes) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[2] = {};
  CHECK(::syscall(SYS_capget, &header, sets) == 0);
  for (auto& set : sets) set.effective = set.permitted = set.inheritable = 0;
  CHECK(::syscall(SYS_capset, &header, sets) == 0);
  rlimit limit{};
  CHECK(::getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, bytes);
  CHECK(::setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
}

TEST_F(FlashBackend, RegistersNoMoreThanTheMemlockLimitAndReadsTheRestAnyway) {
  constexpr uint64_t kLimit = 6 << 20;
  const std::string text = InChild([&] {
    LimitLockedMemory(kLimit);
    PageBuffer buffer(16 << 20);
    FlashOptions options = OptionsFor("auto", path_);
    options.buffer = buffer.span();
    const auto device = OpenFlashDevice(options);
    if (!device.ok()) return device.status().ToString();
    if ((*device)->info().backend != "io_uring") return std::string("no io_uring");
    const uint64_t fixed = (*device)->info().fixed_buffer_bytes;
    if (fixed > kLimit) return absl::StrCat("registered ", fixed);
    if ((*device)->info().reason.find("RLIMIT_MEMLOCK") == std::string::npos) {
      return (*device)->info().reason;
    }
    const std::vector<OwnedRead> reads = {{0, {{buffer.data(), kFileBytes}}},
                                          {0, {{buffer.data() + (12 << 20), kFileBytes}}}};
    for (const FlashCompletion& done : ReadAll(**device, reads)) {
      if (!done.status.ok()) return done.status.ToString();
    }
    const bool right = ContentMatches(buffer.Part(0, kFileBytes), 0) &&
                       ContentMatches(buffer.Part(12 << 20, kFileBytes), 0);
    return std::string(right ? "right" : "wrong bytes");
  });
  if (text == "no io_uring") GTEST_SKIP() << text;
  EXPECT_EQ(text, "right");
}

// ---- refusals at start ----

TEST_F(FlashBackend, MissingFileNamesThePath) {
  const auto device = OpenFlashDevice(OptionsFor("auto", dir_.File("absent")));
  EXPECT_TRUE(absl::IsNotFound(device.status())) << device.status();
  EXPECT_THAT(std::string(device.status().message()), HasSubstr(dir_.File("absent")));
}

TEST_F(FlashBackend, FoldersAndPipesAreNotPacks) {
  const auto folder = OpenFlashDevice(OptionsFor("auto", dir_.path()));
  EXPECT_TRUE(absl::IsInvalidArgument(folder.status())) << folder.status();
  ASSERT_EQ(::mkfifo(dir_.File("pipe").c_str(), 0600), 0);
  const auto pipe = OpenFlashDevice(OptionsFor("auto", dir_.File("pipe")));
  EXPECT_TRUE(absl::IsInvalidArgument(pipe.status())) << pipe.status();
}

TEST_F(FlashBackend, UnreadableFileIsPermissionDenied) {
  ASSERT_EQ(::chmod(path_.c_str(), 0), 0);
  const std::string text = InChild([&] {
    LimitLockedMemory(0);  // drops every capability, so that root obeys file modes
    return OpenAndRead("auto");
  });
  EXPECT_THAT(text, AllOf(StartsWith("PERMISSION_DENIED"), HasSubstr(path_)));
}

TEST_F(FlashBackend, BadOptionsAreNamed) {
  const auto message = [](const FlashOptions& options) {
    const auto device = OpenFlashDevice(options);
    EXPECT_TRUE(absl::IsInvalidArgument(device.status())) << device.status();
    return std::string(device.status().message());
  };
  FlashOptions options = OptionsFor("auto", path_);
  options.backend = "mmap";
  EXPECT_THAT(message(options), AllOf(HasSubstr("'mmap'"), HasSubstr("auto, io_uring or pread")));
  options = OptionsFor("auto", path_);
  options.queue_depth = 0;
  EXPECT_THAT(message(options), HasSubstr("queue depth 0"));
  options.queue_depth = 1'000'000;
  EXPECT_THAT(message(options), HasSubstr("queue depth 1000000"));
  options = OptionsFor("pread", path_);
  options.pread_threads = 0;
  EXPECT_THAT(message(options), HasSubstr("pread threads 0"));
  options = OptionsFor("modelled", path_);
  options.model->bytes_per_second = -1;
  EXPECT_THAT(message(options), HasSubstr("bandwidth"));
  PageBuffer buffer(2 * kPageBytes);
  options = OptionsFor("auto", path_);
  options.buffer = buffer.Part(8, kPageBytes);
  EXPECT_THAT(message(options), HasSubstr("page-aligned"));
}

}  // namespace tidegate::flash_backend_test
