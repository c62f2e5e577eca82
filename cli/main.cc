// The `tidegate` command.
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "base/build_info_values.h"
#include "base/log.h"
#include "cli/commands.h"

int main(int argc, char** argv) {
  // Store and engine run inside some commands: only what is wrong belongs between their results.
  tidegate::InitLog("tidegate", tidegate::LogLevel::kWarning);
  CLI::App app{
      "Tidegate serves language models that are larger than the memory they are given.\n\n"
      "A first run:\n"
      "  tidegate pack model.gguf -o model.tgpack\n"
      "  tidegate-store --pack model.tgpack --memory-budget 2GiB &\n"
      "  tidegate-engine &\n"
      "  tidegate generate 'Once upon a time'\n"};
  app.set_version_flag("--version",
                       absl::StrCat("tidegate ", TIDEGATE_VERSION, " (", TIDEGATE_REVISION, ")"));
  app.require_subcommand(1);
  tidegate::CommandRun run;
  tidegate::AddPackCommand(app, run);
  tidegate::AddInspectCommand(app, run);
  tidegate::AddGenerateCommand(app, run);
  tidegate::AddChatCommand(app, run);
  tidegate::AddTokenizeCommand(app, run);
  tidegate::AddTemplateCommand(app, run);
  tidegate::AddLogitsCommand(app, run);
  tidegate::AddEvalCommand(app, run);
  tidegate::AddCalibrateCommand(app, run);
  tidegate::AddSimulateCommand(app, run);
  tidegate::AddBenchCommand(app, run);
  tidegate::AddHealthCommand(app, run);
  tidegate::AddStatsCommand(app, run);
  const auto named = [&](const CLI::App* command) { return command->get_name() == argv[1]; };
  if (argc > 1 && argv[1][0] != '-' && app.get_subcommands(named).empty()) {
    std::fprintf(stderr, "tidegate: unknown command '%s'; `tidegate --help` lists them\n", argv[1]);
    return 1;
  }
  CLI11_PARSE(app, argc, argv);

  const absl::Status status = run();
  if (status.ok()) return 0;
  std::fprintf(stderr, "tidegate: %s\n", std::string(status.message()).c_str());
  return 1;
}
