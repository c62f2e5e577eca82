#include "cli/text_score.h"

#include <cmath>
#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "cli/load_tokenizer.h"

namespace tidegate {
namespace {

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in.good()) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  std::stringstream content;
  content << in.rdbuf();
  return content.str();
}

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
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
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
  return tokens;
}

absl::Status ScoreChunk(LocalModel& local, std::span<const TokenId> inputs,
                        std::span<const TokenId> targets, const PruneStep* step, bool half,
                        Precision precision, Score& score) {
  KvCache kv(local.model().config, static_cast<uint32_t>(inputs.size()), half);
  if (step == nullptr) {
    const auto add = [&](uint32_t position, std::span<float> logits) {
      score.nll += NegativeLogLikelihood(logits, targets[position]);
    };
    for (size_t at = 0; at < inputs.size(); at = kv.size()) {
      const size_t piece = local.decoder().PieceTokens(inputs.size() - at);
      RETURN_IF_ERROR(local.decoder().Prefill(kv, inputs.subspan(at, piece), precision, {},
                                              score.accounts, add));
    }
  } else {
    std::vector<float> logits(local.model().config.vocab_size);
    for (size_t i = 0; i < inputs.size(); ++i) {
      RETURN_IF_ERROR(local.decoder().Step(kv, inputs[i], step, precision, logits, score.accounts));
      score.nll += NegativeLogLikelihood(logits, targets[i]);
    }
  }
  score.tokens += inputs.size();
  return absl::OkStatus();
}

}  // namespace tidegate
