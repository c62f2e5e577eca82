#include "tests/support/test_support.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/check.h"

namespace tidegate {
namespace {

std::string FromEnvironment(const char* name, const char* fallback) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : fallback;
}

pid_t Spawn(const std::vector<std::string>& arguments, const std::string& out_path,
            const std::string& err_path, const std::vector<std::string>& environment) {
  const pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid > 0) return pid;
  const int out = open(out_path.c_str(), O_CREAT | O_WRONLY | O_APPEND, 0600);
  dup2(out, 1);
  const int err = err_path == out_path ? out : open(err_path.c_str(), O_CREAT | O_WRONLY, 0600);
  dup2(err, 2);
  const int null = open("/dev/null", O_RDONLY);
  dup2(null, 0);
  for (const std::string& entry : environment) putenv(strdup(entry.c_str()));
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  _exit(127);
}

int ExitCode(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

std::string SharedPath(const std::string& relative) {
  return FromEnvironment("TIDEGATE_SHARED_DIR", TIDEGATE_SHARED_DIR) + "/" + relative;
}
std::string ModelPath(const std::string& relative) { return SourcePath("models/" + relative); }
std::string DemoModelPath() { return ModelPath("stories-7M.f16.gguf"); }
std::string SourcePath(const std::string& relative) {
  return std::string(TIDEGATE_SOURCE_DIR) + "/" + relative;
}
std::string BinaryPath(const std::string& relative) {
  return std::string(TIDEGATE_BINARY_DIR) + "/" + relative;
}
bool FileExists(const std::string& path) { return std::filesystem::exists(path); }

std::string ReadFileOrDie(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  CHECK(in.good());
  std::stringstream content;
  content << in.rdbuf();
  return content.str();
}

void WriteFileOrDie(const std::string& path, std::string_view content) {
  std::ofstream out(path, std::ios::binary);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  out.close();
  CHECK(out.good());
}

TempDir::TempDir() {
  std::string pattern = FromEnvironment("TMPDIR", "/tmp") + "/tidegate_test_XXXXXX";
  CHECK(mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

ChildProcess::ChildProcess(std::vector<std::string> arguments, const std::string& output_path,
                           std::vector<std::string> environment)
    : pid_(Spawn(arguments, output_path, output_path, environment)), output_path_(output_path) {}

ChildProcess::~ChildProcess() {
  if (running()) {
    Signal(SIGKILL);
    Wait(std::chrono::seconds(10));
  }
}

void ChildProcess::Signal(int number) {
  if (pid_ > 0) kill(pid_, number);
}

bool ChildProcess::running() {
  if (pid_ <= 0) return false;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return true;
  exit_code_ = ExitCode(status);
  pid_ = -1;
  return false;
}

int ChildProcess::Wait(std::chrono::milliseconds timeout) {
  return WaitUntil([this] { return !running(); }, timeout) ? exit_code_ : -1;
}

std::string ChildProcess::Output() const {
  return FileExists(output_path_) ? ReadFileOrDie(output_path_) : "";
}

RunResult RunProgram(const std::vector<std::string>& arguments, std::chrono::milliseconds timeout) {
  TempDir dir;
  const pid_t pid = Spawn(arguments, dir.File("out"), dir.File("err"), {});
  int status = 0;
  RunResult result;
  const bool ended = WaitUntil([&] { return waitpid(pid, &status, WNOHANG) == pid; }, timeout);
  if (!ended) {
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
  }
  result.exit_code = ended ? ExitCode(status) : -1;
  if (FileExists(dir.File("out"))) result.out = ReadFileOrDie(dir.File("out"));
  if (FileExists(dir.File("err"))) result.err = ReadFileOrDie(dir.File("err"));
  return result;
}

}  // namespace tidegate
