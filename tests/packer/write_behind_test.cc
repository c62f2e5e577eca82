#include "packer/write_behind.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "tests/support/test_support.h"

namespace tidegate::write_behind_test {

UniqueFd NewFile(const TempDir& dir, int flags = O_RDWR) {
  auto fd = UniqueFd::Open(dir.File("f"), flags | O_CREAT, 0600);
  EXPECT_TRUE(fd.ok()) << fd.status();
  return *std::move(fd);
}

TEST(WriteBehindTest, PiecesOfAnySizeArrive) {
  TempDir dir;
  const UniqueFd fd = NewFile(dir);
  WriteBehind output(fd.get());
  const size_t sizes[] = {1, 4095, 4096, 64, 100'000, 3, 1'000'000, 8192};
  uint64_t offset = 100;
  uint8_t value = 0;
  for (const size_t size : sizes) {
    const auto room = output.Room(offset, size);
    ASSERT_TRUE(room.ok()) << room.status();
    ASSERT_EQ(room->size(), size);
    std::memset(room->data(), ++value, size);
    output.Write();
    offset += size;
  }
  ASSERT_TRUE(output.Finish().ok());
  const std::string written = ReadFileOrDie(dir.File("f"));
  ASSERT_EQ(written.size(), offset);
  EXPECT_EQ(written.substr(0, 100), std::string(100, '\0'));
  offset = 100;
  value = 0;
  for (const size_t size : sizes) {
    EXPECT_EQ(written.substr(offset, size), std::string(size, static_cast<char>(++value)));
    offset += size;
  }
}

TEST(WriteBehindTest, ErrorsComeWithWhatFollows) {
  TempDir dir;
  NewFile(dir);
  const UniqueFd fd = NewFile(dir, O_RDONLY);
  WriteBehind output(fd.get());
  auto room = output.Room(0, 100);
  ASSERT_TRUE(room.ok());
  output.Write();
  EXPECT_FALSE(output.Finish().ok());
  EXPECT_FALSE(output.Room(100, 100).ok());
  EXPECT_FALSE(output.Finish().ok());
}

TEST(WriteBehindTest, MayEndWithoutFinishing) {
  TempDir dir;
  const UniqueFd fd = NewFile(dir);
  WriteBehind output(fd.get());
  const auto room = output.Room(0, 1'000'000);
  ASSERT_TRUE(room.ok());
  std::memset(room->data(), 1, room->size());
  output.Write();
}

}  // namespace tidegate::write_behind_test
