// Subcommands of `tidegate`, one file each. AddX registers the subcommand with its flags and help;
// when the user names it, `run` is set to what main() then executes. All of it on the main thread.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"

namespace CLI {
class App;
}

namespace tidegate {

using CommandRun = std::function<absl::Status()>;

void AddServeCommand(CLI::App& app, CommandRun& run);     // cli/serve.cc
void AddRunCommand(CLI::App& app, CommandRun& run);       // cli/run.cc
void AddPackCommand(CLI::App& app, CommandRun& run);      // cli/pack.cc
void AddInspectCommand(CLI::App& app, CommandRun& run);   // cli/inspect.cc
void AddGenerateCommand(CLI::App& app, CommandRun& run);  // cli/generate.cc
void AddChatCommand(CLI::App& app, CommandRun& run);      // cli/chat.cc
void AddCancelCommand(CLI::App& app, CommandRun& run);    // cli/cancel.cc
void AddTokenizeCommand(CLI::App& app, CommandRun& run);  // cli/tokenize.cc
void AddTemplateCommand(CLI::App& app, CommandRun& run);  // cli/template.cc
void AddLogitsCommand(CLI::App& app, CommandRun& run);    // cli/logits.cc
void AddEvalCommand(CLI::App& app, CommandRun& run);      // cli/eval.cc
void AddProfileCommand(CLI::App& app, CommandRun& run);   // cli/profile.cc
void AddSimulateCommand(CLI::App& app, CommandRun& run);  // cli/simulate.cc
void AddBenchCommand(CLI::App& app, CommandRun& run);     // cli/bench.cc
void AddLoadCommand(CLI::App& app, CommandRun& run);      // cli/load.cc
void AddHealthCommand(CLI::App& app, CommandRun& run);    // cli/health.cc
void AddStatsCommand(CLI::App& app, CommandRun& run);     // cli/stats.cc
void AddTopCommand(CLI::App& app, CommandRun& run);       // cli/top.cc
void AddPlanCommand(CLI::App& app, CommandRun& run);      // cli/plan.cc
void AddDoctorCommand(CLI::App& app, CommandRun& run);    // cli/doctor.cc
void AddKeyCommand(CLI::App& app, CommandRun& run);       // cli/key.cc

}  // namespace tidegate
