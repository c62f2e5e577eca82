#include "base/read_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/test_support.h"

namespace tidegate::read_file_test {

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

TEST(ReadFile, FoldersDevicesAndPipesAreNoSurprise) {
  const TempDir folder;
  const auto directory = ReadFile(folder.path(), 100);
  EXPECT_EQ(directory.status().code(), absl::StatusCode::kInvalidArgument) << directory.status();
  EXPECT_NE(directory.status().ToString().find("is a folder"), std::string::npos);
  EXPECT_EQ(ReadFile("/dev/zero", 1000).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(*ReadFile("/dev/null", 1000), "");
  EXPECT_GT(ReadFile("/proc/self/stat", 1 << 16)->size(), 0u);  // its size says 0
  EXPECT_FALSE(ReadFile("", 100).ok());

  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  ASSERT_EQ(write(ends[1], "text", 4), 4);
  close(ends[1]);
  EXPECT_EQ(*ReadFile("/dev/fd/" + std::to_string(ends[0]), 100), "text");
  close(ends[0]);
}

TEST(ReadFile, ErrorsShowPathsAsText) {
  const auto missing = ReadFile("/none/\x1b[31m\nforged", 4);
  EXPECT_EQ(missing.status().message().find('\n'), std::string::npos);
  EXPECT_EQ(missing.status().message().find('\x1b'), std::string::npos);
}

TEST(OpenFile, TakesRegularFilesAloneAndDoesNotWait) {
  const TempDir folder;
  WriteFileOrDie(folder.File("f"), "x");
  EXPECT_TRUE(OpenFile(folder.File("f")).ok());
  ASSERT_EQ(mkfifo(folder.File("pipe").c_str(), 0600), 0);
  const std::pair<std::string, const char*> others[] = {{folder.path(), "is a folder"},
                                                        {folder.File("pipe"), "is a pipe"},
                                                        {"/dev/zero", "is a character device"}};
  for (const auto& [path, text] : others) {
    const auto fd = OpenFile(path);
    EXPECT_EQ(fd.status().code(), absl::StatusCode::kInvalidArgument) << path;
    EXPECT_NE(fd.status().ToString().find(text), std::string::npos) << fd.status();
  }
  EXPECT_EQ(OpenFile(folder.File("none")).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace tidegate::read_file_test
