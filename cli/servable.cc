#include "cli/servable.h"

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/text.h"
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

absl::StatusOr<PackPlan> ServablePlan(const SourceModel& source, const PackOptions& options) {
  constexpr size_t kShownPathBytes = 4096;
  auto plan = PlanPack(source, options);
  if (!plan.ok()) return Annotate(plan.status(), source.path());
  RETURN_IF_ERROR(Annotate(CheckServable(plan->manifest), source.path()));
  if (const absl::Status chat = CheckChatTemplate(plan->manifest); !chat.ok()) {
    LogWarning("the chat template of ", Printable(source.path(), kShownPathBytes),
               " cannot be used, chats will be refused: ", Printable(std::string(chat.message())));
  }
  return plan;
}

}  // namespace tidegate
