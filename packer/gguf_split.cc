#include "packer/gguf_split.h"

#include <cctype>
#include <filesystem>
#include <string_view>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

constexpr std::string_view kTail = "-00000-of-00000.gguf";
constexpr size_t kMaxNamed = 5;  // missing files that an error names

// Everything before the numbers. The digits of both must be there, and the second one be `count`.
absl::StatusOr<std::string> SplitPrefix(const std::string& path, uint64_t count) {
  const auto wrong = absl::InvalidArgumentError(absl::StrFormat(
      "%s is one of %d files of a split model, but its name does not end in "
      "-00001-of-%05d.gguf, by which the others are found; give it the name that it had",
      path, count, count));
  if (path.size() < kTail.size()) return wrong;
  const std::string_view tail = std::string_view(path).substr(path.size() - kTail.size());
  for (size_t i = 0; i < kTail.size(); ++i) {
    const bool digit = std::isdigit(static_cast<unsigned char>(tail[i])) != 0;
    if (kTail[i] == '0' ? !digit : tail[i] != kTail[i]) return wrong;
  }
  if (tail.substr(10, 5) != absl::StrFormat("%05d", count)) return wrong;
  return path.substr(0, path.size() - kTail.size());
}

}  // namespace

absl::StatusOr<std::vector<std::string>> SplitPaths(const std::string& path, uint64_t count) {
  if (count == 0 || count > kMaxSplitFiles) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": metadata key split.count is ", count,
                                                   ", at most ", kMaxSplitFiles,
                                                   " files are supported"));
  }
  ASSIGN_OR_RETURN(const std::string prefix, SplitPrefix(path, count));
  std::vector<std::string> paths, missing;
  size_t missing_count = 0;
  for (uint64_t i = 1; i <= count; ++i) {
    paths.push_back(absl::StrFormat("%s-%05d-of-%05d.gguf", prefix, i, count));
    std::error_code ignored;
    if (std::filesystem::exists(paths.back(), ignored)) continue;
    ++missing_count;
    if (missing.size() < kMaxNamed) missing.push_back(paths.back());
  }
  if (missing_count == 0) return paths;
  return absl::NotFoundError(absl::StrCat(
      "the model is split into ", count, " files, of which ", missing_count,
      " are missing: ", absl::StrJoin(missing, ", "), missing.size() < missing_count ? ", ..." : "",
      "; put all of them into one folder"));
}

}  // namespace tidegate
