// `tidegate chat`: a conversation in the terminal, or through a pipe, one line a turn.
#include <signal.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/flags.h"
#include "cli/chat_session.h"
#include "cli/client_options.h"
#include "cli/commands.h"
#include "cli/request_flags.h"

namespace tidegate {

void AddChatCommand(CLI::App& app, CommandRun& run) {
  auto options = std::make_shared<ChatOptions>();
  CLI::App& command = AddSubcommand(
      app, "chat", "Talk with the model, one line a turn",
      absl::StrCat("\n", kChatHelp,
                   "The answers go to standard output; questions may come through a pipe.\n"
                   "Examples:\n"
                   "  tidegate chat --system 'You are brief.'\n"
                   "  printf 'Hello\\nAnd in French?\\n' | tidegate chat --temperature 0\n"),
      [options, &run](const CLI::App&) {
        run = [options] {
          signal(SIGPIPE, SIG_IGN);  // `| head` ends us through std::cout
          return RunChat(*options);
        };
      });
  AddServerFlag(command, options->server);
  AddTextFlag(command, "--system", options->system, "What the model is told before the first turn");
  AddRequestFlags(command, options->request);
  AddSwitch(command, "--accounts", options->accounts,
            "Tokens, times and flash reads of every answer, on standard error");
}

}  // namespace tidegate
