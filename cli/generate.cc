// `tidegate generate`: streams a continuation of a prompt to the terminal.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <iostream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/flags.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/units.h"
#include "base/utf8.h"
#include "cli/client_options.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/request_flags.h"
#include "cli/stream_printer.h"
#include "cli/terminal_text.h"
#include "grpcpp/grpcpp.h"
#include "server/parse_request.h"
#include "tidegate/v1/generation.grpc.pb.h"

namespace tidegate {
namespace {

struct GenerateOptions {
  ServerTarget server;
  std::string prompt;
  std::string prompt_file;
  std::chrono::nanoseconds deadline{0};  // 0: none
  bool json = false;
  bool quiet = false;
  v1::GenerateRequest request;  // flags write into it, so that what is not given stays unset
};

absl::StatusOr<std::string> ReadPrompt(const GenerateOptions& options) {
  if (options.prompt_file.empty()) return options.prompt;
  if (!options.prompt.empty()) {
    return absl::InvalidArgumentError("give PROMPT or --prompt-file, not both");
  }
  const auto text = ReadFile(options.prompt_file, kMaxPromptBytes);
  return text.ok() ? text : Annotate(text.status(), "--prompt-file");
}

StreamPrinter::Form FormOf(const GenerateOptions& options) {
  if (options.json) return StreamPrinter::Form::kJson;
  return options.quiet ? StreamPrinter::Form::kQuiet : StreamPrinter::Form::kText;
}

absl::Status Generate(GenerateOptions& options) {
  ASSIGN_OR_RETURN(std::string prompt, ReadPrompt(options));
  if (prompt.empty()) {
    return absl::InvalidArgumentError("no prompt: tidegate generate 'Once upon a time'");
  }
  for (std::string_view rest = prompt; !rest.empty();) {
    const Utf8Step step = NextUtf8(rest);
    if (step.kind != Utf8Kind::kCharacter) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the prompt is not UTF-8 at byte ", prompt.size() - rest.size(), "; convert it first"));
    }
    rest.remove_prefix(step.bytes);
  }
  options.request.set_text(std::move(prompt));
  signal(SIGPIPE, SIG_IGN);  // `| head` ends us through Print()

  grpc::ClientContext context;
  if (options.deadline.count() > 0) {
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::duration_cast<std::chrono::microseconds>(options.deadline));
  }
  InterruptGuard interrupt([&context] { context.TryCancel(); });
  const auto stub = v1::GenerationService::NewStub(Dial(options.server));
  StreamPrinter printer(FormOf(options), OutputIsTerminal(), std::cout, std::cerr);
  const auto reader = stub->Generate(&context, options.request);
  v1::GenerateResponse response;
  bool output_open = true;
  while (reader->Read(&response)) {
    output_open = output_open && printer.Print(response);
    if (!output_open) context.TryCancel();
  }
  const grpc::Status status = reader->Finish();
  if (output_open) printer.Finish();
  if (interrupt.interrupted()) return absl::CancelledError("interrupted");
  if (!output_open) return absl::CancelledError("standard output cannot be written");
  return ExplainError(status, options.server.address, "tidegate-engine");
}

}  // namespace

void AddGenerateCommand(CLI::App& app, CommandRun& run) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App& command = AddSubcommand(
      app, "generate", "Stream a continuation of a prompt",
      "\nThe text goes to standard output, its accounts to standard error. Ctrl-C ends the "
      "stream.\n"
      "Examples:\n"
      "  tidegate generate 'Once upon a time' --max-tokens 200\n"
      "  tidegate generate --prompt-file story.txt --density 0.5 --seed 7 --json\n"
      "  tidegate generate 'The sea' --choices 4       # read once, continued four times\n",
      [options, &run](const CLI::App&) { run = [options] { return Generate(*options); }; });
  AddTextFlag(command, "PROMPT", options->prompt, "Text to continue");
  AddTextFlag(command, "--prompt-file", options->prompt_file, "File with the prompt; - is stdin");
  AddServerFlag(command, options->server);
  AddRequestFlags(command, options->request);
  v1::GenerateRequest& request = options->request;
  AddIntegerFlag(
      command, "--choices",
      [&request](uint64_t v) { request.set_choices(static_cast<uint32_t>(v)); }, {1, kMaxChoices},
      "Answers to the one prompt, up to the server's --max-choices")
      .Default(absl::StrCat(GenerationRequest().choices));
  AddTimeFlag(command, "--deadline", "Give up after this time",
              [options](std::chrono::nanoseconds d) { options->deadline = d; });
  AddSwitch(command, "--json", options->json, "One JSON object at the end instead of text");
  AddSwitch(command, "--quiet,-q", options->quiet, "No accounts");
}

}  // namespace tidegate
