#include "server/model_service.h"

#include <gtest/gtest.h>

#include "tests/support/error_details.h"
#include "tests/support/server_fixture.h"

namespace tidegate::model_service_test {

using ModelServiceTest = ServerFixture;

TEST_F(ModelServiceTest, DescribesTheModelByAllItsNames) {
  for (const char* name : {"", "tiny", "other-name"}) {
    v1::GetModelRequest request;
    request.set_model(name);
    v1::GetModelResponse response;
    grpc::ClientContext context;
    ASSERT_TRUE(models_->GetModel(&context, request, &response).ok()) << name;
    const v1::Model& model = response.model();
    EXPECT_EQ(model.name(), "tiny");
    EXPECT_EQ(model.aliases(0), "other-name");
    EXPECT_EQ(model.kv_encoding(), "q8");
    EXPECT_EQ(model.vocab_size(), 260u);
    EXPECT_EQ(model.context_tokens(), 64u);
    EXPECT_FLOAT_EQ(model.pruning().density_min(), 0.25f);
    EXPECT_TRUE(model.pruning().defaults().has_reproducible());
  }
}

TEST_F(ModelServiceTest, ListsOneModel) {
  v1::ListModelsResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(models_->ListModels(&context, v1::ListModelsRequest(), &response).ok());
  ASSERT_EQ(response.models_size(), 1);
  EXPECT_EQ(response.models(0).name(), "tiny");
}

TEST_F(ModelServiceTest, OtherModelsAreNotFound) {
  v1::GetModelRequest request;
  request.set_model("huge");
  v1::GetModelResponse response;
  grpc::ClientContext context;
  const grpc::Status status = models_->GetModel(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(DetailOf<google::rpc::ResourceInfo>(status)->resource_type(), "tidegate.v1.Model");
}

}  // namespace tidegate::model_service_test
