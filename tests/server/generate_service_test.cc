#include "server/generate_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/error_details.h"
#include "tests/support/server_fixture.h"

namespace tidegate::generate_service_test {

using testing::ElementsAre;

using GenerateServiceTest = ServerFixture;

TEST_F(GenerateServiceTest, TokenizesWithPieces) {
  v1::TokenizeRequest request;
  request.set_text("a\xc3\xa4");
  request.set_with_pieces(true);
  v1::TokenizeResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(generation_->Tokenize(&context, request, &response).ok());
  EXPECT_THAT(response.token_ids(),
              ElementsAre(kTinyBos, kTinyFirstPiece, kTinyFirstByte + 0xc3, kTinyFirstByte + 0xa4));
  EXPECT_THAT(response.pieces(), ElementsAre("<s>", " a", "\xc3", "\xa4"));
}

TEST_F(GenerateServiceTest, TokenizesWithoutSpecialTokens) {
  v1::TokenizeRequest request;
  request.set_text("a");
  request.set_add_special(false);
  v1::TokenizeResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(generation_->Tokenize(&context, request, &response).ok());
  EXPECT_THAT(response.token_ids(), ElementsAre(kTinyFirstPiece));
  EXPECT_EQ(response.pieces_size(), 0);
}

TEST_F(GenerateServiceTest, DetokenizesToValidUtf8) {
  v1::DetokenizeRequest request;
  for (const int id : {kTinyBos, kTinyFirstPiece, kTinyFirstByte + 0xc3}) {
    request.add_token_ids(static_cast<uint32_t>(id));
  }
  v1::DetokenizeResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(generation_->Detokenize(&context, request, &response).ok());
  EXPECT_EQ(response.text(),
            "a"
            "\xef\xbf\xbd");
}

TEST_F(GenerateServiceTest, RefusesUnknownIds) {
  v1::DetokenizeRequest request;
  request.add_token_ids(1 << 30);
  v1::DetokenizeResponse response;
  grpc::ClientContext context;
  const grpc::Status status = generation_->Detokenize(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(status)->field_violations(0).field(), "token_ids[0]");
}

}  // namespace tidegate::generate_service_test
