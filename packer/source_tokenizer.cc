#include "packer/source_tokenizer.h"

#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "packer/hf_tokenizer.h"
#include "packer/merge_list.h"
#include "packer/pre_tokenizers.h"
#include "packer/special_tokens.h"

namespace tidegate {
namespace {

constexpr const char* kPrefix = "tokenizer.ggml.";

// The array under a key, null if the key is missing.
template <typename T>
absl::StatusOr<const std::vector<T>*> FindArray(const SourceModel& source, const std::string& key) {
  const auto found = source.metadata().find(key);
  if (found == source.metadata().end()) return nullptr;
  const auto* values = std::get_if<std::vector<T>>(&found->second);
  if (values != nullptr) return values;
  return absl::InvalidArgumentError(
      absl::StrCat("metadata key ", key, " is not an array of the right type"));
}

absl::Status CheckLength(const std::string& key, size_t length, size_t tokens) {
  if (length == tokens) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("metadata key ", key, " has ", length, " entries for ", tokens, " tokens"));
}

// Token types are signed in most files, unsigned in some. A number that is none is refused when the
// tokenizer is made; here only what does not fit.
template <typename Number>
absl::Status AddTypes(const std::string& key, const std::vector<Number>& types,
                      store::v1::Tokenizer& tokenizer) {
  RETURN_IF_ERROR(CheckLength(key, types.size(), static_cast<size_t>(tokenizer.tokens_size())));
  for (size_t id = 0; id < types.size(); ++id) {
    if (types[id] < 0 || types[id] > 6) {
      return absl::InvalidArgumentError(absl::StrCat(
          "metadata key ", key, ": token ", id, " has type ", types[id], "; types are 1 to 6"));
    }
    tokenizer.add_types(static_cast<uint32_t>(types[id]));
  }
  return absl::OkStatus();
}

absl::Status FillTypes(const SourceModel& source, store::v1::Tokenizer& tokenizer) {
  const std::string key = absl::StrCat(kPrefix, "token_type");
  const auto wide = FindArray<uint64_t>(source, key);
  if (wide.ok() && *wide != nullptr) {
    return AddTypes(key, **wide, tokenizer);
  }
  ASSIGN_OR_RETURN(const std::vector<int64_t>* types, FindArray<int64_t>(source, key));
  if (types == nullptr) {
    tokenizer.mutable_types()->Resize(tokenizer.tokens_size(), 1);  // all normal
    return absl::OkStatus();
  }
  return AddTypes(key, *types, tokenizer);
}

absl::StatusOr<std::optional<uint32_t>> TokenId(const SourceModel& source, const char* name,
                                                int tokens) {
  const std::string key = absl::StrCat(kPrefix, name);
  if (!source.Has(key)) return std::optional<uint32_t>();
  ASSIGN_OR_RETURN(const uint64_t id, source.GetUint(key));
  if (id >= static_cast<uint64_t>(tokens)) {
    return absl::InvalidArgumentError(
        absl::StrCat("metadata key ", key, " is ", id, ", outside the ", tokens, " tokens"));
  }
  return std::optional<uint32_t>(static_cast<uint32_t>(id));
}

absl::StatusOr<bool> Flag(const SourceModel& source, const char* name, bool fallback) {
  const std::string key = absl::StrCat(kPrefix, name);
  if (!source.Has(key)) return fallback;
  return source.GetBool(key);
}

absl::Status FillIdsAndFlags(const SourceModel& source, const PreTokenizerRecipe& recipe,
                             store::v1::Tokenizer& tokenizer) {
  const int tokens = tokenizer.tokens_size();
  ASSIGN_OR_RETURN(const auto bos, TokenId(source, "bos_token_id", tokens));
  ASSIGN_OR_RETURN(const auto eos, TokenId(source, "eos_token_id", tokens));
  ASSIGN_OR_RETURN(const auto unknown, TokenId(source, "unknown_token_id", tokens));
  ASSIGN_OR_RETURN(const auto eot, TokenId(source, "eot_token_id", tokens));
  ASSIGN_OR_RETURN(const auto eom, TokenId(source, "eom_token_id", tokens));
  if (bos) tokenizer.set_bos_id(*bos);
  if (eos) tokenizer.set_eos_id(*eos);
  if (unknown) tokenizer.set_unknown_id(*unknown);
  if (eot) tokenizer.set_eot_id(*eot);
  if (eom) tokenizer.add_end_ids(*eom);
  const bool sentence_piece = tokenizer.model() == "llama";
  ASSIGN_OR_RETURN(
      const bool add_bos,
      Flag(source, "add_bos_token", (sentence_piece || recipe.adds_bos) && bos.has_value()));
  ASSIGN_OR_RETURN(const bool add_eos, Flag(source, "add_eos_token", false));
  ASSIGN_OR_RETURN(const bool space, Flag(source, "add_space_prefix", sentence_piece));
  tokenizer.set_add_bos(add_bos);
  tokenizer.set_add_eos(add_eos);
  // Converters copy the flag to byte-level vocabularies too; llama.cpp takes no notice of it there.
  tokenizer.set_add_space_prefix(sentence_piece && space);
  return absl::OkStatus();
}

absl::Status FillMerges(const SourceModel& source, store::v1::Tokenizer& tokenizer) {
  const std::string key = absl::StrCat(kPrefix, "merges");
  ASSIGN_OR_RETURN(const std::vector<std::string>* merges, FindArray<std::string>(source, key));
  if (merges == nullptr || merges->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("metadata key ", key, " is missing or empty; byte-level BPE needs it"));
  }
  tokenizer.mutable_merges()->Reserve(static_cast<int>(2 * merges->size()));
  MergeList list(tokenizer);
  for (const std::string& merge : *merges) {
    const absl::Status status = list.Add(merge);
    if (!status.ok()) return Annotate(status, absl::StrCat("metadata key ", key));
  }
  return absl::OkStatus();
}

// What byte-level vocabularies have besides their tokens.
absl::StatusOr<PreTokenizerRecipe> FillBytePairs(const SourceModel& source,
                                                 store::v1::Tokenizer& tokenizer) {
  const std::string pre_key = absl::StrCat(kPrefix, "pre");
  std::string pre = "default";
  if (source.Has(pre_key)) {
    ASSIGN_OR_RETURN(pre, source.GetString(pre_key));
  }
  ASSIGN_OR_RETURN(PreTokenizerRecipe recipe, FindPreTokenizer(pre));
  tokenizer.set_pre(pre);
  tokenizer.set_ignore_merges(recipe.ignore_merges);
  for (const char* pattern : recipe.patterns) {
    store::v1::SplitStep& step = *tokenizer.add_split_steps();
    step.set_pattern(pattern);
    step.set_cut(store::v1::SplitStep::CUT_ISOLATED);
  }
  RETURN_IF_ERROR(FillMerges(source, tokenizer));
  return recipe;
}

// Phi-3's added tokens swallow the white space after them, but for three; no key says so, llama.cpp
// goes by the model's name as well.
void FillPhi3Strips(const SourceModel& source, store::v1::Tokenizer& tokenizer) {
  const auto name = source.GetString("general.name");
  const std::string lower = name.ok() ? absl::AsciiStrToLower(*name) : "";
  if (lower.find("phi-3") == std::string::npos && lower.find("phi3") == std::string::npos) return;
  for (int id = 0; id < tokenizer.tokens_size(); ++id) {
    const uint32_t type = tokenizer.types(id);
    const std::string& text = tokenizer.tokens(id);
    if (type != 3 && type != 4) continue;
    if (text == "<unk>" || text == "<s>" || text == "<|endoftext|>") continue;
    tokenizer.add_strip_right_ids(static_cast<uint32_t>(id));
  }
}

// The model's chat template and those with a name ("tokenizer.chat_template.tool_use").
std::string ChatTemplates(const SourceModel& source) {
  std::string templates;
  for (const auto& [key, value] : source.metadata()) {
    const auto* text = std::get_if<std::string>(&value);
    if (text == nullptr || key.rfind("tokenizer.chat_template", 0) != 0) continue;
    absl::StrAppend(&templates, *text, "\n");
  }
  return templates;
}

}  // namespace

absl::StatusOr<store::v1::Tokenizer> TokenizerOf(const SourceModel& source) {
  if (source.is_folder()) return ReadHfTokenizer(source.path());
  store::v1::Tokenizer tokenizer;
  const auto model = source.GetString(absl::StrCat(kPrefix, "model"));
  if (!model.ok()) return absl::InvalidArgumentError(model.status().message());
  tokenizer.set_model(*model);

  const std::string tokens_key = absl::StrCat(kPrefix, "tokens");
  ASSIGN_OR_RETURN(const std::vector<std::string>* tokens,
                   FindArray<std::string>(source, tokens_key));
  if (tokens == nullptr || tokens->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("metadata key ", tokens_key, " is missing or empty"));
  }
  for (const std::string& token : *tokens) tokenizer.add_tokens(token);

  const std::string scores_key = absl::StrCat(kPrefix, "scores");
  ASSIGN_OR_RETURN(const std::vector<double>* scores, FindArray<double>(source, scores_key));
  if (scores != nullptr) {
    RETURN_IF_ERROR(CheckLength(scores_key, scores->size(), tokens->size()));
    for (const double score : *scores) tokenizer.add_scores(static_cast<float>(score));
  } else if (*model == "llama") {
    tokenizer.mutable_scores()->Resize(static_cast<int>(tokens->size()), 0.0f);
  }
  RETURN_IF_ERROR(FillTypes(source, tokenizer));
  PreTokenizerRecipe recipe;
  if (*model == "gpt2") {
    ASSIGN_OR_RETURN(recipe, FillBytePairs(source, tokenizer));
  }
  RETURN_IF_ERROR(FillIdsAndFlags(source, recipe, tokenizer));
  MarkSpecialTokens(ChatTemplates(source), tokenizer);
  FillPhi3Strips(source, tokenizer);
  return tokenizer;
}

}  // namespace tidegate
