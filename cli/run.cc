// `tidegate run`: one conversation, or one answer, with a model that is served for it alone.
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <optional>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/flags.h"
#include "base/mutex.h"
#include "base/read_file.h"
#include "base/shutdown.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/unique_fd.h"
#include "cli/chat_session.h"
#include "cli/commands.h"
#include "cli/local_service.h"
#include "cli/request_flags.h"
#include "server/parse_request.h"

namespace tidegate {
namespace {

constexpr const char* kRunFooter = R"(
Does what `tidegate serve` does, for this one conversation: packs the model if that was not done
before, runs tidegate-store and tidegate-engine on a private socket, and ends them afterwards.
Without PROMPT the terminal is a conversation; text that comes through a pipe is the prompt. A model
without a chat template continues the text instead of answering it. Nothing but the answer goes to
standard output.

As with `serve`, every other flag of tidegate-engine and tidegate-store may be given too.

Examples:
  tidegate run model.gguf
  tidegate run model.gguf 'Why is the sky blue?' --memory 4GiB
  tidegate run Llama-3.2-1B/ --system 'You are brief.' < question.txt
)";

// A terminal is no place for an answer that breaks off after a few lines.
constexpr uint32_t kMaxReplyTokens = 2048;

struct RunOptions {
  ServiceOptions service;
  ChatOptions chat;
  std::string prompt;
};

void SayToUser(const std::string& line) {
  constexpr size_t kMaxLineBytes = 4096;
  std::fprintf(stderr, "%s\n", PrintableLines(line, kMaxLineBytes).c_str());
}

// nullopt: a conversation on the terminal.
absl::StatusOr<std::optional<std::string>> PromptOf(const RunOptions& options) {
  std::string prompt = options.prompt;
  if (prompt.empty()) {
    if (isatty(STDIN_FILENO) != 0) return std::nullopt;
    ASSIGN_OR_RETURN(prompt, ReadFile("-", kMaxPromptBytes));
  }
  while (!prompt.empty() && (prompt.back() == '\n' || prompt.back() == '\r')) prompt.pop_back();
  if (!absl::StripAsciiWhitespace(prompt).empty()) return prompt;
  return absl::InvalidArgumentError(
      "no prompt: give one, as in tidegate run MODEL 'Once upon a time', or start it in a "
      "terminal");
}

// What store and engine say; kept only if something goes wrong.
class ProgramLog {
 public:
  static absl::StatusOr<ProgramLog> Create() {
    std::string path = TemporaryParent() + "/tidegate-run-XXXXXX.log";
    UniqueFd fd(::mkostemps(path.data(), /*suffix: .log*/ 4, O_CLOEXEC | O_APPEND));
    if (fd.valid()) return ProgramLog(std::move(fd), std::move(path));
    return absl::ErrnoToStatus(errno,
                               absl::StrCat("cannot make a log file in ", TemporaryParent()));
  }
  ProgramLog(ProgramLog&&) = default;
  ~ProgramLog() {
    if (fd_.valid() && !kept_) ::unlink(path_.c_str());
  }

  int fd() const { return fd_.get(); }
  void Add(const std::string& line) const { ::dprintf(fd_.get(), "tidegate: %s\n", line.c_str()); }
  // The error with the last lines of the log and its name.
  absl::Status Explain(const absl::Status& status) {
    if (status.ok()) return status;
    kept_ = true;
    removed_at_end_ = RemovedAtEnd();
    constexpr size_t kMaxBytes = 1 << 20, kLines = 5;
    std::string text(absl::StripAsciiWhitespace(ReadFile(path_, kMaxBytes).value_or("")));
    const std::vector<std::string> lines = absl::StrSplit(text, '\n');
    std::string message(status.message());
    for (size_t i = lines.size() - std::min(lines.size(), kLines); i < lines.size(); ++i) {
      if (!lines[i].empty()) absl::StrAppend(&message, "\n  ", Printable(lines[i], 1000));
    }
    return absl::Status(status.code(), absl::StrCat(message, "\nthe whole log: ", path_));
  }

 private:
  ProgramLog(UniqueFd fd, std::string path)
      : fd_(std::move(fd)), path_(std::move(path)), removed_at_end_(path_) {}

  UniqueFd fd_;
  std::string path_;
  RemovedAtEnd removed_at_end_;
  bool kept_ = false;
};

// The service on a thread of its own, which leaves signals to the others.
class Background {
 public:
  Background(LocalService& service, const ProgramLog& log) : service_(service) {
    SupervisorOptions options;
    options.output_fd = log.fd();
    options.tell = [&log](const std::string& line) { log.Add(line); };
    options.on_ready = [this] { Set(ready_); };
    sigset_t ours, before;
    sigemptyset(&ours);
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&ours, number);
    pthread_sigmask(SIG_BLOCK, &ours, &before);
    thread_ = std::thread([this, options] {
      status_ = service_.Run(options);
      Set(ended_);
    });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  ~Background() { Stop().IgnoreError(); }
  Background(const Background&) = delete;

  // False: it has ended instead.
  bool WaitReady() {
    const MutexLock lock(mutex_);
    while (!ready_ && !ended_) changed_.Wait(mutex_);
    return ready_;
  }
  // Why it ended by itself; OK after an orderly end.
  absl::Status Stop() {
    service_.RequestStop();
    if (thread_.joinable()) thread_.join();
    return status_;
  }

 private:
  void Set(bool& fact) {
    const MutexLock lock(mutex_);
    fact = true;
    changed_.NotifyAll();
  }

  LocalService& service_;
  Mutex mutex_;
  CondVar changed_;
  bool ready_ = false, ended_ = false;  // guarded by mutex_
  absl::Status status_;                 // until the thread is joined, its own
  std::thread thread_;
};

absl::Status Converse(const LocalService& service, const std::optional<std::string>& prompt,
                      ChatOptions chat) {
  chat.server = {.address = service.own_server(), .key = KeyOfEnvironment()};
  chat.continues = !service.has_chat();
  if (prompt) return AnswerOnce(chat, *prompt);
  if (chat.continues)
    SayToUser("This model has no chat template: it continues each line as a text.");
  return RunChat(chat);
}

absl::Status RunModel(const RunOptions& options) {
  signal(SIGPIPE, SIG_IGN);  // `| head` ends us through std::cout
  ASSIGN_OR_RETURN(const std::optional<std::string> prompt, PromptOf(options));
  ASSIGN_OR_RETURN(const std::unique_ptr<LocalService> service,
                   LocalService::Prepare(options.service, SayToUser));
  if (!service->has_chat() && !options.chat.system.empty()) {
    return absl::InvalidArgumentError(
        "--system is for conversations, and the model has no chat template; give --chat-template, "
        "or leave --system out");
  }
  ASSIGN_OR_RETURN(ProgramLog log, ProgramLog::Create());
  Background background(*service, log);
  if (!background.WaitReady()) return log.Explain(background.Stop());
  const absl::Status said = Converse(*service, prompt, options.chat);
  const absl::Status ended = log.Explain(background.Stop());
  return said.ok() ? ended : said;
}

}  // namespace

void AddRunCommand(CLI::App& app, CommandRun& run) {
  const auto options = std::make_shared<RunOptions>();
  ChatOptions& chat = options->chat;
  options->service.log_level = "info";  // into a file that is seldom seen
  CLI::App& command = AddSubcommand(
      app, "run", "Talk with a GGUF file, a Hugging Face folder or a pack, or ask it once",
      kRunFooter,
      [options, &run](const CLI::App&) { run = [options] { return RunModel(*options); }; });
  AddTextFlag(command, "--system", chat.system, "What the model is told before the first turn");
  chat.request.set_max_tokens(kMaxReplyTokens);
  AddMaxTokensFlag(command, chat.request).Default(absl::StrCat(kMaxReplyTokens));
  AddSamplingFlags(command, chat.request);
  AddPruningFlags(command, chat.request);
  AddMaxDurationFlag(command, chat.request);
  AddSwitch(command, "--accounts", chat.accounts,
            "Tokens, times and flash reads of every answer, on standard error");
  options->service.Register(command);
  AddTextFlag(command, "PROMPT", options->prompt, "What to answer or continue");
}

}  // namespace tidegate
