// `tidegate doctor`: whether this host and drive can serve well, and what to do where they cannot.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/flags.h"
#include "cli/commands.h"
#include "cli/host_facts.h"
#include "cli/host_findings.h"
#include "cli/terminal_text.h"

namespace tidegate {
namespace {

constexpr const char* kDoctorExamples =
    R"(Run it as the user, and in the container, that the store will run in: limits are
theirs. It makes and removes a small file in the region's folder and, with --drive FOLDER,
one there. Exits with 0 if nothing stands in the way of serving (warnings cost speed), else
with 1.

Examples:
  tidegate doctor                                            the host alone
  tidegate doctor --pack model.tgpack --memory-budget 8GiB   whether this would start, and run well
  tidegate doctor --drive /mnt/nvme                          before a pack is put there
  tidegate doctor --json | jq '.findings[] | select(.level != "ok")'
)";

struct DoctorFlags {
  HostQuestion question;
  bool json = false;
};

absl::Status RunDoctor(const DoctorFlags& flags) {
  const std::vector<Finding> findings = Diagnose(ReadHostFacts(flags.question));
  const std::string text =
      flags.json ? JsonForOutput(FindingsJson(findings)) + "\n" : FindingsText(findings);
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (Usable(findings)) return absl::OkStatus();
  const auto problems = std::count_if(findings.begin(), findings.end(), [](const Finding& f) {
    return f.level == FindingLevel::kProblem;
  });
  return absl::FailedPreconditionError(
      absl::StrCat(problems, problems == 1 ? " problem stands" : " problems stand",
                   " in the way of serving; the report has the remedies"));
}

}  // namespace

void AddDoctorCommand(CLI::App& app, CommandRun& run) {
  const auto flags = std::make_shared<DoctorFlags>();
  HostQuestion& question = flags->question;
  CLI::App& command = AddSubcommand(
      app, "doctor", "Check this host and drive, with remedies", kDoctorExamples,
      [flags, &run](const CLI::App&) { run = [flags] { return RunDoctor(*flags); }; });
  const Flag pack = AddFileFlag(command, "--pack", question.pack,
                                "A pack: its drive, and whether it can be served");
  AddFileFlag(command, "--drive", question.drive, "A folder, or a file, on the drive to look at")
      .Excludes(pack);
  AddBytesFlag(command, "--memory-budget", question.budget_bytes,
               "What the store would be given, for example 8GiB");
  AddTextFlag(command, "--region-dir", question.region_dir, "Folder of the store's shared region");
  AddSwitch(command, "--json", flags->json, "JSON on standard output");
}

}  // namespace tidegate
