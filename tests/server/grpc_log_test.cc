#include "server/grpc_log.h"

#include <gmock/gmock.h>
#include <grpc/grpc.h>
#include <grpc/support/log.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace tidegate::grpc_log_test {

using testing::HasSubstr;
using testing::Not;

TEST(GrpcLog, LinesAreOursPrintableAndFew) {
  grpc_init();  // Before that the library says nothing.
  TakeGrpcLog();
  testing::internal::CaptureStderr();
  for (int i = 0; i < 100; ++i) gpr_log(GPR_ERROR, "key=%s", "grpc-timeout\nforged line\x1b[2J");
  const std::string log = testing::internal::GetCapturedStderr();
  grpc_shutdown();
  EXPECT_THAT(log, HasSubstr("warning: grpc: key=grpc-timeout\\nforged line\\u{1b}[2J\n")) << log;
  EXPECT_THAT(log, Not(HasSubstr("\x1b")));
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1);
}

}  // namespace tidegate::grpc_log_test
