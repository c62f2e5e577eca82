// `tidegate pack`: makes a pack from a model.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/flags.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "cli/servable.h"
#include "measure/calibration.h"
#include "measure/text_score.h"
#include "packer/atomic_file.h"
#include "packer/hyper_parameters.h"
#include "packer/pack_plan.h"
#include "packer/pack_writer.h"
#include "packer/special_tokens.h"
#include "proto/store/v1/profile.h"
#include "weightstore/budget.h"

namespace tidegate {
namespace {

constexpr const char* kPackExamples = R"(Examples:
  tidegate pack model.gguf                               writes model.tgpack beside it, 8-bit units
  tidegate pack model.gguf -o /nvme/model.tgpack --units q4
  tidegate pack model.gguf --units q4 --calibrate t.txt  loses about half as much
  tidegate pack Llama-3.2-1B/                            safetensors as they come from a hub
  tidegate pack model.gguf --block-bytes 64KiB           fewer, larger reads
  tidegate eval model.gguf --text t.txt --mode dip --density 0.5 --record t.trace
  tidegate pack model.gguf --trace t.trace               places units by how often they are used
  tidegate pack model.gguf --lora adapter.gguf=0.5       merges half of an adapter
  tidegate pack model.gguf --profile profile.json        what `tidegate profile` measured

Attention, embeddings and norms keep the type that they have in the model. --units is about the MLP
weights, which are streamed. F32, F16 and BF16 files lose least: the weights of quantised files were
already rounded along rows and are rounded again along columns.
--calibrate runs the model over a text like those it will serve (documents separated by
<|endoftext|>) and lets each column make good what rounding the ones before it changed. It takes the
time to read the text with the model, up to 1 GiB of memory for what it learns, and a temporary pack
with 8-bit units.
A sliding window is applied wherever the file sets attention.sliding_window, where llama.cpp ignores
it for llama and phi3 models too: docs/architectures.md has the architectures and their facts.
The pack appears under its name only when it is complete.
)";

constexpr size_t kShownPackPathBytes = 4096;
constexpr size_t kShownKeysBytes = 2000;

struct PackFlags {
  std::string in;
  std::string out;
  std::string units = "q8";
  std::string block_bytes, hidden_block_bytes;
  std::string trace;
  std::string calibrate;
  uint64_t calibrate_tokens = 16385;
  std::vector<std::string> lora;
  std::string profile;
};

void PrintPadding(const char* name, const KindGeometry& kind) {
  const uint64_t stored = uint64_t{kind.block_count} * kind.block_bytes;
  const uint64_t used = uint64_t{kind.unit_count} * kind.unit_bytes;
  std::printf("  %-12s %u per layer, %u bytes each, %u per block of %s, %.1f %% padding\n", name,
              kind.unit_count, kind.unit_bytes, kind.units_per_block,
              FormatBytes(kind.block_bytes).c_str(),
              100.0 * static_cast<double>(stored - used) / static_cast<double>(stored));
}

// Types of the static matrices, the one with the most bytes first.
std::string StaticTypes(const store::v1::Manifest& manifest) {
  std::map<uint32_t, uint64_t> bytes;
  for (const store::v1::StaticTensor& tensor : manifest.static_tensors()) {
    if (tensor.rows() > 1) bytes[tensor.type()] += tensor.bytes();
  }
  std::vector<std::pair<uint64_t, uint32_t>> order;
  for (const auto& [type, size] : bytes) order.emplace_back(size, type);
  std::sort(order.rbegin(), order.rend());
  return absl::StrJoin(order, ", ", [](std::string* out, const auto& entry) {
    absl::StrAppend(out, GgmlTypeName(entry.second), " ", FormatBytes(entry.first));
  });
}

void PrintRounding(const PackReport& report) {
  const auto& error = report.relative_rms_error;
  if (error[0] == 0 && error[1] == 0 && error[2] == 0) {
    std::printf("  %-12s none: lossless\n", "rounding");
  } else {
    std::printf("  %-12s gate %.3g, up %.3g, down %.3g (relative RMS of the weights)\n", "rounding",
                error[0], error[1], error[2]);
  }
}

void PrintTokenizer(const store::v1::Tokenizer& tokenizer) {
  if (const std::string promoted = PromotedText(tokenizer); !promoted.empty()) {
    std::printf("  %-12s of another type in the source, special tokens here: %s\n", "tokenizer",
                promoted.c_str());
  }
  if (tokenizer.dropped_tokens() > 0) {
    std::printf(
        "  %-12s without the last %u tokens of the source: the embedding has no rows for "
        "them\n",
        "tokenizer", tokenizer.dropped_tokens());
  }
}

absl::Status PrintSummary(const std::string& path, const PackReport& report) {
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(path));
  ASSIGN_OR_RETURN(const PackIndex index, ReadPackIndex(fd.get(), path));
  const auto encoding = static_cast<UnitEncoding>(index.manifest.unit_encoding());
  std::printf("%s: %s, %s\n", Printable(path, kShownPackPathBytes).c_str(),
              index.manifest.model_name().c_str(), FormatBytes(report.file_bytes).c_str());
  std::printf("  %-12s %s\n", "uuid", UuidText(report.uuid).c_str());
  std::printf("  %-12s %s in %d tensors (%s), stays in memory\n", "static",
              FormatBytes(report.static_bytes).c_str(), index.manifest.static_tensors_size(),
              StaticTypes(index.manifest).c_str());
  if (const uint64_t least = LeastStaticBytes(index); least < report.static_bytes) {
    std::printf("  %-12s but for the embedding's %s where the budget does not hold everything\n",
                "", FormatBytes(report.static_bytes - least).c_str());
  }
  std::printf("  %-12s %s in %u layers, %s\n", "streamed", FormatBytes(report.block_bytes).c_str(),
              index.geometry.layer_count, std::string(UnitEncodingName(encoding)).c_str());
  PrintPadding("input units", index.geometry.kinds[0]);
  PrintPadding("hidden units", index.geometry.kinds[1]);
  PrintRounding(report);
  PrintTokenizer(index.manifest.tokenizer());
  if (index.manifest.has_profile()) {
    std::printf("  %-12s a ladder of %d points\n", "profile",
                index.manifest.profile().ladder_size());
  }
  if (report.requantised) {
    std::printf(
        "warning: the MLP weights of the source (%s) were rounded along rows and are now rounded "
        "again\n"
        "along columns; packing from a wider source (F16, BF16 or F32) loses less.\n",
        index.manifest.source().matrix_types().c_str());
  }
  return absl::OkStatus();
}

// What the rounding costs on the part of the text that did not steer it.
absl::Status PrintLoss(const Calibration& calibration, const std::string& pack) {
  ASSIGN_OR_RETURN(const Score score, ScoreHeldOut(calibration.text, pack));
  const double before = calibration.source.Perplexity(), after = score.Perplexity();
  std::printf(
      "  %-12s perplexity %.4f, with 8-bit units %.4f: %+.2f %% (%llu tokens held out, %llu "
      "learnt from)\n",
      "calibrated", after, before, 100 * (after / before - 1),
      static_cast<unsigned long long>(score.tokens),
      static_cast<unsigned long long>(calibration.tokens));
  return absl::OkStatus();
}

// Of a flag; 0 if it was not given.
absl::StatusOr<uint64_t> BlockBytes(const char* flag, const std::string& text) {
  if (text.empty()) return 0;
  const absl::StatusOr<uint64_t> bytes = ParseBytes(text);
  if (!bytes.ok()) return Annotate(bytes.status(), flag);
  if (*bytes > 0) return *bytes;
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " 0 holds nothing; write for example 16KiB"));
}

// Beside the source: model.gguf -> model.tgpack, model-00001-of-00003.gguf -> model.tgpack,
// folder/ -> folder.tgpack.
std::string DefaultOutput(const SourceModel& source) {
  std::string stem = source.path();
  if (source.is_folder()) {
    std::error_code error;
    const auto whole = std::filesystem::canonical(stem, error);  // "." and ".." are no names
    if (!error) stem = whole.string();
  } else {
    stem = std::filesystem::path(stem).replace_extension().string();
    constexpr size_t kSplitTail = std::string_view("-00001-of-00003").size();
    if (source.file_count() > 1) stem.resize(stem.size() - kSplitTail);
  }
  return stem + ".tgpack";
}

absl::StatusOr<PackOptions> OptionsOf(const PackFlags& flags) {
  PackOptions options;
  ASSIGN_OR_RETURN(options.units, ParseUnitEncoding(flags.units));
  ASSIGN_OR_RETURN(options.block_bytes, BlockBytes("--block-bytes", flags.block_bytes));
  ASSIGN_OR_RETURN(options.hidden_block_bytes,
                   BlockBytes("--hidden-block-bytes", flags.hidden_block_bytes));
  options.trace_path = flags.trace;
  for (const std::string& text : flags.lora) {
    ASSIGN_OR_RETURN(LoraSource adapter, ParseLoraSource(text));
    options.adapters.push_back(std::move(adapter));
  }
  if (!flags.calibrate.empty() && options.units != UnitEncoding::kQ4) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--calibrate is for --units q4; there is nothing to win back from ", flags.units));
  }
  return options;
}

// Errors name the file at fault: the profile's, or the model's.
absl::StatusOr<store::v1::Profile> ProfileFor(const store::v1::Manifest& manifest,
                                              const std::string& path) {
  ASSIGN_OR_RETURN(store::v1::Profile profile, ReadProfile(path));
  RETURN_IF_ERROR(Annotate(CheckProfileModel(profile, manifest), path));
  return profile;
}

absl::StatusOr<Calibration> CalibrateFor(const PackFlags& flags, const PackOptions& options) {
  auto calibration = Calibrate({.model = flags.in,
                                .text = flags.calibrate,
                                .tokens_max = flags.calibrate_tokens,
                                .adapters = options.adapters});
  if (!calibration.ok()) return Annotate(calibration.status(), "--calibrate");
  return calibration;
}

absl::Status RunPack(const PackFlags& flags) {
  ASSIGN_OR_RETURN(PackOptions options, OptionsOf(flags));
  ASSIGN_OR_RETURN(const SourceModel source, SourceModel::Open(flags.in));
  const std::string out = flags.out.empty() ? DefaultOutput(source) : flags.out;
  std::vector<std::string> inputs = {flags.in, flags.calibrate, flags.profile, flags.trace};
  for (const LoraSource& adapter : options.adapters) inputs.push_back(adapter.path);
  RETURN_IF_ERROR(RefuseToReplace(inputs, out));
  if (const std::vector<std::string> ignored = IgnoredKeys(source); !ignored.empty()) {
    std::fprintf(stderr, "settings of the model that nothing here knows, ignored: %s\n",
                 Printable(absl::StrJoin(ignored, ", "), kShownKeysBytes).c_str());
  }
  ASSIGN_OR_RETURN(const PackPlan plan, ServablePlan(source, options));
  if (!flags.profile.empty()) {
    ASSIGN_OR_RETURN(options.profile, ProfileFor(plan.manifest, flags.profile));
  }
  std::optional<Calibration> calibration;
  if (!flags.calibrate.empty()) {
    ASSIGN_OR_RETURN(calibration, CalibrateFor(flags, options));
    options.moments = calibration->moments;
  }
  Progress progress("packing");
  auto report = WritePack(source, out, options,
                          [&](uint64_t done, uint64_t total) { progress.Update(done, total); });
  progress.Finish();
  if (!report.ok()) return report.status();
  RETURN_IF_ERROR(PrintSummary(out, *report));
  return calibration ? PrintLoss(*calibration, out) : absl::OkStatus();
}

}  // namespace

void AddPackCommand(CLI::App& app, CommandRun& run) {
  const auto flags = std::make_shared<PackFlags>();
  CLI::App& command = AddSubcommand(
      app, "pack", "Make a pack from a GGUF file or a Hugging Face folder", kPackExamples,
      [flags, &run](const CLI::App&) { run = [flags] { return RunPack(*flags); }; });
  AddTextFlag(command, "MODEL", flags->in,
              "A GGUF file (of a split model: any one), or a folder with config.json and "
              "safetensors; `tidegate inspect` says whether it can be packed")
      .Required();
  AddTextFlag(command, "-o,--out", flags->out,
              "The pack to write; an older one is replaced [MODEL with .tgpack]");
  AddTextFlag(command, "--units", flags->units,
              "How MLP weights are stored: q8, q4, f16 or f32 (8 and 4 bits in groups of 32)");
  AddTextFlag(command, "--block-bytes", flags->block_bytes,
              "Bytes that one read fetches, a multiple of 512, e.g. 16KiB "
              "[one unit; as many as 8 of ffn_down where they are small]");
  AddTextFlag(command, "--hidden-block-bytes", flags->hidden_block_bytes,
              "The same for the columns of ffn_down alone [as --block-bytes]");
  AddFileFlag(command, "--trace", flags->trace,
              "Masks recorded by `tidegate eval --record`: units are placed by how often "
              "they are used");
  AddFileFlag(command, "--calibrate", flags->calibrate,
              "For --units q4: a text that the model reads first, so that rounding changes "
              "least what its weights are used for");
  AddIntegerFlag(command, "--calibrate-tokens", flags->calibrate_tokens, {0, kMaxTextTokens},
                 "Tokens to take from the start of that text; 0: all");
  AddRepeatedFlag(
      command, "--lora",
      [flags](const std::vector<std::string>& adapters) { flags->lora = adapters; },
      "LoRA adapter (GGUF) to merge, FILE or FILE=SCALE; may be repeated; matrices "
      "that it changes and that stay in memory become F32");
  AddFileFlag(command, "--profile", flags->profile,
              "Profile of `tidegate profile`: goes into the pack, for tidegate-engine "
              "--max-perplexity-increase and --target-tokens-per-second");
}

}  // namespace tidegate
