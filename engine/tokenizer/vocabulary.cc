#include "engine/tokenizer/vocabulary.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "proto/gguf/byte_level.h"

namespace tidegate {
namespace {

constexpr std::string_view kWordMark = "\xe2\x96\x81";  // U+2581

// Appends `text` with U+2581 as spaces.
void AppendWithSpaces(std::string_view text, std::string& out) {
  for (size_t at = 0; at < text.size();) {
    const size_t mark = std::min(text.find(kWordMark, at), text.size());
    out.append(text, at, mark - at);
    if (mark < text.size()) out.push_back(' ');
    at = mark + kWordMark.size();
  }
}

// The byte of a "<0x0A>".
absl::StatusOr<char> ParseByteToken(const std::string& text, int id) {
  std::string byte;
  if (text.size() == 6 && text.substr(0, 3) == "<0x" && text[5] == '>' &&
      absl::ascii_isxdigit(static_cast<unsigned char>(text[3])) &&
      absl::ascii_isxdigit(static_cast<unsigned char>(text[4]))) {
    byte = absl::HexStringToBytes(text.substr(3, 2));
  }
  if (byte.size() == 1) return byte[0];
  return absl::InvalidArgumentError(absl::StrCat(
      "tokenizer: byte token ", id, " is ", QuotedToken(text), "; the form is <0x00> to <0xFF>"));
}

absl::Status CheckSizes(const store::v1::Tokenizer& data) {
  if (data.model() != "llama" && data.model() != "gpt2") {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer model ", QuotedToken(data.model()),
                     " is not supported; supported are \"llama\" (SentencePiece) and \"gpt2\" "
                     "(byte-level BPE)"));
  }
  const int count = data.tokens_size();
  if (count == 0) return absl::InvalidArgumentError("tokenizer: the vocabulary is empty");
  const bool scored = data.model() == "llama" && data.merges_size() == 0;
  if ((data.scores_size() != count && (scored || data.scores_size() != 0)) ||
      data.types_size() != count) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: ", count, " tokens, but ",
                                                   data.scores_size(), " scores and ",
                                                   data.types_size(), " types"));
  }
  if (data.merges_size() % 2 != 0) {
    return absl::InvalidArgumentError("tokenizer: merges are not pairs of token ids");
  }
  return absl::OkStatus();
}

absl::Status CheckId(const char* name, uint32_t id, size_t count) {
  if (id < count) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("tokenizer: ", name, " is ", id,
                                                 ", outside the vocabulary of ", count, " tokens"));
}

absl::Status SetSpecialId(const char* name, bool present, uint32_t id, size_t count, int32_t& out) {
  if (!present) return absl::OkStatus();
  RETURN_IF_ERROR(CheckId(name, id, count));
  out = static_cast<int32_t>(id);
  return absl::OkStatus();
}

template <typename Ids>
absl::Status FillSet(const char* name, const Ids& ids, size_t count,
                     absl::flat_hash_set<int32_t>& out) {
  for (const uint32_t id : ids) {
    RETURN_IF_ERROR(CheckId(name, id, count));
    out.insert(static_cast<int32_t>(id));
  }
  return absl::OkStatus();
}

absl::Status SetSpecials(const store::v1::Tokenizer& data, Vocabulary& v) {
  const size_t n = v.tokens.size();
  int32_t eot = kNoToken;
  RETURN_IF_ERROR(SetSpecialId("bos_id", data.has_bos_id(), data.bos_id(), n, v.bos));
  RETURN_IF_ERROR(SetSpecialId("eos_id", data.has_eos_id(), data.eos_id(), n, v.eos));
  RETURN_IF_ERROR(SetSpecialId("eot_id", data.has_eot_id(), data.eot_id(), n, eot));
  RETURN_IF_ERROR(
      SetSpecialId("unknown_id", data.has_unknown_id(), data.unknown_id(), n, v.unknown));
  RETURN_IF_ERROR(FillSet("an end_ids entry", data.end_ids(), n, v.ends));
  RETURN_IF_ERROR(FillSet("a strip_left_ids entry", data.strip_left_ids(), n, v.strip_left));
  RETURN_IF_ERROR(FillSet("a strip_right_ids entry", data.strip_right_ids(), n, v.strip_right));
  for (const int32_t id : {v.eos, eot}) {
    if (id != kNoToken) v.ends.insert(id);
  }
  v.add_bos = data.add_bos();
  v.add_eos = data.add_eos();
  v.add_space_prefix = data.add_space_prefix();
  if (v.add_bos && v.bos == kNoToken) {
    return absl::InvalidArgumentError(
        "tokenizer: add_bos is set but there is no bos_id; the source must name one "
        "(tokenizer.ggml.bos_token_id) or not ask for it (tokenizer.ggml.add_bos_token)");
  }
  if (v.add_eos && v.eos == kNoToken) {
    return absl::InvalidArgumentError(
        "tokenizer: add_eos is set but there is no eos_id; the source must name one "
        "(tokenizer.ggml.eos_token_id) or not ask for it (tokenizer.ggml.add_eos_token)");
  }
  for (size_t i = 0; i < n && v.unknown == kNoToken; ++i) {
    if (v.tokens[i].type == kUnknownToken) v.unknown = static_cast<int32_t>(i);
  }
  return absl::OkStatus();
}

// Appends what token `id` stands for and returns Token::is_piece.
absl::StatusOr<bool> AppendText(const store::v1::Tokenizer& data, int id, Vocabulary& v) {
  const std::string& text = data.tokens(id);
  const bool normal = data.types(id) == kNormalToken;
  if (v.byte_level) {
    // Added tokens are written as they are, and so are words outside the alphabet.
    const bool plain = normal || data.types(id) == kUnusedToken;
    const std::optional<std::string> bytes = plain ? BytesOfByteLevel(text) : std::nullopt;
    v.arena.append(bytes.has_value() ? *bytes : text);
    return normal && bytes.has_value();
  }
  if (data.types(id) == kByteToken) {
    ASSIGN_OR_RETURN(const char byte, ParseByteToken(text, id));
    v.arena.push_back(byte);
    return false;
  }
  AppendWithSpaces(text, v.arena);
  // Spaces are written U+2581; what has a real one is never the outcome of a merge.
  return normal && text.find(' ') == std::string::npos;
}

absl::Status ReadTokens(const store::v1::Tokenizer& data, Vocabulary& v) {
  size_t bytes = 0;
  for (const std::string& text : data.tokens()) bytes += text.size();
  v.arena.reserve(bytes);  // No text grows, so the views stay valid.
  v.tokens.reserve(static_cast<size_t>(data.tokens_size()));
  for (int id = 0; id < data.tokens_size(); ++id) {
    const uint32_t type = data.types(id);
    if (type < kNormalToken || type > kByteToken) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer: token ", id, " has type ", type, "; types are 1 to 6"));
    }
    if (data.scores_size() > 0 && std::isnan(data.scores(id))) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer: the score of token ", id, " is not a number"));
    }
    const size_t begin = v.arena.size();
    ASSIGN_OR_RETURN(const bool is_piece, AppendText(data, id, v));
    v.tokens.push_back({std::string_view(v.arena).substr(begin), type, is_piece});
    if (type == kUnusedToken) v.unused.push_back(id);
  }
  return absl::OkStatus();
}

absl::Status IndexAddedTokens(Vocabulary& v) {
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    const Vocabulary::Token& token = v.tokens[id];
    if (!token.is_added() || token.text.empty()) continue;
    if (token.text.size() > AddedTokens::kMaxBytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tokenizer: token ", id, " is control or user-defined and has ", token.text.size(),
          " bytes; at most ", AddedTokens::kMaxBytes, " are supported"));
    }
    v.added.Add(token.text, static_cast<int32_t>(id), token.type == kControlToken);
  }
  return absl::OkStatus();
}

}  // namespace

std::string QuotedToken(std::string_view text) {
  return absl::StrCat("\"", Printable(text, 80), "\"");
}

absl::Status ReadVocabulary(const store::v1::Tokenizer& data, Vocabulary& vocabulary) {
  RETURN_IF_ERROR(CheckSizes(data));
  vocabulary.byte_level = data.model() == "gpt2";
  RETURN_IF_ERROR(ReadTokens(data, vocabulary));
  RETURN_IF_ERROR(SetSpecials(data, vocabulary));
  return IndexAddedTokens(vocabulary);
}

}  // namespace tidegate
