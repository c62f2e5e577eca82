#include "packer/hf_tokenizer.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "packer/json_object.h"
#include "packer/json_pipeline.h"
#include "packer/special_tokens.h"

namespace tidegate {
namespace {

using Json = nlohmann::json;
using store::v1::Tokenizer;

// The object of a JSON file that may be missing: null then.
absl::StatusOr<Json> ReadOptionalJson(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return Json();
  ASSIGN_OR_RETURN(const std::string content, ReadFile(path, kMaxTokenizerFileBytes));
  Json json = ParseUntrustedJson(content);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": no JSON object, or nested too deeply"));
  }
  return json;
}

// The text of "bos_token": a string, or an object with its content.
std::string SpecialText(const Json& config, const char* key) {
  const Json& value = JsonMember(config, key);
  return value.is_object() ? JsonText(value, "content") : JsonText(config, key);
}

std::optional<uint32_t> IdOf(const std::string& text, const Tokenizer& tokenizer) {
  for (int id = 0; !text.empty() && id < tokenizer.tokens_size(); ++id) {
    if (tokenizer.tokens(id) == text) return static_cast<uint32_t>(id);
  }
  return std::nullopt;
}

bool IsAdded(uint64_t id, const Tokenizer& tokenizer) {
  if (id >= static_cast<uint64_t>(tokenizer.tokens_size())) return false;
  const uint32_t type = tokenizer.types(static_cast<int>(id));
  return type == 3 || type == 4;
}

// added_tokens_decoder of tokenizer_config.json: tokens that tokenizer.model does not have, or that
// `tokenizer` has and does not know to be added.
absl::Status TakeAddedTokens(const Json& config, bool is_json, Tokenizer& tokenizer) {
  const Json& decoder = JsonMember(config, "added_tokens_decoder");
  if (!decoder.is_object()) return absl::OkStatus();
  for (const auto& [key, value] : decoder.items()) {
    AddedToken token;
    token.text = JsonText(value, "content");
    if (!absl::SimpleAtoi(key, &token.id) || token.text.empty()) {
      return absl::InvalidArgumentError("added_tokens_decoder: an entry has no id or no content");
    }
    token.special = JsonFlag(value, "special", false);
    token.strip_left = JsonFlag(value, "lstrip", false);
    token.strip_right = JsonFlag(value, "rstrip", false);
    // The unknown token keeps its type, by which it is found.
    if (is_json && IsAdded(token.id, tokenizer)) continue;
    const bool known = token.id < static_cast<uint64_t>(tokenizer.tokens_size());
    if (known && tokenizer.types(static_cast<int>(token.id)) == 2) continue;
    RETURN_IF_ERROR(SetAddedToken(token, tokenizer));
  }
  return absl::OkStatus();
}

void TakeSpecialTexts(const Json& config, Tokenizer& tokenizer) {
  if (const auto id = IdOf(SpecialText(config, "bos_token"), tokenizer)) tokenizer.set_bos_id(*id);
  if (const auto id = IdOf(SpecialText(config, "eos_token"), tokenizer)) tokenizer.set_eos_id(*id);
  if (const auto id = IdOf(SpecialText(config, "unk_token"), tokenizer)) {
    if (!tokenizer.has_unknown_id()) tokenizer.set_unknown_id(*id);
  }
}

// Texts that are special besides the usual ones: a list of texts or of objects with a content.
void MarkAdditional(const Json& config, Tokenizer& tokenizer) {
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    for (const Json& entry : JsonMember(config, key)) {
      const std::string text =
          entry.is_string() ? entry.get<std::string>() : JsonText(entry, "content");
      if (const auto id = IdOf(text, tokenizer)) MarkNamedToken(*id, tokenizer);
    }
  }
}

// Every chat template of the folder, for the markup that it writes.
absl::StatusOr<std::string> FolderChatTemplates(const std::string& folder, const Json& config) {
  std::string templates;
  std::error_code error;
  if (const std::string path = folder + "/chat_template.jinja";
      std::filesystem::exists(path, error)) {
    ASSIGN_OR_RETURN(templates, ReadFile(path, kMaxTokenizerFileBytes));
  }
  const Json& value = JsonMember(config, "chat_template");
  const Json list = value.is_array() ? value : Json::array({value});
  for (const Json& entry : list) {
    templates +=
        "\n" + (entry.is_string() ? entry.get<std::string>() : JsonText(entry, "template"));
  }
  return templates;
}

// A tokenizer.json says itself what surrounds a text, but some leave it to this file, as a
// tokenizer.model always does.
void TakeAddFlags(const Json& config, bool is_json, Tokenizer& tokenizer) {
  const bool bos = JsonFlag(config, "add_bos_token", tokenizer.add_bos());
  const bool eos = JsonFlag(config, "add_eos_token", tokenizer.add_eos());
  tokenizer.set_add_bos(tokenizer.has_bos_id() && (bos || (is_json && tokenizer.add_bos())));
  tokenizer.set_add_eos(tokenizer.has_eos_id() && (eos || (is_json && tokenizer.add_eos())));
}

// "eos_token_id": a number or several; the first is EOS where no text named one.
void TakeEnds(const Json& config, Tokenizer& tokenizer) {
  const Json& value = JsonMember(config, "eos_token_id");
  const Json list = value.is_array() ? value : Json::array({value});
  for (const Json& id : list) {
    if (!id.is_number_unsigned()) continue;
    const uint64_t number = id.get<uint64_t>();
    if (number >= static_cast<uint64_t>(tokenizer.tokens_size())) continue;  // padding rows
    if (!tokenizer.has_eos_id()) tokenizer.set_eos_id(static_cast<uint32_t>(number));
    tokenizer.add_end_ids(static_cast<uint32_t>(number));
  }
  const Json& bos = JsonMember(config, "bos_token_id");
  if (!tokenizer.has_bos_id() && bos.is_number_unsigned() &&
      bos.get<uint64_t>() < static_cast<uint64_t>(tokenizer.tokens_size())) {
    tokenizer.set_bos_id(bos.get<uint32_t>());
  }
}

}  // namespace

absl::StatusOr<Tokenizer> ReadHfTokenizer(const std::string& folder) {
  std::error_code error;
  std::string path = folder + "/tokenizer.json";
  const bool is_json = std::filesystem::exists(path, error);
  if (!is_json) path = folder + "/tokenizer.model";
  if (!std::filesystem::exists(path, error)) {
    return absl::NotFoundError(
        absl::StrCat(folder,
                     ": neither tokenizer.json nor tokenizer.model; copy one of the two "
                     "from where the model comes from"));
  }
  ASSIGN_OR_RETURN(const std::string content, ReadFile(path, kMaxTokenizerFileBytes));
  auto tokenizer = is_json ? TokenizerFromJson(content) : TokenizerFromSentencePiece(content);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), path);

  ASSIGN_OR_RETURN(const Json config, ReadOptionalJson(folder + "/tokenizer_config.json"));
  RETURN_IF_ERROR(Annotate(TakeAddedTokens(config, is_json, *tokenizer), folder));
  ASSIGN_OR_RETURN(const Json specials, ReadOptionalJson(folder + "/special_tokens_map.json"));
  TakeSpecialTexts(specials, *tokenizer);
  TakeSpecialTexts(config, *tokenizer);
  TakeAddFlags(config, is_json, *tokenizer);
  for (const char* name : {"/generation_config.json", "/config.json"}) {
    ASSIGN_OR_RETURN(const Json generation, ReadOptionalJson(folder + name));
    TakeEnds(generation, *tokenizer);
  }
  MarkAdditional(specials, *tokenizer);
  MarkAdditional(config, *tokenizer);
  ASSIGN_OR_RETURN(const std::string templates, FolderChatTemplates(folder, config));
  MarkSpecialTokens(templates, *tokenizer);
  return tokenizer;
}

}  // namespace tidegate
