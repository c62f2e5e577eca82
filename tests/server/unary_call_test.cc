#include "server/unary_call.h"

#include <gtest/gtest.h>

#include "tests/support/error_details.h"
#include "tests/support/server_fixture.h"

namespace tidegate::unary_call_test {

using UnaryCallTest = ServerFixture;

TEST_F(UnaryCallTest, ErrorsCarryDetailsAndPushback) {
  engine_->SetAttached(false);
  v1::ListModelsResponse response;
  grpc::ClientContext context;
  const grpc::Status status = models_->ListModels(&context, v1::ListModelsRequest(), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailOf<google::rpc::ErrorInfo>(status)->reason(), "WEIGHT_STORE_UNAVAILABLE");
  EXPECT_EQ(context.GetServerTrailingMetadata().count("grpc-retry-pushback-ms"), 1u);
}

TEST_F(UnaryCallTest, CallsAreCounted) {
  v1::ListModelsResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(models_->ListModels(&context, v1::ListModelsRequest(), &response).ok());
  const std::string page = metrics_server_->Render();
  EXPECT_NE(page.find("ListModels"), std::string::npos) << page;
}

}  // namespace tidegate::unary_call_test
