#include "measure/token_ids.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/numbers.h"
#include "base/read_file.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

constexpr size_t kMaxIdsBytes = size_t{1} << 30;
constexpr uint64_t kMaxTokenId = std::numeric_limits<TokenId>::max();

}  // namespace

absl::StatusOr<std::vector<TokenId>> ReadTokenIds(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxIdsBytes));
  std::vector<TokenId> ids;
  for (const absl::string_view part :
       absl::StrSplit(text, absl::ByAnyChar(" ,\n\t\r[]"), absl::SkipEmpty())) {
    const auto id = ParseInteger({part.data(), part.size()}, {0, kMaxTokenId});
    if (!id.ok()) return Annotate(id.status(), absl::StrCat(path, ": token ids"));
    ids.push_back(static_cast<TokenId>(*id));
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
