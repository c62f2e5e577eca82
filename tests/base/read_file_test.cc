#include "base/read_file.h"

#include <gtest/gtest.h>

#include "tests/support/test_support.h"

namespace tidegate {
namespace {

TEST(ReadFile, GivesTheBytes) {
  const TempDir folder;
  const std::string content = "a\0b\n" + std::string(40000, 'x');
  WriteFileOrDie(folder.File("f"), content);
  EXPECT_EQ(*ReadFile(folder.File("f"), content.size()), content);
}

TEST(ReadFile, ErrorsNameThePath) {
  const TempDir folder;
  WriteFileOrDie(folder.File("f"), "12345");
  const auto large = ReadFile(folder.File("f"), 4);
  EXPECT_EQ(large.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(large.status().ToString().find("f is larger than 4 bytes"), std::string::npos);
  const auto missing = ReadFile(folder.File("g"), 4);
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound) << missing.status();
  EXPECT_NE(missing.status().ToString().find(folder.File("g")), std::string::npos);
}

}  // namespace
}  // namespace tidegate
