#include "packer/merge_list.h"

#include "absl/strings/str_cat.h"
#include "base/text.h"

namespace tidegate {
namespace {

absl::string_view Abseil(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

MergeList::MergeList(store::v1::Tokenizer& tokenizer) : tokenizer_(tokenizer) {
  ids_.reserve(static_cast<size_t>(tokenizer.tokens_size()));
  for (int id = 0; id < tokenizer.tokens_size(); ++id) {
    ids_.emplace(tokenizer.tokens(id), static_cast<uint32_t>(id));
  }
}

absl::Status MergeList::Add(std::string_view left, std::string_view right) {
  const auto left_id = ids_.find(Abseil(left));
  const auto right_id = ids_.find(Abseil(right));
  if (left_id == ids_.end() || right_id == ids_.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("merge ", tokenizer_.merges_size() / 2, " is \"", Printable(left, 40), " ",
                     Printable(right, 40), "\"; merges are two tokens with a space between"));
  }
  tokenizer_.add_merges(left_id->second);
  tokenizer_.add_merges(right_id->second);
  return absl::OkStatus();
}

absl::Status MergeList::Add(std::string_view merge) {
  const size_t space = merge.size() > 1 ? merge.find(' ', 1) : std::string_view::npos;
  if (space == std::string_view::npos) return Add(merge, "");
  return Add(merge.substr(0, space), merge.substr(space + 1));
}

}  // namespace tidegate
