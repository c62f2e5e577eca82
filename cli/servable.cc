#include "cli/servable.h"

#include "absl/strings/str_cat.h"
#include "engine/tokenizer/tokenizer.h"
#include "template/template.h"

namespace tidegate {

absl::Status CheckServable(const store::v1::Manifest& manifest) {
  const auto tokenizer = Tokenizer::Create(manifest.tokenizer());
  if (!tokenizer.ok()) return tokenizer.status();
  const uint32_t rows = manifest.hyper_parameters().embedding_rows();
  if ((*tokenizer)->vocab_size() <= rows) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the tokenizer has ", (*tokenizer)->vocab_size(),
                                                 " tokens, the embedding only ", rows, " rows"));
}

absl::Status CheckChatTemplate(const store::v1::Manifest& manifest) {
  if (manifest.chat_template().empty()) return absl::OkStatus();
  return jinja::Template::Parse(manifest.chat_template()).status();
}

}  // namespace tidegate
