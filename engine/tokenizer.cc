#include "engine/tokenizer.h"

#include <algorithm>
#include <array>
#include <bitset>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/utf8.h"

namespace tidegate {
namespace {

constexpr std::string_view kSpaceMark = "\xe2\x96\x81";  // U+2581
constexpr TokenId kNone = -1;
// Positions of symbols are 32-bit. A run of text without a place to cut that is longer than this is
// cut nevertheless.
constexpr size_t kMaxRunBytes = size_t{1} << 30;

enum TokenType : uint32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

struct Token {
  std::string_view text;  // spaces as spaces, byte tokens as the byte
  uint32_t type = 0;
};

struct Piece {
  TokenId id;
  float score;
};

struct Vocabulary {
  std::string arena;  // owns what the views below point to
  std::vector<Token> tokens;
  absl::flat_hash_map<absl::string_view, Piece> pieces;  // normal tokens
  size_t longest_piece = 0;                              // bytes
  // Bit (last byte of a character, first byte of the next): some piece has such neighbours. Where
  // the bit is clear nothing can merge, so a text falls into short runs that are merged on their
  // own.
  std::bitset<256 * 256> joins;

  absl::flat_hash_map<absl::string_view, TokenId> user_defined;
  std::array<std::vector<size_t>, 256> user_lengths;  // by first byte, descending

  std::array<TokenId, 256> byte_ids;
  TokenId bos = kNone, eos = kNone, eot = kNone, unknown = kNone;
  bool add_bos = false, add_eos = false, add_space_prefix = false;
};

absl::string_view Abseil(std::string_view text) { return {text.data(), text.size()}; }

size_t JoinBit(std::string_view before, std::string_view after) {
  return static_cast<uint8_t>(before.back()) * 256u + static_cast<uint8_t>(after.front());
}

// Appends `text` with U+2581 as spaces.
void AppendWithSpaces(std::string_view text, std::string& out) {
  for (size_t at = 0; at < text.size();) {
    const size_t mark = std::min(text.find(kSpaceMark, at), text.size());
    out.append(text, at, mark - at);
    if (mark < text.size()) out.push_back(' ');
    at = mark + kSpaceMark.size();
  }
}

std::string Quoted(const std::string& text) {
  return absl::StrCat("\"", absl::CHexEscape(text), "\"");
}

// The byte of a "<0x0A>".
absl::StatusOr<uint8_t> ParseByteToken(const std::string& text, int id) {
  std::string byte;
  if (text.size() == 6 && text.substr(0, 3) == "<0x" && text[5] == '>' &&
      absl::ascii_isxdigit(static_cast<unsigned char>(text[3])) &&
      absl::ascii_isxdigit(static_cast<unsigned char>(text[4]))) {
    byte = absl::HexStringToBytes(text.substr(3, 2));
  }
  if (byte.size() == 1) return static_cast<uint8_t>(byte[0]);
  return absl::InvalidArgumentError(absl::StrCat("tokenizer: byte token ", id, " is ", Quoted(text),
                                                 "; the form is <0x00> to <0xFF>"));
}

absl::Status CheckSizes(const store::v1::Tokenizer& data) {
  if (data.model() != "llama") {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer model ", Quoted(data.model()),
                     " is not supported; supported is \"llama\" (SentencePiece)"));
  }
  const int count = data.tokens_size();
  if (count == 0) return absl::InvalidArgumentError("tokenizer: the vocabulary is empty");
  if (data.scores_size() != count || data.types_size() != count) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: ", count, " tokens, but ",
                                                   data.scores_size(), " scores and ",
                                                   data.types_size(), " types"));
  }
  return absl::OkStatus();
}

absl::Status SetSpecialId(const char* name, bool present, uint32_t id, size_t count, TokenId& out) {
  if (!present) return absl::OkStatus();
  if (id >= count) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tokenizer: ", name, " is ", id, ", outside the vocabulary of ", count, " tokens"));
  }
  out = static_cast<TokenId>(id);
  return absl::OkStatus();
}

absl::Status SetSpecials(const store::v1::Tokenizer& data, Vocabulary& v) {
  const size_t n = v.tokens.size();
  RETURN_IF_ERROR(SetSpecialId("bos_id", data.has_bos_id(), data.bos_id(), n, v.bos));
  RETURN_IF_ERROR(SetSpecialId("eos_id", data.has_eos_id(), data.eos_id(), n, v.eos));
  RETURN_IF_ERROR(SetSpecialId("eot_id", data.has_eot_id(), data.eot_id(), n, v.eot));
  RETURN_IF_ERROR(
      SetSpecialId("unknown_id", data.has_unknown_id(), data.unknown_id(), n, v.unknown));
  v.add_bos = data.add_bos();
  v.add_eos = data.add_eos();
  v.add_space_prefix = data.add_space_prefix();
  if (v.add_bos && v.bos == kNone) {
    return absl::InvalidArgumentError("tokenizer: add_bos is set but there is no bos_id");
  }
  if (v.add_eos && v.eos == kNone) {
    return absl::InvalidArgumentError("tokenizer: add_eos is set but there is no eos_id");
  }
  for (size_t i = 0; i < n && v.unknown == kNone; ++i) {
    if (v.tokens[i].type == kUnknown) v.unknown = static_cast<TokenId>(i);
  }
  for (size_t byte = 0; byte < 256 && v.unknown == kNone; ++byte) {
    if (v.byte_ids[byte] != kNone) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer: neither a byte token <0x", absl::Hex(byte, absl::kZeroPad2),
                     "> nor an unknown token, so not every text has ids"));
  }
  return absl::OkStatus();
}

// Fills arena and tokens.
absl::Status ReadTokens(const store::v1::Tokenizer& data, Vocabulary& v) {
  size_t bytes = 0;
  for (const std::string& text : data.tokens()) bytes += text.size();
  v.arena.reserve(bytes);  // No text grows, so the views stay valid.
  v.tokens.reserve(static_cast<size_t>(data.tokens_size()));
  v.byte_ids.fill(kNone);
  for (int id = 0; id < data.tokens_size(); ++id) {
    const uint32_t type = data.types(id);
    if (type < kNormal || type > kByte) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer: token ", id, " has type ", type, "; types are 1 to 6"));
    }
    if (std::isnan(data.scores(id))) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer: the score of token ", id, " is not a number"));
    }
    const size_t begin = v.arena.size();
    if (type == kByte) {
      ASSIGN_OR_RETURN(const uint8_t byte, ParseByteToken(data.tokens(id), id));
      if (v.byte_ids[byte] != kNone) {
        return absl::InvalidArgumentError(absl::StrCat("tokenizer: tokens ", v.byte_ids[byte],
                                                       " and ", id, " are both ", data.tokens(id)));
      }
      v.byte_ids[byte] = id;
      v.arena.push_back(static_cast<char>(byte));
    } else {
      AppendWithSpaces(data.tokens(id), v.arena);
    }
    v.tokens.push_back({std::string_view(v.arena).substr(begin), type});
  }
  return absl::OkStatus();
}

void MarkJoins(std::string_view text, Vocabulary& v) {
  std::string_view before;
  while (!text.empty()) {
    const std::string_view character = text.substr(0, NextUtf8(text).bytes);
    if (!before.empty()) v.joins.set(JoinBit(before, character));
    before = character;
    text.remove_prefix(character.size());
  }
}

// Fills the look-up tables. Of equal texts the smallest id is found.
void IndexTokens(const store::v1::Tokenizer& data, Vocabulary& v) {
  v.pieces.reserve(v.tokens.size());
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    const auto [text, type] = v.tokens[i];
    const TokenId id = static_cast<TokenId>(i);
    if (text.empty()) continue;
    if (type == kUserDefined && v.user_defined.emplace(Abseil(text), id).second) {
      v.user_lengths[static_cast<uint8_t>(text.front())].push_back(text.size());
    }
    // A blank is written U+2581 in pieces; one with a real blank is never the outcome of a merge.
    if (type != kNormal || data.tokens(id).find(' ') != std::string::npos) continue;
    v.pieces.emplace(Abseil(text), Piece{id, data.scores(id)});
    v.longest_piece = std::max(v.longest_piece, text.size());
    MarkJoins(text, v);
  }
  for (std::vector<size_t>& lengths : v.user_lengths) {
    std::sort(lengths.begin(), lengths.end(), std::greater<>());
    lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  }
}

// Turns one text into ids.
class Encoder {
 public:
  Encoder(const Vocabulary& vocabulary, std::vector<TokenId>& out)
      : vocabulary_(vocabulary), out_(out) {}

  // `text` has spaces, no U+2581.
  void Run(std::string_view text) {
    text_ = text;
    for (size_t at = 0; at < text.size();) {
      if (const size_t bytes = TakeUserDefined(at); bytes > 0) {
        at += bytes;
      } else {
        at += AddCharacter(at);
      }
    }
    MergeRun();
  }

 private:
  // A piece of the run: a character at first, several after merges. bytes = 0: became part of
  // another.
  struct Symbol {
    uint32_t begin;  // from run_begin_
    uint32_t bytes;
    uint32_t previous, next;  // indices, kEnd at the ends
    TokenId id;               // kNone: a single character that was not looked up yet
  };
  // A symbol and its right neighbour might become one piece of `bytes` bytes.
  struct Candidate {
    float score;
    uint32_t left;
    uint32_t bytes;
    TokenId id;
    // std::push_heap puts the largest on top: the best score, then the leftmost.
    bool operator<(const Candidate& other) const {
      return score != other.score ? score < other.score : left > other.left;
    }
  };
  static constexpr uint32_t kEnd = std::numeric_limits<uint32_t>::max();

  size_t TakeUserDefined(size_t at) {
    for (const size_t bytes : vocabulary_.user_lengths[static_cast<uint8_t>(text_[at])]) {
      if (bytes > text_.size() - at) continue;
      const auto found = vocabulary_.user_defined.find(Abseil(text_.substr(at, bytes)));
      if (found == vocabulary_.user_defined.end()) continue;
      MergeRun();
      out_.push_back(found->second);
      return bytes;
    }
    return 0;
  }

  size_t AddCharacter(size_t at) {
    const std::string_view rest = text_.substr(at);
    const size_t bytes = NextUtf8(rest).bytes;
    if (!symbols_.empty() && (!vocabulary_.joins.test(JoinBit(text_.substr(at - 1, 1), rest)) ||
                              at - run_begin_ > kMaxRunBytes)) {
      MergeRun();
    }
    if (symbols_.empty()) run_begin_ = at;
    const uint32_t index = static_cast<uint32_t>(symbols_.size());
    if (index > 0) symbols_.back().next = index;
    symbols_.push_back({static_cast<uint32_t>(at - run_begin_), static_cast<uint32_t>(bytes),
                        index > 0 ? index - 1 : kEnd, kEnd, kNone});
    return bytes;
  }

  std::string_view TextOf(uint32_t begin, uint32_t bytes) const {
    return text_.substr(run_begin_ + begin, bytes);
  }

  void Offer(uint32_t left) {
    if (left == kEnd || symbols_[left].next == kEnd) return;
    const uint32_t bytes = symbols_[left].bytes + symbols_[symbols_[left].next].bytes;
    if (bytes > vocabulary_.longest_piece) return;
    const auto found = vocabulary_.pieces.find(Abseil(TextOf(symbols_[left].begin, bytes)));
    if (found == vocabulary_.pieces.end()) return;
    candidates_.push_back({found->second.score, left, bytes, found->second.id});
    std::push_heap(candidates_.begin(), candidates_.end());
  }

  void Merge(const Candidate& best) {
    Symbol& left = symbols_[best.left];
    if (left.bytes == 0 || left.next == kEnd) return;
    Symbol& right = symbols_[left.next];
    // Boundaries only disappear: other lengths mean that one side has grown since.
    if (left.bytes + right.bytes != best.bytes) return;
    left.bytes = best.bytes;
    left.id = best.id;
    left.next = right.next;
    right.bytes = 0;
    if (left.next != kEnd) symbols_[left.next].previous = best.left;
    Offer(left.previous);
    Offer(best.left);
  }

  // Merges what AddCharacter() collected and puts out its ids.
  void MergeRun() {
    if (symbols_.empty()) return;
    for (uint32_t i = 0; i + 1 < symbols_.size(); ++i) Offer(i);
    while (!candidates_.empty()) {
      std::pop_heap(candidates_.begin(), candidates_.end());
      const Candidate best = candidates_.back();
      candidates_.pop_back();
      Merge(best);
    }
    for (uint32_t i = 0; i != kEnd; i = symbols_[i].next) Put(symbols_[i]);
    symbols_.clear();
  }

  void Put(const Symbol& symbol) {
    if (symbol.id != kNone) return out_.push_back(symbol.id);
    std::string_view text = TextOf(symbol.begin, symbol.bytes);
    const auto found = vocabulary_.pieces.find(Abseil(text));
    if (found != vocabulary_.pieces.end()) return out_.push_back(found->second.id);
    if (text == " ") text = kSpaceMark;  // As SentencePiece does it: its bytes are those of U+2581.
    const auto id_of = [&](char c) { return vocabulary_.byte_ids[static_cast<uint8_t>(c)]; };
    if (std::any_of(text.begin(), text.end(), [&](char c) { return id_of(c) == kNone; })) {
      return out_.push_back(vocabulary_.unknown);
    }
    for (const char c : text) out_.push_back(id_of(c));
  }

  const Vocabulary& vocabulary_;
  std::vector<TokenId>& out_;
  std::string_view text_;
  size_t run_begin_ = 0;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> candidates_;  // a heap
};

}  // namespace

struct Tokenizer::Data {
  Vocabulary vocabulary;
};

Tokenizer::Tokenizer(std::unique_ptr<Data> data) : data_(std::move(data)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(const store::v1::Tokenizer& data) {
  RETURN_IF_ERROR(CheckSizes(data));
  auto result = std::make_unique<Data>();
  RETURN_IF_ERROR(ReadTokens(data, result->vocabulary));
  RETURN_IF_ERROR(SetSpecials(data, result->vocabulary));
  IndexTokens(data, result->vocabulary);
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(result)));
}

std::vector<TokenId> Tokenizer::Encode(std::string_view text, bool add_special) const {
  const Vocabulary& v = data_->vocabulary;
  std::vector<TokenId> ids;
  if (add_special && v.add_bos) ids.push_back(v.bos);
  if (!text.empty()) {
    std::string spaced;
    spaced.reserve(text.size() + 1);
    if (v.add_space_prefix) spaced.push_back(' ');
    AppendWithSpaces(text, spaced);
    Encoder(v, ids).Run(spaced);
  }
  if (add_special && v.add_eos) ids.push_back(v.eos);
  return ids;
}

std::string_view Tokenizer::Piece(TokenId id, bool render_special) const {
  CHECK(IsValid(id));
  const Token& token = data_->vocabulary.tokens[static_cast<size_t>(id)];
  const bool special = token.type == kControl || token.type == kUnknown;
  return special && !render_special ? std::string_view() : token.text;
}

std::string Tokenizer::Decode(const std::vector<TokenId>& ids, bool render_special) const {
  std::string text;
  bool drop_space = adds_space_prefix();
  for (const TokenId id : ids) {
    std::string_view piece = Piece(id, render_special);
    // Special tokens in front of the text have no share in its first space.
    if (drop_space && !Piece(id).empty()) {
      if (piece.front() == ' ') piece.remove_prefix(1);
      drop_space = false;
    }
    text.append(piece);
  }
  return text;
}

bool Tokenizer::IsValid(TokenId id) const {
  return id >= 0 && static_cast<size_t>(id) < data_->vocabulary.tokens.size();
}

bool Tokenizer::IsEndOfGeneration(TokenId id) const {
  return id != kNone && (id == data_->vocabulary.eos || id == data_->vocabulary.eot);
}

size_t Tokenizer::vocab_size() const { return data_->vocabulary.tokens.size(); }
TokenId Tokenizer::bos_id() const { return data_->vocabulary.bos; }
TokenId Tokenizer::eos_id() const { return data_->vocabulary.eos; }
bool Tokenizer::adds_space_prefix() const { return data_->vocabulary.add_space_prefix; }

}  // namespace tidegate
