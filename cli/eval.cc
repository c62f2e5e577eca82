// `tidegate eval`: perplexity of a text, and what serving it would read from flash.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/flags.h"
#include "base/progress.h"
#include "base/status_macros.h"
#include "cli/byte_values.h"
#include "cli/command_text.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "measure/baseline_masks.h"
#include "measure/choice_questions.h"
#include "measure/eval_report.h"
#include "measure/evaluation.h"
#include "measure/load_tokenizer.h"
#include "measure/report_folder.h"
#include "measure/text_score.h"
#include "measure/token_ids.h"
#include "packer/atomic_file.h"
#include "proto/store/v1/mask_trace.h"

namespace tidegate {
namespace {

constexpr const char* kEvalExamples = R"(Examples:
  tidegate eval models/stories-7M.f16.gguf --text models/tinystories-heldout.txt --units f16
  tidegate eval model.gguf --text t.txt --mode dip_ca --density 0.75 --gamma 0.2 \
    --cache-fraction 0.5
  tidegate eval model.gguf --text t.txt --mode dense,glu,gate,up,cats,dip,dip_ca \
    --density 0.8,0.65,0.5 --gamma 0.2,0.5 --cache-fraction 0.3,0.5 --report report/
  tidegate eval model.gguf --text t.txt --mode dip --density 0.5 --record t.trace

--mode, --density, --gamma and --cache-fraction take lists. Every combination is run, but for what
a method does not use or cannot reach. dip and dip_ca are what the service offers. The others are
for comparison: glu leaves out hidden units by |act(g) u| and reads all of gate and up; gate and up
choose by |act(g)| or |u| alone; cats has a threshold on |act(g)| for every layer, taken from the
same text. A learned predictor (DejaVu) is not among them: it would have to be trained for every
model.

The text is split at lines <|endoftext|>; every document stands between BOS and EOS. Chunks of
--chunk tokens are scored independently, each from an empty key/value cache. The weight cache is
empty at the start and kept across chunks. With pruning every token is pruned as if it were
generated. What is packed here has one unit per block, so that --cache-fraction counts units.
Arithmetic is exact unless --precision says otherwise: --precision fast scores what the service
does by default.

--choices FILE also asks questions, a line of JSON each:
  {"context": "Tom was hungry. He", "choices": [" ate.", " flew."], "answer": 0}
The accuracy is the share of questions whose right choice is the likeliest, as it stands and per
byte.
)";

struct EvalFlags {
  ModelFlags model;
  std::vector<std::string> modes = {"dense"};
  std::vector<double> densities = {1}, gammas = {1}, cache_fractions = {1};
  std::string text, ids, choices;  // paths
  uint32_t chunk = 256, streams = 1;
  bool share_reads = false;
  uint64_t max_tokens = 0;
  std::string record, report;  // paths
  std::string dram_speed = "60GB/s", flash_speed = "1GB/s";
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

absl::Status CheckTokens(std::span<const TokenId> tokens, const EvalFlags& flags, uint32_t vocab) {
  if (tokens.size() < size_t{flags.chunk} + 1) {
    return absl::InvalidArgumentError(absl::StrCat("the text has ", tokens.size(),
                                                   " tokens; --chunk ", flags.chunk,
                                                   " needs at least ", uint64_t{flags.chunk} + 1));
  }
  return CheckTokenIds(tokens, vocab);
}

// The flags of one point. Modes that only eval knows run as dense passes.
ModelFlags FlagsOf(const ModelFlags& flags, const EvalPoint& point) {
  ModelFlags one = flags;
  one.mode = FindBaselineMethod(point.method) == nullptr ? point.method : "dense";
  one.density = point.density;
  one.gamma = point.gamma;
  one.cache_fraction = point.cache_fraction;
  return one;
}

// Every combination of the lists that makes a difference, in their order.
absl::StatusOr<std::vector<EvalPoint>> Points(const EvalFlags& flags) {
  std::vector<EvalPoint> points;
  for (const double cache : flags.cache_fractions) {
    for (const std::string& mode : flags.modes) {
      if (mode == "dense") {
        points.push_back({.method = mode, .cache_fraction = cache});
        continue;
      }
      const bool looks = mode == "dip_ca";
      for (const double density : flags.densities) {
        for (const double gamma : looks ? flags.gammas : std::vector<double>{1}) {
          points.push_back(
              {.method = mode, .density = density, .gamma = gamma, .cache_fraction = cache});
        }
      }
    }
  }
  // Everything that can be wrong is said before long work.
  for (const EvalPoint& point : points) {
    const auto options = FlagsOf(flags.model, point).LocalOptions();
    if (!options.ok()) return options.status();
  }
  return points;
}

// Says what a method cannot reach, and leaves it out.
absl::Status DropUnreachable(std::vector<EvalPoint>& points) {
  std::set<std::string> said;
  std::erase_if(points, [&](const EvalPoint& point) {
    const BaselineMethod* baseline = FindBaselineMethod(point.method);
    if (baseline == nullptr) return false;
    const absl::Status status = BaselineMask::CheckDensity(*baseline, point.density);
    if (!status.ok() && said.insert(std::string(status.message())).second) {
      std::fprintf(stderr, "left out: %s\n", std::string(status.message()).c_str());
    }
    return !status.ok();
  });
  if (!points.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError("--density: no --mode given reaches any of these");
}

absl::Status CheckRecord(const EvalFlags& flags, std::span<const EvalPoint> points) {
  if (flags.record.empty()) return absl::OkStatus();
  const auto refuse = [](const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat("--record: ", why));
  };
  if (points.size() != 1) return refuse("masks of one point at a time: give no lists");
  if (points[0].method != "dip" && points[0].method != "dip_ca") {
    return refuse(absl::StrCat("mode ", points[0].method, " has no masks; use --mode dip"));
  }
  if (points[0].density >= 1) {
    return refuse("at density 1 masks hold every unit; use for example --density 0.5");
  }
  if (flags.streams > 1) return refuse("a trace is of one stream: leave out --streams");
  ASSIGN_OR_RETURN(const uint32_t experts, ExpertsOf(flags.model.model));
  if (experts > 0) {
    return refuse("masks of mixtures of experts cannot be recorded: tokens use different experts");
  }
  std::vector<std::string> inputs = {flags.model.model, flags.text, flags.ids};
  ASSIGN_OR_RETURN(const LocalModelOptions options, flags.model.LocalOptions());
  for (const LoraSource& adapter : options.adapters) inputs.push_back(adapter.path);
  return RefuseToReplace(inputs, flags.record);
}

// What is measured on, but for the number of chunks, which depends on nothing else here.
struct Material {
  std::vector<TokenId> tokens;
  std::vector<ChoiceQuestion> questions;
};

absl::StatusOr<Material> ReadMaterial(const EvalFlags& flags) {
  if (flags.text.empty() == flags.ids.empty()) {
    return absl::InvalidArgumentError("give either --text FILE or --ids FILE");
  }
  Material material;
  if (flags.text.empty()) {
    ASSIGN_OR_RETURN(material.tokens, ReadTokenIds(flags.ids));
  } else {
    ASSIGN_OR_RETURN(material.tokens, TokensOfText(flags.text, flags.model.model));
  }
  if (flags.choices.empty()) return material;
  ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(flags.model.model));
  ASSIGN_OR_RETURN(material.questions, ReadChoiceQuestions(flags.choices, *tokenizer));
  return material;
}

// What is longer than the model was trained for would be scored, but mean nothing.
absl::Status CheckEvalContext(const EvalFlags& flags, const Material& material, uint32_t context) {
  if (flags.chunk > context) {
    return absl::InvalidArgumentError(absl::StrCat("--chunk ", flags.chunk, " is longer than the ",
                                                   context, " tokens of the model's context"));
  }
  for (const ChoiceQuestion& question : material.questions) {
    if (question.tokens() > context) {
      return absl::InvalidArgumentError(absl::StrCat(flags.choices,
                                                     ": a question is longer than the ", context,
                                                     " tokens of the model's context"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<EvalTask> TaskOf(const EvalFlags& flags, const Material& material,
                                const ModelConfig& config) {
  RETURN_IF_ERROR(CheckTokens(material.tokens, flags, config.embedding_rows));
  RETURN_IF_ERROR(CheckEvalContext(flags, material, config.trained_context_tokens));
  EvalTask task = {
      .tokens = material.tokens, .chunk = flags.chunk, .questions = material.questions};
  task.chunks = (material.tokens.size() - 1) / flags.chunk;
  if (flags.max_tokens > 0) {
    task.chunks = std::min(task.chunks, std::max<uint64_t>(1, flags.max_tokens / flags.chunk));
  }
  task.streams = flags.streams;
  ASSIGN_OR_RETURN(task.kv_type, flags.model.ParsedKvType());
  ASSIGN_OR_RETURN(task.precision, flags.model.ParsedPrecision());
  return task;
}

// Runs points one after the other; the model is opened anew for each cache fraction, so that every
// point starts with an empty weight cache.
class EvalRun {
 public:
  EvalRun(const EvalFlags& flags, const Material& material, std::vector<EvalPoint> points)
      : flags_(flags), material_(material), points_(std::move(points)) {}

  absl::Status Execute() {
    ASSIGN_OR_RETURN(device_.dram_bytes_per_second,
                     ParseByteRate("--dram-speed", flags_.dram_speed));
    ASSIGN_OR_RETURN(device_.flash_bytes_per_second,
                     ParseByteRate("--flash-speed", flags_.flash_speed));
    std::optional<AtomicFile> record;
    if (!flags_.record.empty()) {
      ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(flags_.record));
      record.emplace(std::move(file));
    }
    ASSIGN_OR_RETURN(LocalModelOptions options, flags_.model.LocalOptions());
    options.one_unit_per_block = true;
    ASSIGN_OR_RETURN(const PackedModel packed, PackedModel::Open(options));
    for (const EvalPoint& point : points_) RETURN_IF_ERROR(RunPoint(packed, point, record));
    progress_.Finish();
    return absl::OkStatus();
  }

  std::span<const EvalResult> results() const { return results_; }
  const DeviceSpeeds& device() const { return device_; }

 private:
  absl::Status RunPoint(const PackedModel& packed, const EvalPoint& point,
                        std::optional<AtomicFile>& record) {
    const ModelFlags one = FlagsOf(flags_.model, point);
    ASSIGN_OR_RETURN(LocalModelOptions options, one.LocalOptions());
    ASSIGN_OR_RETURN(const auto local, LocalModel::Open(options, packed));
    const ModelConfig& config = local->model().config;
    ASSIGN_OR_RETURN(const EvalTask task, TaskOf(flags_, material_, config));
    ASSIGN_OR_RETURN(std::optional<RowPruning> step, one.Pruning(config));
    if (step) step->follows_company = flags_.share_reads;
    std::optional<Recording> recording;
    if (record.has_value()) {
      recording.emplace(flags_.record, *std::move(record), config, local->decoder());
    }
    const uint64_t tokens = task.all_tokens();
    const auto on_tokens = [&](uint64_t done) {
      progress_.Update(results_.size() * tokens + done, points_.size() * tokens);
      return recording.has_value() ? recording->status() : absl::OkStatus();
    };
    ASSIGN_OR_RETURN(EvalResult result,
                     Evaluate(*local, task, point, step ? &*step : nullptr, on_tokens));
    ModelSpeed(*local, task, device_, result);
    results_.push_back(std::move(result));
    return recording.has_value() ? recording->End() : absl::OkStatus();
  }

  const EvalFlags& flags_;
  const Material& material_;
  std::vector<EvalPoint> points_;
  DeviceSpeeds device_;
  std::vector<EvalResult> results_;
  Progress progress_{"scoring", "tokens"};
};

absl::Status RunEval(const EvalFlags& flags, const std::string& command) {
  ASSIGN_OR_RETURN(std::vector<EvalPoint> points, Points(flags));
  RETURN_IF_ERROR(DropUnreachable(points));
  RETURN_IF_ERROR(CheckRecord(flags, points));
  ASSIGN_OR_RETURN(const Material material, ReadMaterial(flags));
  if (!flags.report.empty()) RETURN_IF_ERROR(MakeReportFolder(flags.report));
  EvalRun run(flags, material, std::move(points));
  RETURN_IF_ERROR(run.Execute());
  if (!flags.report.empty()) {
    const auto name = [](const std::string& path) {
      return std::filesystem::path(path).filename().string();
    };
    const EvalSubject subject = {.model = name(flags.model.model),
                                 .text = name(flags.text + flags.ids),
                                 .command = command,
                                 .device = run.device()};
    RETURN_IF_ERROR(WriteReportFolder(flags.report, EvalPage(subject, run.results())));
  }
  if (flags.json) {
    for (const EvalResult& result : run.results()) std::printf("%s\n", EvalJson(result).c_str());
    return absl::OkStatus();
  }
  const std::string text =
      run.results().size() == 1 ? EvalText(run.results()[0]) : EvalTable(run.results());
  std::printf("%s", text.c_str());
  return absl::OkStatus();
}

}  // namespace

void AddEvalCommand(CLI::App& app, CommandRun& run) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App& command =
      AddSubcommand(app, "eval", "Accuracy, hit rate and flash traffic of ways to prune, on a text",
                    kEvalExamples, [flags, &run](const CLI::App& named) {
                      run = [flags, text = CommandText(named)] { return RunEval(*flags, text); };
                    });
  flags->model.precision = PrecisionName(Precision::kExact);
  flags->model.RegisterWithoutPoint(command);
  AddChoiceListFlag(command, "--mode", flags->modes,
                    {"dense", "dip", "dip_ca", "glu", "gate", "up", "cats"},
                    "list of dense, dip, dip_ca, glu, gate, up, cats");
  AddRealListFlag(command, "--density", flags->densities, {0, 1, true},
                  "list of shares of MLP weights used, (0, 1]");
  AddRealListFlag(command, "--gamma", flags->gammas, {0, 1},
                  "list of score factors of units that are not resident, [0, 1]; 1 ignores the "
                  "cache; dip_ca");
  AddRealListFlag(command, "--cache-fraction", flags->cache_fractions, {0, 1},
                  "list of shares of each layer's units of each kind that the cache holds, [0, 1]");
  AddTextFlag(command, "--text", flags->text, "text file; documents separated by <|endoftext|>");
  AddTextFlag(command, "--ids", flags->ids, "file of token ids instead of a text");
  AddTextFlag(command, "--choices", flags->choices, "file of multiple-choice questions, see below");
  AddIntegerFlag(command, "--chunk", flags->chunk, {1, kMaxChunkTokens}, "tokens per chunk");
  AddIntegerFlag(command, "--streams", flags->streams, {1, 1024},
                 "chunks that advance together, as streams of an engine do; of pruned modes");
  AddSwitch(command, "--share-reads", flags->share_reads,
            "masks prefer what others of these streams read anyway; dip_ca");
  AddIntegerFlag(command, "--max-tokens", flags->max_tokens, {0, kMaxTextTokens},
                 "score whole chunks up to this many, at least one; 0: all");
  AddTextFlag(command, "--dram-speed", flags->dram_speed, "of the modelled device");
  AddTextFlag(command, "--flash-speed", flags->flash_speed, "of the modelled device");
  AddFileFlag(command, "--record", flags->record,
              "write the masks to this file, for `tidegate pack --trace`; --mode dip shows "
              "what the model uses, dip_ca what its cache made of it");
  AddFileFlag(command, "--report", flags->report,
              "write index.html, results.csv and plots into this folder");
  AddSwitch(command, "--json", flags->json, "one JSON object per line on standard output");
}

}  // namespace tidegate
