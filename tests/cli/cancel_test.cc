#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/commands.h"
#include "tests/cli/command_line.h"
#include "tests/support/server_fixture.h"

namespace tidegate::cancel_test {

class CancelTest : public ServerFixture {
 protected:
  absl::Status Cancel(const std::string& id) {
    testing::internal::CaptureStdout();
    const absl::Status status =
        RunCommand(AddCancelCommand, {"cancel", "--server", server_->address(), id});
    out_ = testing::internal::GetCapturedStdout();
    return status;
  }
  std::string out_;
};

TEST_F(CancelTest, EndsTheStreamsOfAnId) {
  grpc::ClientContext context;
  v1::GenerateRequest request;
  request.set_text("a");
  request.set_request_id("story");
  const auto reader = generation_->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_TRUE(Cancel("story").ok());
  EXPECT_EQ(out_, "cancelled\n");
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(CancelTest, AnUnknownIdIsAnError) {
  const absl::Status status = Cancel("nobody\x1b");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  const absl::Status unknown = Cancel("nobody");
  EXPECT_EQ(unknown.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(unknown.message()), testing::HasSubstr("nobody"));
  EXPECT_EQ(out_, "");
}

}  // namespace tidegate::cancel_test
