#include "cli/token_ids.h"

#include <fstream>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace tidegate {

absl::StatusOr<std::vector<TokenId>> ReadTokenIds(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in.good()) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  std::stringstream text;
  text << in.rdbuf();
  std::vector<TokenId> ids;
  for (const absl::string_view part :
       absl::StrSplit(text.str(), absl::ByAnyChar(" ,\n\t[]"), absl::SkipEmpty())) {
    TokenId id = 0;
    if (!absl::SimpleAtoi(part, &id)) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": '", part, "' is not a token id"));
    }
    ids.push_back(id);
  }
  return ids;
}

absl::Status CheckTokenIds(std::span<const TokenId> ids, uint32_t vocab) {
  for (const TokenId id : ids) {
    if (id < 0 || static_cast<uint32_t>(id) >= vocab) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " is not in [0, ", vocab, ")"));
    }
  }
  return absl::OkStatus();
}

}  // namespace tidegate
