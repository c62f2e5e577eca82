// `tidegate logits`: the numbers behind the next token, for tests and for anybody who doubts a
// result.
#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/flags.h"
#include "base/status_macros.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "engine/single_sequence.h"

namespace tidegate {
namespace {

constexpr const char* kLogitsExamples = R"(Examples:
  tidegate logits model.gguf --units f32 --tokens 1,280,170
  tidegate logits model.tgpack --tokens 1,280,170 --greedy 24 --mode dip --density 0.5

Prints {"n_vocab": V, "positions": {"<position>": [V logits]}, "greedy": [ids]}: the last position
of the prompt and those given with --positions. The prompt runs through dense prefill; --mode acts
on the tokens that --greedy generates. With --positions beyond the prompt the logits after
generated tokens are printed too. Arithmetic is exact unless --precision says otherwise.
)";

constexpr uint64_t kMaxPosition = 1 << 24;  // beyond any context, and any vocabulary

struct LogitsFlags {
  ModelFlags model;
  std::string tokens;
  std::string positions;
  uint32_t greedy = 0;
  uint32_t context = 0;
};

absl::StatusOr<std::vector<uint32_t>> ParseList(const std::string& text, const char* flag) {
  std::vector<uint32_t> numbers;
  for (absl::string_view part : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    const auto number = ParseInteger({part.data(), part.size()}, {0, kMaxPosition});
    if (!number.ok()) return Annotate(number.status(), flag);
    numbers.push_back(static_cast<uint32_t>(*number));
  }
  return numbers;
}

std::string LogitsJsonRow(std::span<const float> logits) {
  // Nine digits bring every float back exactly.
  return absl::StrCat("[",
                      absl::StrJoin(logits, ", ",
                                    [](std::string* out, float value) {
                                      absl::StrAppendFormat(out, "%.9g", value);
                                    }),
                      "]");
}

TokenId ArgMax(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

absl::Status CheckPositions(const std::vector<uint32_t>& positions, size_t count) {
  for (const uint32_t position : positions) {
    if (position >= count) {
      return absl::InvalidArgumentError(absl::StrCat("--positions: ", position, " is not below ",
                                                     count,
                                                     ", the prompt and --greedy tokens together"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPrompt(const std::vector<uint32_t>& prompt, const LogitsFlags& flags,
                         uint32_t context, uint32_t vocab) {
  if (prompt.empty()) return absl::InvalidArgumentError("--tokens: give at least one id");
  for (const uint32_t id : prompt) {
    if (id >= vocab) {
      return absl::InvalidArgumentError(absl::StrCat("--tokens: id ", id, " is not below ", vocab));
    }
  }
  if (uint64_t{prompt.size()} + flags.greedy > context) {
    return absl::InvalidArgumentError(
        absl::StrCat(prompt.size(), " prompt tokens and ", flags.greedy,
                     " generated ones exceed the context of ", context, "; raise --context"));
  }
  return absl::OkStatus();
}

absl::Status RunLogits(const LogitsFlags& flags) {
  ASSIGN_OR_RETURN(const std::vector<uint32_t> ids, ParseList(flags.tokens, "--tokens"));
  ASSIGN_OR_RETURN(const std::vector<uint32_t> wanted, ParseList(flags.positions, "--positions"));
  RETURN_IF_ERROR(CheckPositions(wanted, ids.size() + flags.greedy));
  ASSIGN_OR_RETURN(const LocalModelOptions options, flags.model.LocalOptions());
  ASSIGN_OR_RETURN(const KvType kv_type, flags.model.ParsedKvType());
  ASSIGN_OR_RETURN(const Precision precision, flags.model.ParsedPrecision());
  ASSIGN_OR_RETURN(const auto local, LocalModel::Open(options));
  const ModelConfig& config = local->model().config;
  ASSIGN_OR_RETURN(const std::optional<RowPruning> step, flags.model.Pruning(config));
  const uint32_t context = flags.context != 0 ? flags.context : config.trained_context_tokens;
  RETURN_IF_ERROR(CheckPrompt(ids, flags, context, config.embedding_rows));
  const std::vector<TokenId> prompt(ids.begin(), ids.end());

  std::set<uint32_t> positions(wanted.begin(), wanted.end());
  positions.insert(static_cast<uint32_t>(prompt.size() - 1));
  std::map<uint32_t, std::string> rows;
  KvPool pool = KvPool::ForTokens(config, kv_type, prompt.size() + flags.greedy);
  KvCache kv(&pool, context);
  std::vector<float> logits(config.embedding_rows);
  PassAccounts accounts;
  const auto keep = [&](uint32_t position, std::span<float> row) {
    if (positions.contains(position)) rows[position] = LogitsJsonRow(row);
  };
  RETURN_IF_ERROR(AppendPromptInChunks(local->decoder(), kv, prompt, local->chunk_tokens(),
                                       precision, logits, accounts, keep));
  std::vector<TokenId> greedy;
  for (uint32_t n = 0; n < flags.greedy; ++n) {
    greedy.push_back(ArgMax(logits));
    RETURN_IF_ERROR(AppendToken(local->decoder(), kv, greedy.back(), step ? &*step : nullptr,
                                precision, logits, accounts));
    keep(kv.size() - 1, logits);
  }
  std::printf("{\"n_vocab\": %u, \"positions\": {%s}, \"greedy\": [%s]}\n", config.embedding_rows,
              absl::StrJoin(rows, ", ",
                            [](std::string* out, const auto& row) {
                              absl::StrAppend(out, "\"", row.first, "\": ", row.second);
                            })
                  .c_str(),
              absl::StrJoin(greedy, ", ").c_str());
  return absl::OkStatus();
}

}  // namespace

void AddLogitsCommand(CLI::App& app, CommandRun& run) {
  auto flags = std::make_shared<LogitsFlags>();
  CLI::App& command = AddSubcommand(
      app, "logits", "Logits and greedy tokens of a prompt, as JSON", kLogitsExamples,
      [flags, &run](const CLI::App&) { run = [flags] { return RunLogits(*flags); }; });
  flags->model.precision = PrecisionName(Precision::kExact);
  flags->model.Register(command);
  AddTextFlag(command, "--tokens", flags->tokens, "prompt ids, comma-separated; nothing is added")
      .Required();
  AddTextFlag(command, "--positions", flags->positions,
              "further positions to print, comma-separated");
  AddIntegerFlag(command, "--greedy", flags->greedy, {0, kMaxPosition},
                 "tokens to generate by largest logit");
  AddIntegerFlag(command, "--context", flags->context, {0, kMaxPosition},
                 "context size in tokens; 0: the model's own");
}

}  // namespace tidegate
