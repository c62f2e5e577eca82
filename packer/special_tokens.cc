#include "packer/special_tokens.h"

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/text.h"
#include "packer/markup.h"
#include "proto/gguf/byte_level.h"

namespace tidegate {
namespace {

constexpr uint32_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5;

// As texts show the token: without a byte-level vocabulary's alphabet.
std::string PlainText(const store::v1::Tokenizer& tokenizer, int id) {
  const std::string& text = tokenizer.tokens(id);
  if (tokenizer.model() != "gpt2" || tokenizer.types(id) == kControl ||
      tokenizer.types(id) == kUserDefined) {
    return text;
  }
  return BytesOfByteLevel(text).value_or(text);
}

void Promote(int id, uint32_t type, store::v1::Tokenizer& tokenizer) {
  tokenizer.set_tokens(id, PlainText(tokenizer, id));
  tokenizer.set_types(id, type);
  tokenizer.add_promoted_ids(static_cast<uint32_t>(id));
}

// "[PAD32011]", with which converters fill up a vocabulary to the rows of its embedding.
bool IsPadding(const std::string& text, int id) {
  return text.rfind("[PAD", 0) == 0 && text == absl::StrCat("[PAD", id, "]");
}

// What marking one vocabulary needs to know.
class Marker {
 public:
  Marker(std::string_view chat_templates, store::v1::Tokenizer& tokenizer)
      : markup_(chat_templates), tokenizer_(tokenizer) {
    named_.insert(tokenizer.end_ids().begin(), tokenizer.end_ids().end());
    if (tokenizer.has_bos_id()) named_.insert(tokenizer.bos_id());
    if (tokenizer.has_eos_id()) named_.insert(tokenizer.eos_id());
    if (tokenizer.has_eot_id()) named_.insert(tokenizer.eot_id());
    absl::erase_if(named_, [&](uint32_t id) { return !InVocabulary(id); });
  }

  void Run() {
    for (int id = 0; id < tokenizer_.tokens_size(); ++id) Mark(id);
    if (!tags_.empty()) PromoteTags();
    // Where both of these are, <|end|> only ends a message, of which an answer may have several.
    const bool messages = Found("<|return|>") && Found("<|call|>");
    for (const auto& [text, id] : found_) {
      if (!messages || text != "<|end|>") tokenizer_.add_end_ids(id);
    }
  }

 private:
  bool InVocabulary(uint32_t id) const {
    return id < static_cast<uint32_t>(tokenizer_.tokens_size());
  }

  bool Found(std::string_view name) const {
    return std::any_of(found_.begin(), found_.end(),
                       [name](const auto& entry) { return entry.first == name; });
  }

  void Mark(int id) {
    const uint32_t type = tokenizer_.types(id);
    if (type != kControl && IsPadding(tokenizer_.tokens(id), id)) {
      return tokenizer_.set_types(id, kUnused);
    }
    if (type < kNormal || type > kUnused) return;
    const std::string text = PlainText(tokenizer_, id);
    const Markup markup = MarkupOf(text);
    // A tag of unknown type is the unknown token.
    if (markup == Markup::kNone || (type == kUnknown && markup == Markup::kTag)) return;
    const bool ends = EndsTurn(text) || (!tokenizer_.has_eos_id() && EndsDocument(text));
    if (ends) found_.emplace_back(text, static_cast<uint32_t>(id));
    if (type == kControl) return;
    const bool named = ends || named_.contains(static_cast<uint32_t>(id));
    const bool special =
        markup == Markup::kSpecial && (type == kUserDefined || markup_.Writes(text));
    if (named || special) {
      Promote(id, kControl, tokenizer_);
    } else if (markup == Markup::kTag && type != kUserDefined && markup_.Writes(text)) {
      tags_.emplace(tokenizer_.tokens(id), id);
    }
  }

  // A tag that the template writes and that no merge gives was added to the vocabulary. One of a
  // pair, as <think> and </think>, frames what people shall read: it is found in any text and
  // shown, as a user-defined token is. A single one, or a pair with an end of turn, is control.
  void PromoteTags() {
    for (const std::string& word : MergedTags()) tags_.erase(word);
    absl::flat_hash_set<std::string> texts;
    for (int id = 0; id < tokenizer_.tokens_size(); ++id) texts.insert(PlainText(tokenizer_, id));
    absl::flat_hash_set<std::string> ends;
    for (const uint32_t id : named_) ends.insert(PlainText(tokenizer_, static_cast<int>(id)));
    for (const auto& [text, id] : found_) ends.insert(text);
    for (const auto& [text, id] : tags_) {
      const std::string counterpart = CounterpartOf(PlainText(tokenizer_, id));
      const bool frames = texts.contains(counterpart) && !ends.contains(counterpart);
      Promote(id, frames ? kUserDefined : kControl, tokenizer_);
    }
  }

  // Those of tags_ that merging gives: words of the language, whatever they look like.
  std::vector<std::string> MergedTags() const {
    std::vector<std::string> merged;
    for (int i = 0; i + 1 < tokenizer_.merges_size(); i += 2) {
      const uint32_t left = tokenizer_.merges(i), right = tokenizer_.merges(i + 1);
      if (!InVocabulary(left) || !InVocabulary(right)) continue;  // refused when it is made
      const std::string joined = absl::StrCat(tokenizer_.tokens(static_cast<int>(left)),
                                              tokenizer_.tokens(static_cast<int>(right)));
      if (tags_.count(joined) > 0) merged.push_back(joined);
    }
    if (tokenizer_.merges_size() > 0) return merged;
    absl::flat_hash_set<std::string> pieces;
    for (int id = 0; id < tokenizer_.tokens_size(); ++id) {
      if (tokenizer_.types(id) == kNormal) pieces.insert(tokenizer_.tokens(id));
    }
    for (const auto& [text, id] : tags_) {
      for (size_t cut = 1; cut < text.size(); ++cut) {
        if (!pieces.contains(text.substr(0, cut)) || !pieces.contains(text.substr(cut))) continue;
        merged.push_back(text);
        break;
      }
    }
    return merged;
  }

  const TemplateMarkup markup_;
  store::v1::Tokenizer& tokenizer_;
  absl::flat_hash_set<uint32_t> named_;  // what files name as begin or end, in the vocabulary
  std::vector<std::pair<std::string, uint32_t>> found_;  // that end an answer by their names
  std::map<std::string, int> tags_;  // that the template writes, by the vocabulary's text
};

}  // namespace

absl::Status SetAddedToken(const AddedToken& token, store::v1::Tokenizer& tokenizer) {
  if (token.id >= kMaxVocabularyTokens) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: an added token has the id ",
                                                   token.id, "; ids are below ",
                                                   kMaxVocabularyTokens));
  }
  const int id = static_cast<int>(token.id);
  const bool scored = tokenizer.scores_size() > 0;
  while (tokenizer.tokens_size() <= id) {
    tokenizer.add_tokens(absl::StrCat("[UNUSED_", tokenizer.tokens_size(), "]"));
    tokenizer.add_types(kUnused);
    if (scored) tokenizer.add_scores(0);
  }
  tokenizer.set_tokens(id, token.text);
  tokenizer.set_types(id, token.special ? kControl : kUserDefined);
  if (token.strip_left) tokenizer.add_strip_left_ids(static_cast<uint32_t>(id));
  if (token.strip_right) tokenizer.add_strip_right_ids(static_cast<uint32_t>(id));
  return absl::OkStatus();
}

bool IsByteToken(const std::string& text) {
  return text.size() == 6 && text.compare(0, 3, "<0x") == 0 && text[5] == '>' &&
         absl::ascii_isxdigit(static_cast<unsigned char>(text[3])) &&
         absl::ascii_isxdigit(static_cast<unsigned char>(text[4]));
}

void MarkSpecialTokens(std::string_view chat_templates, store::v1::Tokenizer& tokenizer) {
  Marker(chat_templates, tokenizer).Run();
}

void MarkNamedToken(uint32_t id, store::v1::Tokenizer& tokenizer) {
  const int index = static_cast<int>(id);
  const uint32_t type = tokenizer.types(index);
  if (type != kNormal && type != kUserDefined && type != kUnused) return;
  if (MarkupOf(PlainText(tokenizer, index)) == Markup::kNone) return;
  Promote(index, kControl, tokenizer);
}

std::string PromotedText(const store::v1::Tokenizer& tokenizer) {
  constexpr int kShown = 12;
  std::string text;
  const int count = tokenizer.promoted_ids_size();
  for (int i = 0; i < std::min(count, kShown); ++i) {
    const uint32_t id = tokenizer.promoted_ids(i);
    if (id >= static_cast<uint32_t>(tokenizer.tokens_size())) continue;
    absl::StrAppend(&text, text.empty() ? "" : ", ",
                    Printable(tokenizer.tokens(static_cast<int>(id)), 64), " (", id, ")");
  }
  if (count > kShown) absl::StrAppend(&text, " and ", count - kShown, " more");
  return text;
}

absl::Status DropTokensBehind(uint64_t rows, store::v1::Tokenizer& tokenizer) {
  if (static_cast<uint64_t>(tokenizer.tokens_size()) <= rows) return absl::OkStatus();
  const auto refuse = [&](uint32_t id, const char* why) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the tokenizer has ", tokenizer.tokens_size(), " tokens, token_embd.weight only ", rows,
        " rows, and token ", id, " (", Quoted(tokenizer.tokens(static_cast<int>(id)), 64), ") ",
        why, ": the tokenizer is of another model"));
  };
  for (auto id = static_cast<uint32_t>(rows); id < static_cast<uint32_t>(tokenizer.tokens_size());
       ++id) {
    const uint32_t type = tokenizer.types(static_cast<int>(id));
    if (type != kControl && type != kUserDefined && type != kUnused) {
      return refuse(id, "is part of its language");
    }
  }
  if (tokenizer.has_bos_id() && tokenizer.bos_id() >= rows)
    return refuse(tokenizer.bos_id(), "is BOS");
  if (tokenizer.has_eos_id() && tokenizer.eos_id() >= rows)
    return refuse(tokenizer.eos_id(), "is EOS");
  if (tokenizer.has_eot_id() && tokenizer.eot_id() >= rows) tokenizer.clear_eot_id();
  if (tokenizer.has_unknown_id() && tokenizer.unknown_id() >= rows) tokenizer.clear_unknown_id();
  const auto keep = [rows](auto& ids) {
    ids.erase(std::remove_if(ids.begin(), ids.end(), [rows](uint32_t id) { return id >= rows; }),
              ids.end());
  };
  keep(*tokenizer.mutable_end_ids());
  keep(*tokenizer.mutable_strip_left_ids());
  keep(*tokenizer.mutable_strip_right_ids());
  keep(*tokenizer.mutable_promoted_ids());
  const int count = static_cast<int>(rows);
  tokenizer.set_dropped_tokens(static_cast<uint32_t>(tokenizer.tokens_size() - count));
  tokenizer.mutable_tokens()->DeleteSubrange(count, tokenizer.tokens_size() - count);
  tokenizer.mutable_types()->Truncate(count);
  if (tokenizer.scores_size() > count) tokenizer.mutable_scores()->Truncate(count);
  return absl::OkStatus();
}

}  // namespace tidegate
