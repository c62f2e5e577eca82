#include "cli/chat_session.h"

#include <unistd.h>

#include <iostream>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/utf8.h"
#include "cli/client_options.h"
#include "cli/continuation.h"
#include "cli/interrupt.h"
#include "cli/line_reader.h"
#include "cli/stream_printer.h"
#include "cli/terminal_text.h"
#include "grpcpp/grpcpp.h"
#include "tidegate/v1/generation.grpc.pb.h"

namespace tidegate {

const char kChatHelp[] =
    "/reset forgets the conversation, /accounts turns the accounts of answers on and off,\n"
    "/exit or Ctrl-D ends. Ctrl-C stops an answer.\n";

namespace {

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
    if (terminal_) std::cerr << kChatHelp;
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

  absl::Status Once(const std::string& prompt) {
    AddMessage("user", prompt);
    std::string answer;
    RETURN_IF_ERROR(Answer(answer));
    return interrupted_ ? absl::CancelledError("interrupted") : absl::OkStatus();
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
                << kChatHelp;
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
    const auto reader = options_.continues ? stub_->Generate(&context, ContinuationOf(request_))
                                           : stub_->Chat(&context, request_);
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
      answer += response.delta().text();
      if (!printer.Print(response)) context.TryCancel();
    }
    const grpc::Status status = reader->Finish();
    if (std::cout.good()) printer.Finish();
    if (!std::cout.good()) return absl::CancelledError("standard output cannot be written");
    if (interrupt.signal() == SIGTERM) return absl::CancelledError("terminated");
    interrupted_ = interrupt.interrupted();
    if (interrupted_) return absl::OkStatus();  // what was said stays said
    return ExplainError(status, options_.server.address, "tidegate-engine");
  }

  const ChatOptions& options_;
  v1::ChatRequest request_;
  bool accounts_;
  bool interrupted_ = false;  // the last answer
  const bool terminal_;
  std::unique_ptr<v1::GenerationService::Stub> stub_;  // made inside the first guard: its threads
                                                       // leave Ctrl-C to us
};

}  // namespace

absl::Status RunChat(const ChatOptions& options) { return ChatSession(options).Run(); }

absl::Status AnswerOnce(const ChatOptions& options, const std::string& prompt) {
  return ChatSession(options).Once(prompt);
}

}  // namespace tidegate
