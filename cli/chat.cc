// `tidegate chat`: a conversation in the terminal, or through a pipe, one line a turn.
#include <unistd.h>

#include <iostream>
#include <memory>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/utf8.h"
#include "cli/client_options.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/line_reader.h"
#include "cli/request_flags.h"
#include "cli/stream_printer.h"
#include "cli/terminal_text.h"
#include "tidegate/v1/generation.grpc.pb.h"

namespace tidegate {
namespace {

constexpr char kHelp[] =
    "/reset forgets the conversation, /accounts turns the accounts of answers on and off,\n"
    "/exit or Ctrl-D ends. Ctrl-C stops an answer.\n";

struct ChatOptions {
  std::string server;
  std::string system;
  bool accounts = false;
  v1::ChatRequest request;  // flags write into it, so that what is not given stays unset
};

// Bytes that are no UTF-8 as U+FFFD: proto3 strings must be UTF-8.
std::string ValidUtf8(std::string_view text) {
  std::string valid;
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    valid += step.kind == Utf8Kind::kCharacter ? text.substr(0, step.bytes) : "\xef\xbf\xbd";
    text.remove_prefix(step.bytes);
  }
  return valid;
}

// One session: what was said so far, and where to say more.
class ChatSession {
 public:
  explicit ChatSession(const ChatOptions& options)
      : options_(options),
        request_(options.request),
        accounts_(options.accounts),
        terminal_(isatty(STDIN_FILENO) != 0) {
    Reset();
  }

  absl::Status Run() {
    LineReader reader(STDIN_FILENO);
    if (terminal_) std::cerr << kHelp;
    for (std::string line;;) {
      if (terminal_) std::cerr << "\n> " << std::flush;
      const LineReader::Event event = reader.Next(line);
      if (event == LineReader::Event::kEnd) break;
      if (event == LineReader::Event::kInterrupt) {
        std::cerr << "\n(/exit or Ctrl-D ends)";
        continue;
      }
      if (line == "/exit") break;
      if (!line.empty() && line[0] == '/') {
        Command(line);
      } else if (!absl::StripAsciiWhitespace(line).empty()) {
        RETURN_IF_ERROR(Turn(line));
      }
    }
    if (terminal_) std::cerr << '\n';
    return absl::OkStatus();
  }

 private:
  void Reset() {
    request_.clear_messages();
    if (!options_.system.empty()) AddMessage("system", options_.system);
  }

  void AddMessage(const std::string& role, const std::string& content) {
    v1::ChatMessage& message = *request_.add_messages();
    message.set_role(role);
    message.set_content(ValidUtf8(content));
  }

  void Command(const std::string& line) {
    if (line == "/reset") {
      Reset();
    } else if (line == "/accounts") {
      accounts_ = !accounts_;
    } else {
      std::cerr << (line == "/help" ? "" : "there is no command " + Printable(line) + "\n")
                << kHelp;
    }
  }

  // Asks and prints the answer. On an error the question is taken back; through a pipe, where
  // nobody can ask again, the error ends the session.
  absl::Status Turn(const std::string& question) {
    AddMessage("user", question);
    std::string answer;
    const absl::Status status = Answer(answer);
    if (status.ok()) {
      AddMessage("assistant", answer);
      return status;
    }
    request_.mutable_messages()->RemoveLast();
    if (!terminal_ || !std::cout.good()) return status;
    std::cerr << "tidegate: " << ForTerminal({status.message().data(), status.message().size()})
              << '\n';
    return absl::OkStatus();
  }

  absl::Status Answer(std::string& answer) {
    grpc::ClientContext context;
    InterruptGuard interrupt([&context] { context.TryCancel(); });
    if (stub_ == nullptr) stub_ = v1::GenerationService::NewStub(Dial(options_.server));
    StreamPrinter printer(accounts_ ? StreamPrinter::Form::kText : StreamPrinter::Form::kQuiet,
                          OutputIsTerminal(), std::cout, std::cerr);
    const auto reader = stub_->Chat(&context, request_);
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
      answer += response.delta().text();
      if (!printer.Print(response)) context.TryCancel();
    }
    const grpc::Status status = reader->Finish();
    if (std::cout.good()) printer.Finish();
    if (!std::cout.good()) return absl::CancelledError("standard output cannot be written");
    if (interrupt.signal() == SIGTERM) return absl::CancelledError("terminated");
    if (interrupt.interrupted()) return absl::OkStatus();  // what was said stays said
    return ExplainError(status, options_.server, "tidegate-engine");
  }

  const ChatOptions& options_;
  v1::ChatRequest request_;
  bool accounts_;
  const bool terminal_;
  std::unique_ptr<v1::GenerationService::Stub> stub_;  // made inside the first guard: its threads
                                                       // leave Ctrl-C to us
};

}  // namespace

void AddChatCommand(CLI::App& app, CommandRun& run) {
  auto options = std::make_shared<ChatOptions>();
  CLI::App* command = app.add_subcommand("chat", "Talk with the model, one line a turn");
  command->footer(
      absl::StrCat("\n", kHelp,
                   "The answers go to standard output; questions may come through a pipe.\n"
                   "Examples:\n"
                   "  tidegate chat --system 'You are brief.'\n"
                   "  printf 'Hello\\nAnd in French?\\n' | tidegate chat --temperature 0\n"));
  AddServerFlag(*command, options->server);
  command->add_option("--system", options->system, "What the model is told before the first turn");
  command->add_option_function<std::string>(
      "--model", [options](const std::string& v) { options->request.set_model(v); },
      "Name of the model; default: the served one");
  AddMaxTokensFlag(*command, options->request);
  AddSamplingFlags(*command, options->request);
  AddPruningFlags(*command, options->request);
  AddMaxDurationFlag(*command, options->request);
  command->add_flag("--accounts", options->accounts,
                    "Tokens, times and flash reads of every answer, on standard error");
  command->callback([options, &run] {
    run = [options] {
      signal(SIGPIPE, SIG_IGN);  // `| head` ends us through std::cout
      return ChatSession(*options).Run();
    };
  });
}

}  // namespace tidegate
