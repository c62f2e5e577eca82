#include <algorithm>
#include <array>
#include <utility>

#include "base/status_macros.h"
#include "engine/tokenizer/merge_table.h"
#include "engine/tokenizer/pair_merger.h"
#include "engine/tokenizer/pre_tokenizer.h"
#include "engine/tokenizer/text_model.h"

namespace tidegate {
namespace {

class ByteLevelModel : public TextModel {
 public:
  static absl::StatusOr<std::unique_ptr<TextModel>> Create(const store::v1::Tokenizer& data,
                                                           const Vocabulary& vocabulary) {
    auto model = std::make_unique<ByteLevelModel>(vocabulary);
    ASSIGN_OR_RETURN(model->pre_tokenizer_, PreTokenizer::Create(data));
    PieceTable words = model->IndexWords();
    ASSIGN_OR_RETURN(model->merges_, MergeTable::Create(data, vocabulary, words));
    if (data.ignore_merges()) model->words_ = std::move(words);
    return model;
  }

  explicit ByteLevelModel(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}

  void Encode(std::string_view text, std::vector<int32_t>& out) const override {
    PairMerger merger;
    if (vocabulary_.add_space_prefix && text.front() != ' ') {
      const std::string spaced = std::string(" ").append(text);
      EncodeWords(spaced, merger, out);
    } else {
      EncodeWords(text, merger, out);
    }
  }

 private:
  // Pieces by their bytes, the smallest id of equal ones.
  PieceTable IndexWords() {
    PieceTable words;
    words.reserve(vocabulary_.tokens.size());
    byte_ids_.fill(kNoToken);
    for (size_t i = 0; i < vocabulary_.tokens.size(); ++i) {
      const auto& [text, type, is_piece] = vocabulary_.tokens[i];
      if (!is_piece || text.empty() || text.size() > kMaxPieceBytes) continue;
      const int32_t id = static_cast<int32_t>(i);
      if (!words.emplace(PieceKey(text), PairMerge{0, id}).second || text.size() > 1) continue;
      byte_ids_[static_cast<uint8_t>(text.front())] = id;
    }
    return words;
  }

  void EncodeWords(std::string_view text, PairMerger& merger, std::vector<int32_t>& out) const {
    pre_tokenizer_->Split(text, [&](std::string_view word) { EncodeWord(word, merger, out); });
  }

  void EncodeWord(std::string_view word, PairMerger& merger, std::vector<int32_t>& out) const {
    if (!words_.empty()) {
      const auto found = words_.find(PieceKey(word));
      if (found != words_.end()) return out.push_back(found->second.id);
    }
    for (; !word.empty(); word.remove_prefix(std::min<size_t>(word.size(), merger.kMaxRunBytes))) {
      for (const char c : word.substr(0, merger.kMaxRunBytes)) {
        merger.Add(1, byte_ids_[static_cast<uint8_t>(c)]);
      }
      merger.Run(
          [this](const auto& left, const auto& right) { return merges_.Find(left.id, right.id); },
          [&](const auto& symbol) { Put(symbol.id, out); });
    }
  }

  void Put(int32_t id, std::vector<int32_t>& out) const {
    if (id == kNoToken) id = vocabulary_.unknown;
    if (id != kNoToken) out.push_back(id);
  }

  const Vocabulary& vocabulary_;
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  std::array<int32_t, 256> byte_ids_;
  MergeTable merges_;
  PieceTable words_;  // empty unless whole words need no merges
};

}  // namespace

absl::StatusOr<std::unique_ptr<TextModel>> MakeByteLevelModel(const store::v1::Tokenizer& data,
                                                              const Vocabulary& vocabulary) {
  return ByteLevelModel::Create(data, vocabulary);
}

}  // namespace tidegate
