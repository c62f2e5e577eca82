#include "measure/load_tokenizer.h"

#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "packer/hf_tokenizer.h"
#include "packer/source_model.h"
#include "packer/source_tokenizer.h"
#include "packer/special_tokens.h"
#include "proto/store/v1/pack_format.h"

namespace tidegate {
namespace {

// The first 8 bytes, 0 for a shorter file. Errors name the file.
absl::StatusOr<uint64_t> FirstBytes(int fd, const std::string& path) {
  uint64_t start = 0;
  const auto file_bytes = FileSize(fd);
  if (!file_bytes.ok()) return Annotate(file_bytes.status(), path);
  if (*file_bytes < sizeof(start)) return start;
  RETURN_IF_ERROR(Annotate(ReadAt(fd, 0, &start, sizeof(start)), path));
  return start;
}

// Without the tokens that packing leaves out. A file or folder without weights has them all.
absl::StatusOr<store::v1::Tokenizer> AsPacked(const SourceModel& source,
                                              store::v1::Tokenizer tokenizer) {
  const GgufTensor* embedding = source.FindTensor("token_embd.weight");
  if (embedding != nullptr) RETURN_IF_ERROR(DropTokensBehind(embedding->rows(), tokenizer));
  return tokenizer;
}

absl::StatusOr<store::v1::Tokenizer> ReadTokenizer(const std::string& model) {
  std::error_code error;
  if (std::filesystem::is_directory(model, error)) {
    ASSIGN_OR_RETURN(store::v1::Tokenizer tokenizer, ReadHfTokenizer(model));
    const auto folder = SourceModel::Open(model);
    if (!folder.ok()) return tokenizer;
    auto packed = AsPacked(*folder, std::move(tokenizer));
    if (!packed.ok()) return Annotate(packed.status(), model);
    return packed;
  }
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(model));
  ASSIGN_OR_RETURN(const uint64_t start, FirstBytes(fd.get(), model));
  if (std::memcmp(&start, "GGUF", 4) == 0) {
    ASSIGN_OR_RETURN(const SourceModel gguf, SourceModel::Open(model));
    auto tokenizer = TokenizerOf(gguf);
    if (tokenizer.ok()) tokenizer = AsPacked(gguf, *std::move(tokenizer));
    if (!tokenizer.ok()) return Annotate(tokenizer.status(), model);
    return tokenizer;
  }
  if (start == kPackMagic) {
    ASSIGN_OR_RETURN(const PackIndex index, ReadPackIndex(fd.get(), model));
    return index.manifest.tokenizer();
  }
  ASSIGN_OR_RETURN(const uint64_t bytes, FileSize(fd.get()));
  return absl::InvalidArgumentError(absl::StrCat(
      model, ": ", bytes == 0 ? "the file is empty, " : "",
      "neither a GGUF file nor a pack; name a .gguf file, what `tidegate pack` wrote or "
      "a Hugging Face folder"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model) {
  ASSIGN_OR_RETURN(const store::v1::Tokenizer data, ReadTokenizer(model));
  auto tokenizer = Tokenizer::Create(data);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), model);
  return tokenizer;
}

}  // namespace tidegate
