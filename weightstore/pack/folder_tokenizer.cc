#include "weightstore/pack/folder_tokenizer.h"

#include "absl/strings/str_cat.h"

namespace tidegate {

absl::StatusOr<store::v1::Tokenizer> TokenizerFromFolder(const std::string& folder) {
  return absl::UnimplementedError(
      absl::StrCat(folder,
                   ": this build cannot read tokenizer.json and tokenizer.model; convert the "
                   "folder to GGUF and pack that"));
}

}  // namespace tidegate
