// tokenizer.json of the Hugging Face tokenizers library: model and added tokens.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "packer/hf_tokenizer.h"
#include "packer/json_object.h"
#include "packer/json_pipeline.h"
#include "packer/merge_list.h"
#include "packer/special_tokens.h"

namespace tidegate {
namespace {

using Json = nlohmann::json;
using store::v1::Tokenizer;

constexpr uint32_t kNormalToken = 1, kUnknownToken = 2, kUnusedToken = 5, kByte = 6;

// "gpt2" or "llama", as GGUF names the two.
absl::StatusOr<std::string> KindOf(const Json& root) {
  const Json& model = JsonMember(root, "model");
  const std::string type = JsonText(model, "type");
  if (type != "BPE" && !(type.empty() && model.contains("merges"))) {
    return absl::InvalidArgumentError(
        absl::StrCat("model type \"", Printable(type, 80), "\" is not supported; BPE is"));
  }
  for (const char* part : {"pre_tokenizer", "decoder"}) {
    if (HasStep(JsonMember(root, part), "ByteLevel")) return "gpt2";
  }
  if (JsonFlag(model, "byte_fallback", false)) return "llama";
  return absl::InvalidArgumentError(
      "the BPE model is neither byte-level (a ByteLevel pre_tokenizer or decoder) nor has it "
      "byte_fallback; no other kinds are supported");
}

absl::Status FillVocabulary(const Json& model, Tokenizer& tokenizer) {
  const Json& vocabulary = JsonMember(model, "vocab");
  if (!vocabulary.is_object() || vocabulary.empty()) {
    return absl::InvalidArgumentError("model.vocab is missing or empty");
  }
  uint64_t count = 0;
  for (const auto& [text, id] : vocabulary.items()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMaxVocabularyTokens) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.vocab: the id of \"", Printable(text, 80),
                       "\" is not a number below ", kMaxVocabularyTokens));
    }
    count = std::max(count, id.get<uint64_t>() + 1);
  }
  for (uint64_t i = 0; i < count; ++i) {
    tokenizer.add_tokens("");
    tokenizer.add_types(kUnusedToken);  // until a text has this id
  }
  for (const auto& [text, value] : vocabulary.items()) {
    const int id = value.get<int>();
    if (tokenizer.types(id) != kUnusedToken) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.vocab: \"", Printable(text, 80), "\" and \"",
                       Printable(tokenizer.tokens(id), 80), "\" both have the id ", id));
    }
    tokenizer.set_tokens(id, text);
    const bool is_byte = tokenizer.model() == "llama" && IsByteToken(text);
    tokenizer.set_types(id, is_byte ? kByte : kNormalToken);
  }
  return absl::OkStatus();
}

// Before the added tokens: merges are of the model's own vocabulary.
absl::Status FillJsonMerges(const Json& model, Tokenizer& tokenizer) {
  const Json& merges = JsonMember(model, "merges");
  if (!merges.is_array() || merges.empty()) {
    return absl::InvalidArgumentError("model.merges is missing or empty");
  }
  MergeList list(tokenizer);
  for (const Json& merge : merges) {
    if (merge.is_string()) {
      RETURN_IF_ERROR(list.Add(merge.get_ref<const std::string&>()));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      RETURN_IF_ERROR(
          list.Add(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>()));
    } else {
      return absl::InvalidArgumentError(absl::StrCat(
          "model.merges: entry ", tokenizer.merges_size() / 2, " is neither a text nor two texts"));
    }
  }
  return absl::OkStatus();
}

absl::Status FillAddedTokens(const Json& root, Tokenizer& tokenizer) {
  for (const Json& entry : JsonMember(root, "added_tokens")) {
    const Json& id = JsonMember(entry, "id");
    AddedToken token;
    token.text = JsonText(entry, "content");
    if (!id.is_number_unsigned() || token.text.empty()) {
      return absl::InvalidArgumentError("added_tokens: an entry has no id or no content");
    }
    token.id = id.get<uint64_t>();
    token.special = JsonFlag(entry, "special", false);
    token.strip_left = JsonFlag(entry, "lstrip", false);
    token.strip_right = JsonFlag(entry, "rstrip", false);
    RETURN_IF_ERROR(SetAddedToken(token, tokenizer));
  }
  return absl::OkStatus();
}

void FillUnknown(const Json& model, Tokenizer& tokenizer) {
  const std::string unknown = JsonText(model, "unk_token");
  if (unknown.empty()) return;
  for (int id = 0; id < tokenizer.tokens_size(); ++id) {
    if (tokenizer.tokens(id) != unknown) continue;
    // A document's end may serve as the unknown token too (GPT-2): that stays a control token.
    if (tokenizer.types(id) == kNormalToken) tokenizer.set_types(id, kUnknownToken);
    return tokenizer.set_unknown_id(static_cast<uint32_t>(id));
  }
}

}  // namespace

absl::StatusOr<Tokenizer> TokenizerFromJson(std::string_view text) {
  if (text.empty()) {
    return absl::InvalidArgumentError(
        "the file is empty, where a tokenizer is expected; copy it again from where the model "
        "comes from");
  }
  const Json root = ParseUntrustedJson(text);
  if (!root.is_object()) {
    return absl::InvalidArgumentError("not a JSON object, or nested too deeply");
  }
  const Json& model = JsonMember(root, "model");
  Tokenizer tokenizer;
  ASSIGN_OR_RETURN(const std::string kind, KindOf(root));
  tokenizer.set_model(kind);
  tokenizer.set_pre("tokenizer.json");
  tokenizer.set_ignore_merges(JsonFlag(model, "ignore_merges", false));
  RETURN_IF_ERROR(FillVocabulary(model, tokenizer));
  RETURN_IF_ERROR(FillJsonMerges(model, tokenizer));
  RETURN_IF_ERROR(FillAddedTokens(root, tokenizer));
  FillUnknown(model, tokenizer);
  RETURN_IF_ERROR(TakeNormalizer(JsonMember(root, "normalizer"), tokenizer));
  RETURN_IF_ERROR(TakePreTokenizer(JsonMember(root, "pre_tokenizer"), tokenizer));
  RETURN_IF_ERROR(TakePostProcessor(JsonMember(root, "post_processor"), tokenizer));
  return tokenizer;
}

}  // namespace tidegate
