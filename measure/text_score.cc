#include "measure/text_score.h"

#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "engine/single_sequence.h"
#include "measure/load_tokenizer.h"

namespace tidegate {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;

// -log softmax(logits)[target].
double NegativeLogLikelihood(std::span<const float> logits, TokenId target) {
  double top = logits[0];
  for (const float logit : logits) top = std::max<double>(top, logit);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum) - logits[static_cast<size_t>(target)];
}

}  // namespace

double Score::Perplexity() const {
  return tokens == 0 ? 1 : std::exp(nll / static_cast<double>(tokens));
}

absl::StatusOr<std::vector<TokenId>> TokensOfText(const std::string& path,
                                                  const std::string& model) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxTextBytes));
  ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(model));
  std::vector<TokenId> tokens;
  for (absl::string_view document : absl::StrSplit(text, "<|endoftext|>")) {
    document = absl::StripAsciiWhitespace(document);
    if (document.empty()) continue;
    if (tokenizer->bos_id() >= 0) tokens.push_back(tokenizer->bos_id());
    const std::vector<TokenId> ids =
        tokenizer->Encode(std::string_view(document.data(), document.size()), false);
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    if (tokenizer->eos_id() >= 0) tokens.push_back(tokenizer->eos_id());
  }
  if (tokens.empty()) return absl::InvalidArgumentError(absl::StrCat(path, " holds no text"));
  return tokens;
}

absl::Status ScoreTokens(LocalModel& local, KvCache& kv, std::span<const TokenId> inputs,
                         std::span<const TokenId> targets, const RowPruning* step,
                         Precision precision, Score& score) {
  const size_t begin = kv.size();
  const size_t silent = inputs.size() - targets.size();
  Decoder& decoder = local.decoder();
  score.tokens += targets.size();
  if (step == nullptr) {
    const auto add = [&](uint32_t position, std::span<float> logits) {
      const size_t i = position - begin;
      if (i >= silent) score.nll += NegativeLogLikelihood(logits, targets[i - silent]);
    };
    return AppendPromptInChunks(decoder, kv, inputs, local.chunk_tokens(), precision, {},
                                score.accounts, add);
  }
  std::vector<float> logits(local.model().config.embedding_rows);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const std::span<float> wanted = i >= silent ? std::span<float>(logits) : std::span<float>();
    RETURN_IF_ERROR(AppendToken(decoder, kv, inputs[i], step, precision, wanted, score.accounts));
    if (i >= silent) score.nll += NegativeLogLikelihood(logits, targets[i - silent]);
  }
  return absl::OkStatus();
}

absl::Status ScoreTogether(LocalModel& local, std::span<KvCache> kvs,
                           std::span<const std::span<const TokenId>> inputs,
                           std::span<const std::span<const TokenId>> targets,
                           const RowPruning* step, Precision precision, Score& score) {
  std::vector<BatchSequence> batch(kvs.size());
  StepCost cost;
  for (size_t t = 0; t < inputs[0].size(); ++t) {
    for (size_t i = 0; i < kvs.size(); ++i) {
      RETURN_IF_ERROR(kvs[i].Grow(1));
      batch[i] = {
          .kv = &kvs[i], .tokens = inputs[i].subspan(t, 1), .prune = step, .precision = precision};
    }
    const auto add = [&](size_t i, uint32_t, std::span<float> logits) {
      score.nll += NegativeLogLikelihood(logits, targets[i][t]);
    };
    RETURN_IF_ERROR(local.decoder().Run(batch, add, cost));
    for (const absl::Status& failed : cost.statuses) RETURN_IF_ERROR(failed);
    score.accounts.Add(cost.step);
    score.tokens += kvs.size();
  }
  return absl::OkStatus();
}

}  // namespace tidegate
