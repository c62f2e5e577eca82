// Models whose tokenizers are not what they should be, through packer, store, engine and RPC, as an
// operator meets them: more rows than tokens, a conversation's markup called words, tokenizers that
// no engine takes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/daemons.h"

namespace tidegate::odd_tokenizers_test {

using testing::HasSubstr;

std::string Found(const std::string& name) { return "data/found/" + name + ".gguf"; }

class OddTokenizers : public testing::Test {
 protected:
  RunResult Pack(const std::string& name) {
    return RunProgram(
        {BinaryPath("tidegate"), "pack", SharedPath(Found(name)), "-o", dir_.File(name)});
  }
  void Serve(const std::string& name) {
    const RunResult packed = Pack(name);
    ASSERT_EQ(packed.exit_code, 0) << packed.out << packed.err;
    daemons_.emplace(dir_.File(name));
    ASSERT_NO_FATAL_FAILURE(daemons_->Start({"--memory-budget", "64MiB"}));
  }
  // "Hi" as a chat of one message; without an end that the model chooses.
  StreamResult Hi(uint32_t max_tokens) const {
    v1::ChatRequest request;
    request.add_messages()->set_role("user");
    request.mutable_messages(0)->set_content("Hi");
    request.set_max_tokens(max_tokens);
    request.mutable_sampling()->set_temperature(0);
    request.mutable_pruning()->set_reproducible(true);
    const auto stub = v1::GenerationService::NewStub(daemons_->channel());
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kDaemonLimit);
    const auto reader = stub->Chat(&context, request);
    StreamResult result;
    v1::GenerateResponse event;
    while (reader->Read(&event)) {
      result.text += event.delta().text();
      if (event.has_finished()) result.finished = event.finished();
    }
    result.status = reader->Finish();
    return result;
  }

  TempDir dir_;
  std::optional<Daemons> daemons_;
};

TEST_F(OddTokenizers, IdsThatAreNoTokensAreNeitherDrawnNorTaken) {
  TG_REQUIRE_SHARED(Found("padrows"));
  ASSERT_NO_FATAL_FAILURE(Serve("padrows"));
  v1::GenerateRequest request = StoryRequest(60);
  request.set_text("Hello");
  for (const float temperature : {0.0f, 100.0f}) {
    request.mutable_sampling()->set_temperature(temperature);
    request.mutable_sampling()->set_seed(1);
    const StreamResult result = daemons_->Generate(request);
    EXPECT_TRUE(result.status.ok()) << result.status.error_message();
    EXPECT_EQ(result.ids.size(), 60u);
    EXPECT_THAT(result.ids, testing::Each(testing::Lt(300u)));
  }
  request.mutable_token_ids()->add_ids(300);
  const StreamResult refused = daemons_->Generate(request);
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(refused.status.error_message(), HasSubstr("300"));
  const auto stub = v1::ModelService::NewStub(daemons_->channel());
  grpc::ClientContext context;
  v1::GetModelResponse model;
  ASSERT_TRUE(stub->GetModel(&context, {}, &model).ok());
  EXPECT_EQ(model.model().vocab_size(), 300u);
  EXPECT_TRUE(daemons_->engine().running());
}

TEST_F(OddTokenizers, MarkupIsMarkupWhateverTypeTheFileGivesIt) {
  TG_REQUIRE_SHARED(Found("chatml-normal"));
  EXPECT_THAT(Pack("chatml-normal").out, HasSubstr("<|im_start|> (380), <|im_end|> (381)"));
  std::optional<StreamResult> results[2];
  for (const auto& [name, result] :
       {std::pair("chatml-control", &results[0]), std::pair("chatml-normal", &results[1])}) {
    ASSERT_NO_FATAL_FAILURE(Serve(name));
    *result = Hi(200);
    ASSERT_TRUE((*result)->status.ok()) << (*result)->status.error_message();
    ASSERT_TRUE((*result)->finished.has_value());
  }
  EXPECT_EQ(results[0]->finished->usage().prompt_tokens(), 22u);
  EXPECT_EQ(results[1]->finished->usage().prompt_tokens(), 22u);
  EXPECT_EQ(results[0]->text, results[1]->text);
  EXPECT_EQ(results[0]->finished->finish_reason(), results[1]->finished->finish_reason());
}

TEST_F(OddTokenizers, WhatNoEngineTakesIsNotPacked) {
  for (const auto& [name, message] :
       {std::pair("nobos-addbos", "add_bos is set but there is no bos_id"),
        std::pair("long-added", "has 2000 bytes; at most 1024 are supported")}) {
    TG_REQUIRE_SHARED(Found(name));
    const RunResult packed = Pack(name);
    EXPECT_EQ(packed.exit_code, 1) << packed.out;
    EXPECT_THAT(packed.err, HasSubstr(message));
    EXPECT_FALSE(FileExists(dir_.File(name)));
    const RunResult inspected =
        RunProgram({BinaryPath("tidegate"), "inspect", SharedPath(Found(name))});
    EXPECT_THAT(inspected.out, HasSubstr(message));
  }
}

}  // namespace tidegate::odd_tokenizers_test
