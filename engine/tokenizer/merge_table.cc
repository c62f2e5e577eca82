#include "engine/tokenizer/merge_table.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace tidegate {

absl::StatusOr<MergeTable> MergeTable::Create(const store::v1::Tokenizer& data,
                                              const Vocabulary& vocabulary,
                                              const PieceTable& pieces) {
  MergeTable table;
  table.merges_.reserve(static_cast<size_t>(data.merges_size()) / 2);
  const size_t count = vocabulary.tokens.size();
  std::string joined;
  for (int i = 0; i + 1 < data.merges_size(); i += 2) {
    const uint32_t left = data.merges(i), right = data.merges(i + 1);
    if (left >= count || right >= count) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer: merge ", i / 2, " joins tokens ",
                                                     left, " and ", right, "; the vocabulary has ",
                                                     count));
    }
    const std::string_view first = vocabulary.tokens[left].text;
    const std::string_view second = vocabulary.tokens[right].text;
    if (first.size() > kMaxPieceBytes || second.size() > kMaxPieceBytes) continue;
    joined.assign(first).append(second);
    const auto piece = pieces.find(joined);
    if (piece == pieces.end()) continue;
    table.merges_.emplace(Key(static_cast<int32_t>(left), static_cast<int32_t>(right)),
                          PairMerge{static_cast<uint32_t>(i / 2), piece->second.id});
  }
  return table;
}

}  // namespace tidegate
