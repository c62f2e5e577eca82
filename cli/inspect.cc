// `tidegate inspect`: explains a model or a pack.
#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/flags.h"
#include "base/progress.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/inspect_report.h"
#include "cli/terminal_text.h"
#include "measure/local_model.h"

namespace tidegate {
namespace {

constexpr const char* kInspectExamples =
    R"(Exits with 1 where the model cannot be packed, or the pack not be served.

Examples:
  tidegate inspect model.gguf               what is in it, and whether it can be packed
  tidegate inspect Llama-3.2-1B/            the same of a folder with safetensors
  tidegate inspect big.gguf --weights       reads all of a large model too
  tidegate inspect model.tgpack --verify    also reads every byte and compares checksums
  tidegate inspect model.tgpack --json | jq .streamed.bytes
)";

struct InspectFlags {
  std::string file;
  bool json = false;
  bool verify = false;
  bool weights = false;
};

// Weights that take no more are looked through without being asked: a few seconds.
constexpr uint64_t kSmallBytes = 2 * kGiB;
constexpr uint64_t kProgressBytes = 64 * kMiB;  // to read: progress is shown beyond

void Print(const Json& report, bool json) {
  const std::string text = json ? JsonForOutput(report) + "\n" : RenderText(report);
  std::fwrite(text.data(), 1, text.size(), stdout);
}

// Scripts ask by the exit code whether the file can be used.
absl::Status Verdict(const Json& part, const char* possible, const std::string& what) {
  if (part[possible].get<bool>()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(what, ": ", part["why_not"].get<std::string>()));
}

absl::Status InspectPack(const InspectFlags& flags) {
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(flags.file));
  ASSIGN_OR_RETURN(const PackIndex index, ReadPackIndex(fd.get(), flags.file));
  Json report = DescribePack(flags.file, index);
  if (!flags.verify) {
    Print(report, flags.json);
    return Verdict(report["serving"], "served", absl::StrCat(flags.file, " cannot be served"));
  }
  Progress progress("verifying");
  const auto verified = VerifyPack(
      fd.get(), index, [&](uint64_t done, uint64_t total) { progress.Update(done, total); });
  progress.Finish();
  if (!verified.ok()) return Annotate(verified.status(), flags.file);
  report["verification"] = DescribeVerification(*verified);
  Print(report, flags.json);
  if (verified->ok()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(flags.file, ": ", verified->bad_blocks.size(),
                                          " damaged blocks and ", verified->bad_tensors.size(),
                                          " damaged static tensors; pack the model again"));
}

absl::Status RunInspect(const InspectFlags& flags) {
  if (StartsAsPack(flags.file)) return InspectPack(flags);
  ASSIGN_OR_RETURN(const SourceModel file, SourceModel::Open(flags.file));
  if (flags.verify) {
    return absl::InvalidArgumentError(
        absl::StrCat("--verify: ", flags.file, " is no pack and has no checksums; packs have"));
  }
  Progress progress("reading");
  const Json report = DescribeGguf(file, flags.weights ? UINT64_MAX : kSmallBytes,
                                   [&](uint64_t done, uint64_t total) {
                                     if (total > kProgressBytes) progress.Update(done, total);
                                   });
  progress.Finish();
  Print(report, flags.json);
  return Verdict(report["packing"], "possible", absl::StrCat(flags.file, " cannot be packed"));
}

}  // namespace

void AddInspectCommand(CLI::App& app, CommandRun& run) {
  const auto flags = std::make_shared<InspectFlags>();
  CLI::App& command = AddSubcommand(
      app, "inspect", "Explain a model or a pack", kInspectExamples,
      [flags, &run](const CLI::App&) { run = [flags] { return RunInspect(*flags); }; });
  AddTextFlag(command, "FILE", flags->file, "A GGUF file, a Hugging Face folder or a pack")
      .Required();
  AddSwitch(command, "--json", flags->json, "JSON on standard output");
  AddSwitch(command, "--verify", flags->verify,
            "Of a pack: read every block and static tensor and compare checksums");
  AddSwitch(command, "--weights", flags->weights,
            absl::StrCat("Of a model: look through all weights for numbers that are not "
                         "finite, however many; up to ",
                         FormatBytes(kSmallBytes),
                         " are always looked through, of more the norms and biases"));
}

}  // namespace tidegate
