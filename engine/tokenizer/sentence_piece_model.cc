#include <algorithm>
#include <array>
#include <bitset>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "engine/tokenizer/merge_table.h"
#include "engine/tokenizer/pair_merger.h"
#include "engine/tokenizer/text_model.h"

namespace tidegate {
namespace {

constexpr std::string_view kSpaceMark = "\xe2\x96\x81";  // U+2581

// Ranks of scores: the best score is 0, equal scores have equal ranks.
std::vector<uint32_t> RanksOf(const store::v1::Tokenizer& data) {
  std::vector<float> distinct(data.scores().begin(), data.scores().end());
  std::sort(distinct.begin(), distinct.end(), std::greater<>());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  std::vector<uint32_t> ranks;
  ranks.reserve(static_cast<size_t>(data.scores_size()));
  for (const float score : data.scores()) {
    const auto at = std::lower_bound(distinct.begin(), distinct.end(), score, std::greater<>());
    ranks.push_back(static_cast<uint32_t>(at - distinct.begin()));
  }
  return ranks;
}

size_t JoinBit(std::string_view before, std::string_view after) {
  return static_cast<uint8_t>(before.back()) * 256u + static_cast<uint8_t>(after.front());
}

class SentencePieceModel : public TextModel {
 public:
  static absl::StatusOr<std::unique_ptr<TextModel>> Create(const store::v1::Tokenizer& data,
                                                           const Vocabulary& vocabulary) {
    auto model = std::make_unique<SentencePieceModel>(vocabulary);
    RETURN_IF_ERROR(model->IndexBytes());
    model->IndexPieces(data);
    model->has_merges_ = data.merges_size() > 0;
    ASSIGN_OR_RETURN(model->merges_, MergeTable::Create(data, vocabulary, model->pieces_));
    return model;
  }

  explicit SentencePieceModel(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}

  void Encode(std::string_view text, std::vector<int32_t>& out) const override {
    std::string spaced;
    spaced.reserve(text.size() + 1);
    if (vocabulary_.add_space_prefix) spaced.push_back(' ');
    for (size_t at = 0; at < text.size();) {
      const size_t mark = std::min(text.find(kSpaceMark, at), text.size());
      spaced.append(text, at, mark - at);
      if (mark < text.size()) spaced.push_back(' ');
      at = mark + kSpaceMark.size();
    }
    EncodeRuns(spaced, out);
  }

 private:
  absl::Status IndexBytes();
  void IndexPieces(const store::v1::Tokenizer& data);
  void MarkJoins(std::string_view text);
  void EncodeRuns(std::string_view text, std::vector<int32_t>& out) const;
  void MergeRun(std::string_view run, PairMerger& merger, std::vector<int32_t>& out) const;
  int32_t IdOf(std::string_view character) const;
  void Put(std::string_view text, int32_t id, std::vector<int32_t>& out) const;

  const Vocabulary& vocabulary_;
  PieceTable pieces_;  // normal tokens; ranks are those of their scores
  MergeTable merges_;
  bool has_merges_ = false;   // merges_ decides, not the scores
  size_t longest_piece_ = 0;  // bytes
  std::array<int32_t, 256> byte_ids_;
  // Bit (last byte of a character, first byte of the next): some piece has such neighbours. Where
  // the bit is clear nothing can merge, so a text falls into short runs that are merged on their
  // own.
  std::bitset<256 * 256> joins_;
};

absl::Status SentencePieceModel::IndexBytes() {
  byte_ids_.fill(kNoToken);
  for (size_t i = 0; i < vocabulary_.tokens.size(); ++i) {
    const auto& [text, type, is_piece] = vocabulary_.tokens[i];
    if (type != kByteToken) continue;
    int32_t& id = byte_ids_[static_cast<uint8_t>(text.front())];
    if (id != kNoToken) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer: tokens ", id, " and ", i, " are both <0x",
                       absl::Hex(static_cast<uint8_t>(text.front()), absl::kZeroPad2), ">"));
    }
    id = static_cast<int32_t>(i);
  }
  for (size_t byte = 0; byte < 256 && vocabulary_.unknown == kNoToken; ++byte) {
    if (byte_ids_[byte] != kNoToken) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer: neither a byte token <0x", absl::Hex(byte, absl::kZeroPad2),
                     "> nor an unknown token, so not every text has ids"));
  }
  return absl::OkStatus();
}

// The smallest id of equal texts is found.
void SentencePieceModel::IndexPieces(const store::v1::Tokenizer& data) {
  const std::vector<uint32_t> ranks = RanksOf(data);
  pieces_.reserve(vocabulary_.tokens.size());
  for (size_t i = 0; i < vocabulary_.tokens.size(); ++i) {
    const auto& [text, type, is_piece] = vocabulary_.tokens[i];
    if (!is_piece || text.empty() || text.size() > kMaxPieceBytes) continue;
    pieces_.emplace(PieceKey(text),
                    PairMerge{ranks.empty() ? 0 : ranks[i], static_cast<int32_t>(i)});
    longest_piece_ = std::max(longest_piece_, text.size());
    MarkJoins(text);
  }
}

void SentencePieceModel::MarkJoins(std::string_view text) {
  std::string_view before;
  while (!text.empty()) {
    const std::string_view character = text.substr(0, NextUtf8(text).bytes);
    if (!before.empty()) joins_.set(JoinBit(before, character));
    before = character;
    text.remove_prefix(character.size());
  }
}

// `text` has spaces, no U+2581.
void SentencePieceModel::EncodeRuns(std::string_view text, std::vector<int32_t>& out) const {
  PairMerger merger;
  size_t begin = 0;  // of the run
  for (size_t at = 0; at < text.size();) {
    const std::string_view character = text.substr(at, NextUtf8(text.substr(at)).bytes);
    if (!merger.empty() && (!joins_.test(JoinBit(text.substr(at - 1, 1), character)) ||
                            at - begin >= PairMerger::kMaxRunBytes)) {
      MergeRun(text.substr(begin, at - begin), merger, out);
      begin = at;
    }
    merger.Add(static_cast<uint32_t>(character.size()), has_merges_ ? IdOf(character) : kNoToken);
    at += character.size();
  }
  MergeRun(text.substr(begin), merger, out);
}

void SentencePieceModel::MergeRun(std::string_view run, PairMerger& merger,
                                  std::vector<int32_t>& out) const {
  const auto by_score = [&](const auto& left, const auto& right) -> const PairMerge* {
    const size_t bytes = size_t{left.bytes} + right.bytes;
    if (bytes > longest_piece_) return nullptr;
    const auto found = pieces_.find(PieceKey(run.substr(left.begin, bytes)));
    return found == pieces_.end() ? nullptr : &found->second;
  };
  const auto by_merge = [&](const auto& left, const auto& right) {
    return merges_.Find(left.id, right.id);
  };
  const auto put = [&](const auto& symbol) {
    Put(run.substr(symbol.begin, symbol.bytes), symbol.id, out);
  };
  if (has_merges_) {
    merger.Run(by_merge, put);
  } else {
    merger.Run(by_score, put);
  }
}

int32_t SentencePieceModel::IdOf(std::string_view character) const {
  const auto found = pieces_.find(PieceKey(character));
  return found == pieces_.end() ? kNoToken : found->second.id;
}

// `id` is kNoToken for a character that was not merged.
void SentencePieceModel::Put(std::string_view text, int32_t id, std::vector<int32_t>& out) const {
  if (id == kNoToken) id = IdOf(text);
  if (id != kNoToken) return out.push_back(id);
  if (text == " ") text = kSpaceMark;  // As SentencePiece does it: its bytes are those of U+2581.
  const auto id_of = [&](char c) { return byte_ids_[static_cast<uint8_t>(c)]; };
  if (std::any_of(text.begin(), text.end(), [&](char c) { return id_of(c) == kNoToken; })) {
    return out.push_back(vocabulary_.unknown);
  }
  for (const char c : text) out.push_back(id_of(c));
}

}  // namespace

absl::StatusOr<std::unique_ptr<TextModel>> MakeSentencePieceModel(const store::v1::Tokenizer& data,
                                                                  const Vocabulary& vocabulary) {
  return SentencePieceModel::Create(data, vocabulary);
}

}  // namespace tidegate
