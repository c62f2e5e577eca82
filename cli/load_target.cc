#include "cli/load_target.h"

#include <algorithm>
#include <chrono>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/units.h"
#include "cli/client_options.h"
#include "grpcpp/grpcpp.h"
#include "tidegate/v1/generation.grpc.pb.h"
#include "tidegate/v1/model.grpc.pb.h"

namespace tidegate {
namespace {

constexpr std::chrono::seconds kLoadTargetTimeout{20};
constexpr uint64_t kMaxPromptFileBytes = 16 * kMiB;
constexpr size_t kPartBytes = 128 * kKiB;  // of a Tokenize call: its answer stays small

class Questions {
 public:
  Questions(const std::shared_ptr<grpc::Channel>& channel, const std::string& address,
            const std::string& model)
      : models_(v1::ModelService::NewStub(channel)),
        generation_(v1::GenerationService::NewStub(channel)),
        address_(address),
        model_(model) {}

  absl::StatusOr<v1::Model> Model() {
    v1::GetModelRequest request;
    request.set_model(model_);
    v1::GetModelResponse response;
    RETURN_IF_ERROR(Ask([&](grpc::ClientContext* context) {
      return models_->GetModel(context, request, &response);
    }));
    return response.model();
  }

  absl::StatusOr<std::vector<uint32_t>> Tokens(std::string_view text, bool add_special) {
    v1::TokenizeRequest request;
    request.set_text(std::string(text));
    request.set_model(model_);
    request.set_add_special(add_special);
    v1::TokenizeResponse response;
    RETURN_IF_ERROR(Ask([&](grpc::ClientContext* context) {
      return generation_->Tokenize(context, request, &response);
    }));
    return std::vector<uint32_t>(response.token_ids().begin(), response.token_ids().end());
  }

 private:
  template <typename Call>
  absl::Status Ask(Call call) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kLoadTargetTimeout);
    return ExplainError(call(&context), address_, "tidegate-engine");
  }

  const std::unique_ptr<v1::ModelService::Stub> models_;
  const std::unique_ptr<v1::GenerationService::Stub> generation_;
  const std::string address_, model_;
};

// What stands before a text where special ids are added.
absl::StatusOr<std::vector<uint32_t>> StartIds(Questions& questions) {
  constexpr std::string_view kText = "a";
  ASSIGN_OR_RETURN(std::vector<uint32_t> special, questions.Tokens(kText, /*add_special=*/true));
  ASSIGN_OR_RETURN(const std::vector<uint32_t> plain,
                   questions.Tokens(kText, /*add_special=*/false));
  special.erase(std::search(special.begin(), special.end(), plain.begin(), plain.end()),
                special.end());
  return special;
}

absl::StatusOr<std::vector<uint32_t>> FileIds(Questions& questions, const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxPromptFileBytes));
  std::vector<uint32_t> ids;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view part = CutAtCharacter(rest, kPartBytes);
    rest.remove_prefix(part.size());
    ASSIGN_OR_RETURN(const std::vector<uint32_t> some,
                     questions.Tokens(part, /*add_special=*/false));
    ids.insert(ids.end(), some.begin(), some.end());
  }
  if (ids.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(Printable(path), " has no text"));
  }
  return ids;
}

}  // namespace

absl::StatusOr<LoadTarget> AskLoadTarget(const std::shared_ptr<grpc::Channel>& channel,
                                         const std::string& address, const std::string& model,
                                         const std::string& prompt_file) {
  Questions questions(channel, address, model);
  LoadTarget target;
  ASSIGN_OR_RETURN(target.model, questions.Model());
  ASSIGN_OR_RETURN(target.start, StartIds(questions));
  if (prompt_file.empty()) return target;
  absl::StatusOr<std::vector<uint32_t>> ids = FileIds(questions, prompt_file);
  if (!ids.ok()) return Annotate(ids.status(), "--prompt-file");
  target.text = *std::move(ids);
  return target;
}

}  // namespace tidegate
