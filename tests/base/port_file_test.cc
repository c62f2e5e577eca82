#include "base/port_file.h"

#include <gtest/gtest.h>

#include "tests/support/test_support.h"

namespace tidegate::port_file_test {

TEST(PortFile, ReplacesTheFile) {
  TempDir folder;
  WriteFileOrDie(folder.File("port"), "something longer");
  ASSERT_TRUE(WritePortFile(folder.File("port"), 50051).ok());
  EXPECT_EQ(ReadFileOrDie(folder.File("port")), "50051\n");
  EXPECT_FALSE(FileExists(folder.File("port.tmp")));
}

TEST(PortFile, NoNameNoFile) { EXPECT_TRUE(WritePortFile("", 1).ok()); }

TEST(PortFile, NamesTheFolderThatIsMissing) {
  const absl::Status status = WritePortFile("/nonexistent/port", 1);
  EXPECT_NE(status.message().find("/nonexistent/port"), absl::string_view::npos);
}

}  // namespace tidegate::port_file_test
