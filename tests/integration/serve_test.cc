// `tidegate serve` as a person runs it: what it starts, prints, survives and leaves behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>

#include "base/listen_address.h"
#include "base/units.h"
#include "cli/health_check.h"
#include "tests/support/daemons.h"
#include "tests/support/test_certificates.h"

namespace tidegate::serve_test {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

// Process `name` among the children of `parent`; 0: there is none.
pid_t ChildNamed(pid_t parent, const std::string& name) {
  const std::string task = "/proc/" + std::to_string(parent) + "/task/" + std::to_string(parent);
  if (!FileExists(task + "/children")) return 0;
  std::istringstream children(ReadFileOrDie(task + "/children"));
  for (pid_t pid; children >> pid;) {
    const std::string comm = "/proc/" + std::to_string(pid) + "/comm";
    if (FileExists(comm) && ReadFileOrDie(comm) == name + "\n") return pid;
  }
  return 0;
}

// Ended, if perhaps not yet waited for by the process that has taken it over.
bool Gone(pid_t pid) {
  const std::string stat = "/proc/" + std::to_string(pid) + "/stat";
  return WaitUntil(
      [&] {
        if (kill(pid, 0) != 0) return true;
        std::ifstream file(stat);
        std::string line;
        return std::getline(file, line) && line.find(") Z ") != std::string::npos;
      },
      kDaemonLimit);
}

// A serve command on the demo model with a cache that all tests share, on a free port.
class Serving {
 public:
  Serving(const std::string& cache, const std::vector<std::string>& extra) {
    std::vector<std::string> command = {
        BinaryPath("tidegate"), "serve",       DemoModelPath(),
        "--cache-dir",          cache,         "--listen",
        "127.0.0.1:0",          "--port-file", dir_.File("port"),
        "--metrics-listen",     "127.0.0.1:0", "--store-metrics-listen",
        "127.0.0.1:0",          "--threads",   "1",
        "--http-listen",        "127.0.0.1:0"};
    command.insert(command.end(), extra.begin(), extra.end());
    process_.emplace(command, dir_.File("out"));
  }

  // A killed one would leave its folder behind.
  ~Serving() {
    process_->Signal(SIGTERM);
    process_->Wait(kDaemonLimit);
  }

  // Waits until it serves.
  void WaitReady() {
    const bool up = WaitUntil(
        [this] { return FileExists(dir_.File("port")) || !process_->running(); }, kDaemonLimit);
    ASSERT_TRUE(up && process_->running()) << Output();
    std::string port = ReadFileOrDie(dir_.File("port"));
    address_ = "127.0.0.1:" + port.substr(0, port.find('\n'));
    channel_ = grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
    store_ = Child("tidegate-store");
    engine_ = Child("tidegate-engine");
    ASSERT_TRUE(store_ > 0 && engine_ > 0) << Output();
  }
  // Until it says so for the `times`th time after what had ended.
  bool WaitServingAgain(int times) {
    return WaitUntil(
        [&] {
          int found = 0;
          const std::string output = Output(), words = "serving again";
          for (size_t at = 0; (at = output.find(words, at)) != std::string::npos; ++at) ++found;
          return found >= times;
        },
        kDaemonLimit);
  }
  absl::Status Generates() {
    Stream stream(grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()),
                  StoryRequest(8));
    const StreamResult& result = stream.Finish();
    if (!result.status.ok()) return absl::UnavailableError(result.status.error_message());
    return result.ids.size() == 8 ? absl::OkStatus() : absl::InternalError(result.text);
  }

  ChildProcess& process() { return *process_; }
  pid_t Child(const std::string& name) { return ChildNamed(process_->pid(), name); }
  pid_t store() const { return store_; }  // as they were when it was ready
  pid_t engine() const { return engine_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  const std::string& address() const { return address_; }
  std::string Output() const { return process_->Output(); }
  // Where sockets and region lie.
  std::string Folder() const {
    const std::string output = Output();
    const size_t begin = output.find("/dev/shm/tidegate-");
    return output.substr(begin, output.find("/store.sock", begin) - begin);
  }

 private:
  TempDir dir_;
  std::optional<ChildProcess> process_;
  std::shared_ptr<grpc::Channel> channel_;
  std::string address_;
  pid_t store_ = 0, engine_ = 0;
};

class ServeTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { dir_ = new TempDir(); }
  static void TearDownTestSuite() { delete dir_; }
  static std::string Cache() { return dir_->File("cache"); }
  static Serving Serve(std::vector<std::string> extra = {}) {
    extra.insert(extra.end(), {"--memory", kSmallBudget});
    return Serving(Cache(), extra);
  }
  // One that is to fail at start.
  static RunResult Refused(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {BinaryPath("tidegate"), "serve"});
    arguments.insert(arguments.end(), {"--cache-dir", Cache(), "--http-listen", "off",
                                       "--metrics-listen", "off", "--store-metrics-listen", "off"});
    RunResult run = RunProgram(arguments, kDaemonLimit);
    EXPECT_EQ(run.exit_code == 0 || run.exit_code == -1, false) << run.out << run.err;
    return run;
  }

  static inline TempDir* dir_ = nullptr;
};

const std::vector<std::string> kSlow = {"--flash-model", kSlowDevice};

TEST_F(ServeTest, PacksOnceServesAndLeavesNothing) {
  for (const bool first : {true, false}) {
    if (first) fs::remove_all(Cache());
    Serving serving = Serve();
    ASSERT_NO_FATAL_FAILURE(serving.WaitReady());
    EXPECT_EQ(serving.Output().find("packing") != std::string::npos, first) << serving.Output();
    EXPECT_THAT(serving.Output(), HasSubstr("pack: " + Cache() + "/stories-7M.f16.q8."));
    EXPECT_THAT(serving.Output(), HasSubstr("memory: 7.00 MiB (as given); "));
    EXPECT_THAT(serving.Output(), HasSubstr("gRPC     " + serving.address() + "\n"));
    EXPECT_THAT(serving.Output(), HasSubstr("tidegate generate 'Once upon a time' --server " +
                                            serving.address() + "\n"));
    EXPECT_TRUE(serving.Generates().ok()) << serving.Output();
    EXPECT_TRUE(CheckHealth({.address = "unix:" + serving.Folder() + "/store.sock.grpc"},
                            "readiness", kDaemonLimit)
                    .ok());
    const std::string folder = serving.Folder();
    serving.process().Signal(first ? SIGTERM : SIGINT);
    EXPECT_EQ(serving.process().Wait(kDaemonLimit), 0) << serving.Output();
    EXPECT_TRUE(Gone(serving.engine()) && Gone(serving.store()));
    EXPECT_FALSE(FileExists(folder));
  }
}

TEST_F(ServeTest, KnowsThatAnEngineIsReadyThatSpeaksTlsAlone) {
  const TestAuthority authority;
  const TestCertificate certificate = authority.Sign();
  TempDir folder;
  WriteFileOrDie(folder.File("cert.pem"), certificate.pem);
  WriteFileOrDie(folder.File("key.pem"), certificate.key_pem);
  WriteFileOrDie(folder.File("ca.pem"), authority.pem());
  Serving serving = Serve({"--tls-cert", folder.File("cert.pem"), "--tls-key",
                           folder.File("key.pem"), "--tls-client-ca", folder.File("ca.pem")});
  ASSERT_NO_FATAL_FAILURE(serving.WaitReady());
  const ClientTls tls = {
      .authorities = authority.pem(), .certificate = certificate.pem, .key = certificate.key_pem};
  const absl::Status healthy =
      CheckHealth({.address = serving.address(), .tls = tls}, "readiness", kDaemonLimit);
  EXPECT_TRUE(healthy.ok()) << healthy;
  EXPECT_FALSE(CheckHealth({.address = serving.address()}, "readiness", kDaemonLimit).ok());
}

TEST_F(ServeTest, WhatIsKilledComesBack) {
  Serving serving = Serve();
  ASSERT_NO_FATAL_FAILURE(serving.WaitReady());
  kill(serving.engine(), SIGKILL);
  ASSERT_TRUE(serving.WaitServingAgain(1)) << serving.Output();
  EXPECT_THAT(serving.Output(), HasSubstr("tidegate-engine ended with signal 9 (Killed); starting "
                                          "it again in " +
                                          FormatSeconds(0.5)));
  EXPECT_TRUE(serving.Generates().ok()) << serving.Output();
  const pid_t engine = serving.Child("tidegate-engine");
  EXPECT_NE(engine, serving.engine());
  EXPECT_EQ(serving.Child("tidegate-store"), serving.store()) << "the cache stays warm";
  kill(serving.store(), SIGKILL);
  ASSERT_TRUE(serving.WaitServingAgain(2)) << serving.Output();
  EXPECT_TRUE(serving.Generates().ok()) << serving.Output();
  EXPECT_EQ(serving.Child("tidegate-engine"), engine) << "it waited for the store";
}

TEST_F(ServeTest, SigtermLetsStreamsEnd) {
  Serving serving = Serve(kSlow);
  ASSERT_NO_FATAL_FAILURE(serving.WaitReady());
  Stream stream(serving.channel(), StoryRequest(20));
  ASSERT_TRUE(stream.ReadTokens(1)) << stream.Finish().status.error_message();
  serving.process().Signal(SIGTERM);
  EXPECT_TRUE(stream.Finish().status.ok()) << stream.Finish().status.error_message();
  EXPECT_EQ(stream.Finish().ids.size(), 20u);
  EXPECT_EQ(serving.process().Wait(kDaemonLimit), 0) << serving.Output();
  EXPECT_THAT(serving.Output(), HasSubstr("stopping: running streams have " + FormatSeconds(120)));
}

TEST_F(ServeTest, ASecondSignalEndsAllAtOnce) {
  Serving serving = Serve(kSlow);
  ASSERT_NO_FATAL_FAILURE(serving.WaitReady());
  Stream stream(serving.channel(), StoryRequest(500));
  ASSERT_TRUE(stream.ReadTokens(1)) << stream.Finish().status.error_message();
  const std::string folder = serving.Folder();
  serving.process().Signal(SIGINT);
  ASSERT_TRUE(WaitUntil([&] { return serving.Output().find("stopping") != std::string::npos; },
                        kDaemonLimit));
  // The engine has been asked to drain: its health says so.
  ASSERT_TRUE(WaitUntil(
      [&] { return !CheckHealth({.address = serving.address()}, "readiness", kDaemonLimit).ok(); },
      kDaemonLimit));
  serving.process().Signal(SIGINT);
  EXPECT_EQ(serving.process().Wait(kDaemonLimit), 128 + SIGINT) << serving.Output();
  EXPECT_TRUE(Gone(serving.engine()) && Gone(serving.store()));
  EXPECT_FALSE(FileExists(folder));
}

TEST_F(ServeTest, NothingOutlivesIt) {
  Serving serving = Serve();
  ASSERT_NO_FATAL_FAILURE(serving.WaitReady());
  const std::string folder = serving.Folder();
  serving.process().Signal(SIGKILL);
  EXPECT_EQ(serving.process().Wait(kDaemonLimit), 128 + SIGKILL);
  EXPECT_TRUE(Gone(serving.engine()) && Gone(serving.store()));
  // A killed process cannot remove its folder; nothing large is left in it.
  uint64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(folder)) bytes += entry.file_size();
  EXPECT_LT(bytes, 100u);
  fs::remove_all(folder);
}

TEST_F(ServeTest, MistakesAreSaidBeforeThePacking) {
  const std::string demo = DemoModelPath();
  struct Row {
    std::vector<std::string> arguments;
    std::string message;
  };
  const Row kRows[] = {
      {{dir_->File("none.gguf")}, "does not exist; give a GGUF file"},
      {{SourcePath("README.md")}, "it starts with"},
      {{demo, "--max-runing", "8"}, "--max-runing"},
      {{demo, "--max-running", "x"}, "--max-running: 'x' is not a whole number"},
      {{demo, "--density=0.05", "--density-min=0.5"}, "--density 0.05 is not inside"},
      {{demo, "--flash-backend", "tape"}, "--flash-backend: tape not in"},
      {{demo, "--memory", "much"}, "--memory: 'much'"},
      {{demo, "--listen", "here"}, "--listen: "},
  };
  for (const Row& row : kRows) {
    const RunResult run = Refused(row.arguments);
    EXPECT_THAT(run.err, HasSubstr(row.message));
    EXPECT_THAT(run.err, Not(HasSubstr("packing")));
  }
}

TEST_F(ServeTest, TooLittleMemorySaysHowMuchIsNeeded) {
  const RunResult run = Refused({DemoModelPath(), "--memory", "1MiB"});
  EXPECT_THAT(run.err, HasSubstr("--memory: memory budget of 1.00 MiB is too small"));
  EXPECT_THAT(run.err, HasSubstr("the smallest that works is"));
}

TEST_F(ServeTest, ATakenPortIsTheEnginesMessageAndTheEnd) {
  const auto taken = Listen(*ParseListenAddress("127.0.0.1:0"), 1);
  ASSERT_TRUE(taken.ok()) << taken.status();
  const RunResult run = Refused({DemoModelPath(), "--listen", taken->address.ToString()});
  EXPECT_THAT(run.err, HasSubstr(taken->address.ToString()));
  EXPECT_THAT(run.err, HasSubstr("tidegate-engine ended with exit code 1 while it started"));
  EXPECT_EQ(run.out, "");
}

TEST_F(ServeTest, ThePlacesOfItsProgramsAreNamed) {
  fs::copy_file(BinaryPath("tidegate"), dir_->File("tidegate"));
  const RunResult run = RunProgram({dir_->File("tidegate"), "serve", DemoModelPath()});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.err, HasSubstr("tidegate-store is missing: it has to lie beside tidegate in " +
                                 dir_->path()));
}

}  // namespace tidegate::serve_test
