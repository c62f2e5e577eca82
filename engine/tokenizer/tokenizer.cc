#include "engine/tokenizer/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/tokenizer/text_model.h"
#include "engine/tokenizer/vocabulary.h"

namespace tidegate {
namespace {

bool IsSpace(char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); }

}  // namespace

struct Tokenizer::Data {
  Vocabulary vocabulary;
  std::unique_ptr<TextModel> model;  // points to the vocabulary

  void EncodeStretch(std::string_view text, std::vector<TokenId>& out) const {
    if (!text.empty()) model->Encode(text, out);
  }

  // `trusted_end(at)`: where the trusted part ends that position `at` lies in, `at` in other parts.
  template <typename TrustedEnd>
  void Encode(std::string_view text, const TrustedEnd& trusted_end,
              std::vector<TokenId>& out) const {
    size_t begin = 0;  // of the stretch without added tokens
    for (size_t at = 0; at < text.size();) {
      const AddedTokens::Match found =
          vocabulary.added.Longest(text.substr(at), trusted_end(at) - at);
      if (found.bytes == 0) {
        ++at;
        continue;
      }
      size_t end = at;
      if (vocabulary.strip_left.contains(found.id)) {
        while (end > begin && IsSpace(text[end - 1])) --end;
      }
      EncodeStretch(text.substr(begin, end - begin), out);
      out.push_back(found.id);
      at += found.bytes;
      if (vocabulary.strip_right.contains(found.id)) {
        while (at < text.size() && IsSpace(text[at])) ++at;
      }
      begin = at;
    }
    EncodeStretch(text.substr(begin), out);
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Data> data) : data_(std::move(data)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(const store::v1::Tokenizer& data) {
  auto result = std::make_unique<Data>();
  RETURN_IF_ERROR(ReadVocabulary(data, result->vocabulary));
  const auto make = result->vocabulary.byte_level ? &MakeByteLevelModel : &MakeSentencePieceModel;
  ASSIGN_OR_RETURN(result->model, make(data, result->vocabulary));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(result)));
}

std::vector<TokenId> Tokenizer::Encode(std::string_view text, bool add_special) const {
  const Vocabulary& v = data_->vocabulary;
  std::vector<TokenId> ids;
  if (add_special && v.add_bos) ids.push_back(v.bos);
  data_->Encode(
      text, [](size_t at) { return at; }, ids);
  if (add_special && v.add_eos) ids.push_back(v.eos);
  return ids;
}

std::vector<TokenId> Tokenizer::EncodePrompt(std::span<const PromptPart> parts,
                                             bool add_special) const {
  std::string text;
  for (const PromptPart& part : parts) text.append(part.text);
  size_t part = 0, part_end = 0;  // positions only grow, so parts[part] is at or behind them
  const auto trusted_end = [&](size_t at) {
    while (at >= part_end) part_end += parts[part++].text.size();
    return parts[part - 1].trusted ? part_end : at;
  };
  const Vocabulary& v = data_->vocabulary;
  std::vector<TokenId> ids;
  if (add_special && v.add_bos) ids.push_back(v.bos);
  data_->Encode(text, trusted_end, ids);
  if (add_special && v.add_bos && ids.size() > 1 && ids[1] == v.bos) ids.erase(ids.begin());
  if (add_special && v.add_eos) ids.push_back(v.eos);
  return ids;
}

std::string_view Tokenizer::Piece(TokenId id, bool render_special) const {
  CHECK(IsValid(id));
  const Vocabulary::Token& token = data_->vocabulary.tokens[static_cast<size_t>(id)];
  const bool special = token.type == kControlToken || token.type == kUnknownToken;
  return special && !render_special ? std::string_view() : token.text;
}

std::string Tokenizer::Decode(const std::vector<TokenId>& ids, bool render_special) const {
  std::string text;
  bool drop_space = adds_space_prefix();
  for (const TokenId id : ids) {
    std::string_view piece = Piece(id, render_special);
    if (IsAdded(id)) {
      drop_space = adds_space_prefix();
    } else if (!piece.empty()) {
      if (drop_space && piece.front() == ' ') piece.remove_prefix(1);
      drop_space = false;
    }
    text.append(piece);
  }
  return text;
}

bool Tokenizer::IsValid(TokenId id) const {
  return id >= 0 && static_cast<size_t>(id) < data_->vocabulary.tokens.size();
}

bool Tokenizer::IsAdded(TokenId id) const {
  CHECK(IsValid(id));
  return data_->vocabulary.tokens[static_cast<size_t>(id)].is_added();
}

bool Tokenizer::IsEndOfGeneration(TokenId id) const { return data_->vocabulary.ends.contains(id); }

size_t Tokenizer::vocab_size() const { return data_->vocabulary.tokens.size(); }
std::span<const TokenId> Tokenizer::unused_ids() const { return data_->vocabulary.unused; }
TokenId Tokenizer::bos_id() const { return data_->vocabulary.bos; }
TokenId Tokenizer::eos_id() const { return data_->vocabulary.eos; }
bool Tokenizer::adds_space_prefix() const { return data_->vocabulary.add_space_prefix; }

}  // namespace tidegate
