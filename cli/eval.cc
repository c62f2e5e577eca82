// `tidegate eval`: perplexity of a text, and what serving it would read from flash.
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/progress.h"
#include "base/status_macros.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "cli/text_score.h"
#include "cli/token_ids.h"
#include "proto/store/v1/mask_trace.h"
#include "weightstore/pack/atomic_file.h"

namespace tidegate {
namespace {

constexpr const char* kExamples =
    "Examples:\n"
    "  tidegate eval models/stories-7M.f16.gguf --text models/tinystories-heldout.txt --units "
    "f16\n"
    "  tidegate eval model.gguf --text t.txt --mode dip_ca --density 0.75 --gamma 0.2 "
    "--cache-fraction 0.5\n"
    "  tidegate eval model.gguf --text t.txt --mode dip --density 0.5 --record t.trace\n\n"
    "The text is split at lines <|endoftext|>; every document stands between BOS and EOS. Chunks "
    "of\n"
    "--chunk tokens are scored independently, each from an empty KV cache; the weight cache is "
    "empty at\n"
    "the start and kept across chunks. With pruning every token is pruned as if it were "
    "generated.\n"
    "A GGUF file is packed with one unit per block, so that --cache-fraction counts units.\n";

struct Flags {
  ModelFlags model;
  std::string text;
  std::string ids;
  uint32_t chunk = 256;
  uint64_t max_tokens = 0;
  std::string record;  // path
  bool json = false;
};

// Writes the masks of a decoder to a file that appears when it is complete.
class Recording {
 public:
  Recording(std::string path, AtomicFile file, const ModelConfig& config, Decoder& decoder)
      : path_(std::move(path)),
        decoder_(decoder),
        file_(std::move(file)),
        writer_(file_.fd(), {config.layer_count, {config.hidden_size, config.intermediate_size}}) {
    decoder.set_on_mask([this](uint32_t, UnitKind kind, const UnitOrder& order,
                               std::span<const uint32_t> positions) {
      units_.clear();
      for (const uint32_t position : positions) units_.push_back(order.Unit(position));
      writer_.Add(kind, units_);
    });
  }
  Recording(const Recording&) = delete;
  ~Recording() { decoder_.set_on_mask(nullptr); }

  // Fails as soon as the file does.
  absl::Status status() const { return Named(writer_.status()); }
  absl::Status End() {
    RETURN_IF_ERROR(Named(writer_.Finish()));
    return Named(file_.Commit());
  }

 private:
  absl::Status Named(const absl::Status& status) const {
    return status.ok() ? status : Annotate(status, absl::StrCat("--record ", path_));
  }

  const std::string path_;
  Decoder& decoder_;
  AtomicFile file_;
  MaskTraceWriter writer_;
  std::vector<uint32_t> units_;
};

double Rate(uint64_t hits, uint64_t misses) {
  return hits + misses == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(hits + misses);
}

void Print(const Flags& flags, const Score& score, const LocalModel& local, const PruneStep* step) {
  const double tokens = static_cast<double>(score.tokens);
  const double nll = score.nll / tokens;
  const PassAccounts& a = score.accounts;
  const double bytes = static_cast<double>(a.flash_bytes) / tokens;
  const ModelConfig& c = local.model().config;
  const uint32_t kept_input = step != nullptr ? step->kept_input : c.hidden_size;
  const uint32_t kept_hidden = step != nullptr ? step->kept_hidden : c.intermediate_size;
  const double hit_rate = Rate(a.hit_units[0] + a.hit_units[1], a.miss_units[0] + a.miss_units[1]);
  const uint64_t streamed = local.store().info().streamed_model_bytes;
  if (flags.json) {
    std::printf(
        "{\"nll\": %.6f, \"perplexity\": %.4f, \"tokens\": %llu, \"mode\": \"%s\", \"density\": "
        "%g, "
        "\"gamma\": %g, \"cache_fraction\": %g, \"kept_input_units\": %u, \"kept_hidden_units\": "
        "%u, "
        "\"hit_rate\": %.4f, \"hit_rate_input\": %.4f, \"hit_rate_hidden\": %.4f, "
        "\"missed_input_units_per_token\": %.2f, \"missed_hidden_units_per_token\": %.2f, "
        "\"flash_bytes_per_token\": %.0f, \"flash_share_of_dense\": %.4f}\n",
        nll, std::exp(nll), static_cast<unsigned long long>(score.tokens), flags.model.mode.c_str(),
        flags.model.density, step != nullptr ? step->gamma : 1.0, flags.model.cache_fraction,
        kept_input, kept_hidden, hit_rate, Rate(a.hit_units[0], a.miss_units[0]),
        Rate(a.hit_units[1], a.miss_units[1]), static_cast<double>(a.miss_units[0]) / tokens,
        static_cast<double>(a.miss_units[1]) / tokens, bytes,
        bytes / static_cast<double>(streamed));
    return;
  }
  std::printf("perplexity        %.4f (%.6f nats per token over %llu tokens)\n", std::exp(nll), nll,
              static_cast<unsigned long long>(score.tokens));
  std::printf("units per layer   %u of %u input, %u of %u hidden\n", kept_input, c.hidden_size,
              kept_hidden, c.intermediate_size);
  std::printf("hit rate          %.1f %% of selected units (input %.1f %%, hidden %.1f %%)\n",
              100 * hit_rate, 100 * Rate(a.hit_units[0], a.miss_units[0]),
              100 * Rate(a.hit_units[1], a.miss_units[1]));
  std::printf("from flash        %.0f bytes per token, %.1f %% of the MLP weights\n", bytes,
              100 * bytes / static_cast<double>(streamed));
}

absl::Status CheckTokens(std::span<const TokenId> tokens, const Flags& flags, uint32_t vocab) {
  if (flags.chunk == 0) return absl::InvalidArgumentError("--chunk must be at least 1");
  if (tokens.size() < size_t{flags.chunk} + 1) {
    return absl::InvalidArgumentError(absl::StrCat("the text has ", tokens.size(),
                                                   " tokens; --chunk ", flags.chunk,
                                                   " needs at least ", uint64_t{flags.chunk} + 1));
  }
  return CheckTokenIds(tokens, vocab);
}

// The file for --record, before the long work.
absl::StatusOr<AtomicFile> CreateRecording(const Flags& flags,
                                           const std::vector<LoraSource>& adapters) {
  if (flags.model.mode == "dense") {
    return absl::InvalidArgumentError("--record: mode dense has no masks; use --mode dip");
  }
  if (flags.model.density >= 1) {
    return absl::InvalidArgumentError(
        "--record: at density 1 masks hold every unit; use for example --density 0.5");
  }
  std::vector<std::string> inputs = {flags.model.model, flags.text, flags.ids};
  for (const LoraSource& adapter : adapters) inputs.push_back(adapter.path);
  RETURN_IF_ERROR(RefuseToReplace(inputs, flags.record));
  return AtomicFile::Create(flags.record);
}

absl::Status Run(const Flags& flags) {
  if (flags.text.empty() == flags.ids.empty()) {
    return absl::InvalidArgumentError("give either --text FILE or --ids FILE");
  }
  std::vector<TokenId> tokens;
  if (flags.text.empty()) {
    ASSIGN_OR_RETURN(tokens, ReadTokenIds(flags.ids));
  } else {
    ASSIGN_OR_RETURN(tokens, TokensOfText(flags.text, flags.model.model));
  }
  ASSIGN_OR_RETURN(LocalModelOptions options, flags.model.LocalOptions());
  options.one_unit_per_block = true;
  std::optional<AtomicFile> record_file;
  if (!flags.record.empty()) {
    ASSIGN_OR_RETURN(AtomicFile file, CreateRecording(flags, options.adapters));
    record_file.emplace(std::move(file));
  }
  ASSIGN_OR_RETURN(const bool half, flags.model.HalfKv());
  ASSIGN_OR_RETURN(const Precision precision, flags.model.ParsedPrecision());
  ASSIGN_OR_RETURN(const auto local, LocalModel::Open(options));
  ASSIGN_OR_RETURN(const std::optional<PruneStep> step, flags.model.Step(local->model().config));
  RETURN_IF_ERROR(CheckTokens(tokens, flags, local->model().config.vocab_size));

  uint64_t chunks = (tokens.size() - 1) / flags.chunk;
  if (flags.max_tokens > 0) {
    chunks = std::min(chunks, std::max<uint64_t>(1, flags.max_tokens / flags.chunk));
  }
  std::optional<Recording> recording;
  if (record_file.has_value()) {
    recording.emplace(flags.record, *std::move(record_file), local->model().config,
                      local->decoder());
  }
  Score score;
  Progress progress("scoring", "tokens");
  const std::span<const TokenId> all(tokens);
  for (uint64_t w = 0; w < chunks; ++w) {
    RETURN_IF_ERROR(ScoreChunk(*local, all.subspan(w * flags.chunk, flags.chunk),
                               all.subspan(w * flags.chunk + 1, flags.chunk),
                               step ? &*step : nullptr, half, precision, score));
    if (recording.has_value()) RETURN_IF_ERROR(recording->status());
    progress.Update((w + 1) * flags.chunk, chunks * flags.chunk);
  }
  progress.Finish();
  Print(flags, score, *local, step ? &*step : nullptr);
  return recording.has_value() ? recording->End() : absl::OkStatus();
}

}  // namespace

void AddEvalCommand(CLI::App& app, CommandRun& run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("eval", "Perplexity, hit rate and flash traffic of a text");
  flags->model.Register(*command);
  command->add_option("--text", flags->text, "text file; documents separated by <|endoftext|>");
  command->add_option("--ids", flags->ids, "file of token ids instead of a text");
  command->add_option("--chunk", flags->chunk, "tokens per chunk")->capture_default_str();
  command->add_option("--max-tokens", flags->max_tokens,
                      "score whole chunks up to this many, at least one; 0: all");
  command
      ->add_option("--record", flags->record,
                   "write the masks to this file, for `tidegate pack --trace`; --mode dip shows "
                   "what the model uses, dip_ca what its cache made of it")
      ->check(NotEmpty());
  command->add_flag("--json", flags->json, "one JSON object on standard output");
  command->footer(kExamples);
  command->callback([flags, &run] { run = [flags] { return Run(*flags); }; });
}

}  // namespace tidegate
