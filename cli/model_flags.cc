#include "cli/model_flags.h"

#include "absl/strings/str_cat.h"
#include "base/flags.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/units.h"
#include "engine/pruning.h"
#include "engine/request_limits.h"

namespace tidegate {
namespace {

// Without a budget to take a share of: room for large reads.
constexpr uint64_t kStagingBytes = kMiB;

constexpr const char* kUnits = "q8";  // of what is packed here

absl::Status CheckUnitsOfPack(const std::string& path, UnitEncoding wanted) {
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(path));
  ASSIGN_OR_RETURN(const PackIndex index, ReadPackIndex(fd.get(), path));
  const auto own = static_cast<UnitEncoding>(index.manifest.unit_encoding());
  if (own == wanted) return absl::OkStatus();
  const std::string has(UnitEncodingName(own)), asked(UnitEncodingName(wanted));
  return absl::InvalidArgumentError(
      absl::StrCat("--units ", asked, ": ", path, " is a pack and has ", has,
                   " units; leave --units out, or give the model that it was made from"));
}

}  // namespace

void ModelFlags::Register(CLI::App& command) {
  RegisterWithoutPoint(command);
  AddTextFlag(command, "--mode", mode, "dense, dip or dip_ca");
  RegisterDensityAndGamma(command);
  AddRealFlag(command, "--cache-fraction", cache_fraction, {0, 1},
              "share of each layer's units that the cache holds, of each kind unless "
              "--input-share says otherwise, [0, 1]");
}

void ModelFlags::RegisterDensityAndGamma(CLI::App& command) {
  AddRealFlag(command, "--density", density, {0, 1, true}, "share of MLP weights used, (0, 1]");
  AddRealFlag(command, "--gamma", gamma, {0, 1},
              "score factor of units that are not resident, [0, 1]; 1 ignores the cache; dip_ca");
}

void ModelFlags::RegisterWithoutPoint(CLI::App& command) {
  RegisterWithoutPruning(command);
  AddIntegerFlag(command, "--fixed-top-n", fixed_top_n, {0, kMaxFixedTopN},
                 "largest scores that gamma spares");
  AddRealFlag(command, "--protected-share", protected_share, kProtectedShareRange,
              "part of a mask, its largest scores, that gamma spares, [0, 1]; 0 is the "
              "published rule");
}

void ModelFlags::RegisterWithoutPruning(CLI::App& command) {
  AddTextFlag(command, "MODEL", model,
              "a pack, or a GGUF file or Hugging Face folder, which is packed on the fly")
      .Required();
  AddTextFlag(command, "--units", units,
              "unit encoding for what is packed here: f32, f16, q8, q4; a pack has its own")
      .Default(kUnits);
  AddTextFlag(command, "--policy", policy, "cache policy: value, lfu, lru, none");
  AddRealFlag(command, "--input-share", input_share, {0, 1},
              "part of the cache's bytes for input units, [0, 1]; default: every kind has "
              "the same part of its units cached, in bench as the pack's profile says");
  AddTextFlag(command, "--flash-backend", flash_backend, "auto, io_uring or pread");
  AddTextFlag(command, "--flash-model", flash_model,
              "modelled device, e.g. bandwidth=1GB/s,latency=80us,iops=200k");
  AddTextFlag(command, "--kv", kv, "key/value cache: f32, f16 or q8");
  AddTextFlag(command, "--precision", precision,
              "fast (bfloat16 where the CPU multiplies it faster: in prompts, and against 4-bit "
              "weights) or exact (float)");
  AddIntegerFlag(command, "--prefill-chunk", prefill_chunk, {1, 65536},
                 "prompt tokens computed at once");
  AddIntegerFlag(command, "--threads", threads, {0, 1024}, "compute threads; 0: one per core");
  AddRepeatedFlag(
      command, "--lora", [this](const std::vector<std::string>& adapters) { lora = adapters; },
      "LoRA adapter, FILE or FILE=SCALE; may be repeated; merged into what is packed here, "
      "used beside the weights of a pack");
}

absl::StatusOr<LocalModelOptions> ModelFlags::LocalOptions() const {
  LocalModelOptions options;
  options.model = model;
  // Everything that can be wrong is said before a long packing, not after it.
  RETURN_IF_ERROR(ParseDecodeMode(mode).status());
  ASSIGN_OR_RETURN(options.kv_type, ParsedKvType());
  RETURN_IF_ERROR(ParsedPrecision().status());
  ASSIGN_OR_RETURN(options.units, ParseUnitEncoding(units.empty() ? kUnits : units));
  if (!units.empty() && StartsAsPack(model)) {
    RETURN_IF_ERROR(CheckUnitsOfPack(model, options.units));
  }
  for (const std::string& text : lora) {
    absl::StatusOr<LoraSource> source = ParseLoraSource(text);
    if (!source.ok()) return Annotate(source.status(), "--lora");
    options.adapters.push_back(*std::move(source));
  }
  options.store.policy = policy;
  options.store.cache_fraction = cache_fraction;
  options.store.input_share = input_share;
  options.store.staging_bytes = kStagingBytes;
  options.store.flash_backend = flash_backend;
  if (!flash_model.empty()) {
    ASSIGN_OR_RETURN(options.store.flash_model, ParseFlashModel(flash_model));
  }
  options.threads = threads;
  options.prefill_chunk_tokens = prefill_chunk;
  return options;
}

absl::StatusOr<std::optional<RowPruning>> ModelFlags::Pruning(const ModelConfig& config) const {
  ASSIGN_OR_RETURN(const DecodeMode decode_mode, ParseDecodeMode(mode));
  if (decode_mode == DecodeMode::kDense) return std::optional<RowPruning>();
  const DensitySplit split = SplitDensity(density);
  return std::optional<RowPruning>(
      RowPruning{.kept_input = KeptUnits(split.keep_input, config.hidden_size),
                 .kept_hidden = KeptUnits(split.keep_hidden, config.intermediate_size),
                 .gamma = decode_mode == DecodeMode::kDipCa ? gamma : 1.0,
                 .fixed_top_n = fixed_top_n,
                 .protected_share = protected_share});
}

absl::StatusOr<KvType> ModelFlags::ParsedKvType() const {
  const absl::StatusOr<KvType> parsed = ParseKvType(kv);
  if (parsed.ok()) return parsed;
  return absl::InvalidArgumentError(absl::StrCat("--kv: ", parsed.status().message()));
}

absl::StatusOr<Precision> ModelFlags::ParsedPrecision() const {
  const absl::StatusOr<Precision> parsed = ParsePrecision(precision);
  if (parsed.ok()) return parsed;
  return absl::InvalidArgumentError(absl::StrCat("--precision: ", parsed.status().message()));
}

}  // namespace tidegate
