// The `tidegate` command.
#include <cstdio>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "base/build_info_values.h"
#include "base/flags.h"
#include "base/log.h"
#include "base/process.h"
#include "base/shutdown.h"
#include "base/standard_streams.h"
#include "base/text.h"
#include "cli/commands.h"

namespace {

constexpr size_t kMaxMessageBytes = 8192;

void Complain(std::string_view message) {
  std::fprintf(stderr, "tidegate: %s\n",
               tidegate::PrintableLines(message, kMaxMessageBytes).c_str());
}

int Run(int argc, char** argv) {
  CLI::App app{
      "Tidegate serves language models that are larger than the memory they are given.\n\n"
      "A first run:\n"
      "  tidegate serve model.gguf &\n"
      "  tidegate generate 'Once upon a time'\n"};
  app.set_version_flag("--version",
                       absl::StrCat("tidegate ", TIDEGATE_VERSION, " (", TIDEGATE_REVISION, ")"));
  app.require_subcommand(1);
  tidegate::CommandRun run;
  tidegate::AddServeCommand(app, run);
  tidegate::AddRunCommand(app, run);
  tidegate::AddPackCommand(app, run);
  tidegate::AddInspectCommand(app, run);
  tidegate::AddGenerateCommand(app, run);
  tidegate::AddChatCommand(app, run);
  tidegate::AddCancelCommand(app, run);
  tidegate::AddTokenizeCommand(app, run);
  tidegate::AddTemplateCommand(app, run);
  tidegate::AddLogitsCommand(app, run);
  tidegate::AddEvalCommand(app, run);
  tidegate::AddProfileCommand(app, run);
  tidegate::AddSimulateCommand(app, run);
  tidegate::AddBenchCommand(app, run);
  tidegate::AddLoadCommand(app, run);
  tidegate::AddHealthCommand(app, run);
  tidegate::AddStatsCommand(app, run);
  tidegate::AddTopCommand(app, run);
  tidegate::AddPlanCommand(app, run);
  tidegate::AddDoctorCommand(app, run);
  tidegate::AddKeyCommand(app, run);
  const auto named = [&](const CLI::App* command) { return command->get_name() == argv[1]; };
  if (argc > 1 && argv[1][0] != '-' && app.get_subcommands(named).empty()) {
    Complain("unknown command " + tidegate::Quoted(argv[1]) + "; `tidegate --help` lists them");
    return 1;
  }
  if (const auto code = tidegate::ParseProgram(app, argc, argv); code.has_value()) return *code;
  const absl::Status status = run();
  if (status.ok()) return 0;
  // Who finds the output closed has stopped for that: main() says so.
  if (tidegate::FlushStandardOutput().ok())
    Complain({status.message().data(), status.message().size()});
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  tidegate::HandleShutdownSignals();
  tidegate::OpenStandardStreams();
  tidegate::PrepareProcess();
  // Store and engine run inside some commands: only what is wrong belongs between their results.
  tidegate::InitLog("tidegate", tidegate::LogLevel::kWarning);
  return tidegate::FinishStandardOutput("tidegate", Run(argc, argv));
}
