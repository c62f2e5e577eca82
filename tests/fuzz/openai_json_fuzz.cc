// Any bytes as the body of an HTTP request: it is refused with the names of fields, or becomes a
// request of the gRPC API. Nothing may crash or grow without bound.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "server/openai/parse_json.h"
#include "tidegate/v1/generation.pb.h"

namespace {

void CheckStatus(const absl::Status& status) {
  if (!status.ok() && status.code() != absl::StatusCode::kInvalidArgument) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  tidegate::v1::ChatRequest chat;
  tidegate::AnswerOptions options;
  CheckStatus(tidegate::ParseChatJson(body, chat, options));
  tidegate::v1::GenerateRequest completion;
  CheckStatus(tidegate::ParseCompletionJson(body, completion, options));
  if (chat.ByteSizeLong() + completion.ByteSizeLong() > 64 + 16 * size) std::abort();
  return 0;
}
