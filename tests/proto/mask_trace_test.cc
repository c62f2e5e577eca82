#include "proto/store/v1/mask_trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/unique_fd.h"
#include "tests/support/test_support.h"

namespace tidegate::mask_trace_test {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr MaskTraceShape kShape = {.layer_count = 2, .unit_count = {9, 17}};

class MaskTraceTest : public ::testing::Test {
 protected:
  std::string path() const { return dir_.File("t"); }
  // Two tokens, all masks empty but some of layer 1.
  void Write() {
    const auto fd = UniqueFd::Open(path(), O_RDWR | O_CREAT, 0600);
    ASSERT_TRUE(fd.ok());
    MaskTraceWriter writer(fd->get(), kShape);
    for (uint32_t token = 0; token < 2; ++token) {
      writer.Add(UnitKind::kInput, {});
      writer.Add(UnitKind::kHidden, {});
      writer.Add(UnitKind::kInput, std::vector<uint32_t>{0, 8});
      writer.Add(UnitKind::kHidden, std::vector<uint32_t>{3 + token, 16});
    }
    ASSERT_TRUE(writer.Finish().ok());
  }
  std::string Error(const MaskTraceShape& shape = kShape) {
    const absl::Status status = CountUnitUses(path(), shape).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(path()));
    return std::string(status.message());
  }

  TempDir dir_;
};

// The golden copy: whoever changes this changes the file format.
TEST_F(MaskTraceTest, LayoutIsGolden) {
  Write();
  const std::string bytes = ReadFileOrDie(path());
  ASSERT_EQ(bytes.size(), 24u + 2 * 2 * (2 + 3));
  EXPECT_EQ(bytes.substr(0, 12), std::string("TGTRACE1\1\0\0\0", 12));
  EXPECT_EQ(bytes.substr(24, 10), std::string("\0\0\0\0\0\x01\x01\x08\0\x01", 10));
  EXPECT_EQ(bytes.substr(34, 10), std::string("\0\0\0\0\0\x01\x01\x10\0\x01", 10));
}

TEST_F(MaskTraceTest, CountsHowOftenEveryUnitWasSelected) {
  Write();
  const auto uses = CountUnitUses(path(), kShape);
  ASSERT_TRUE(uses.ok()) << uses.status();
  EXPECT_EQ(uses->tokens, 2u);
  EXPECT_THAT(uses->uses[0][0], ElementsAre(0, 0, 0, 0, 0, 0, 0, 0, 0));
  EXPECT_THAT(uses->uses[0][1], ElementsAre(2, 0, 0, 0, 0, 0, 0, 0, 2));
  EXPECT_THAT(uses->uses[1][1], ElementsAre(0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2));
}

TEST_F(MaskTraceTest, MasksLongerThanTheBufferArriveWhole) {
  const MaskTraceShape wide = {.layer_count = 1, .unit_count = {1 << 20, 1 << 22}};
  {
    const auto fd = UniqueFd::Open(path(), O_RDWR | O_CREAT, 0600);
    MaskTraceWriter writer(fd->get(), wide);
    for (uint32_t token = 0; token < 5; ++token) {
      writer.Add(UnitKind::kInput, std::vector<uint32_t>{token});
      writer.Add(UnitKind::kHidden, std::vector<uint32_t>{(1 << 22) - 1});
    }
    ASSERT_TRUE(writer.Finish().ok());
  }
  const auto uses = CountUnitUses(path(), wide);
  ASSERT_TRUE(uses.ok()) << uses.status();
  EXPECT_THAT(std::vector<uint32_t>(uses->uses[0][0].begin(), uses->uses[0][0].begin() + 6),
              ElementsAre(1, 1, 1, 1, 1, 0));
  EXPECT_EQ(uses->uses[1][0].back(), 5u);
}

TEST_F(MaskTraceTest, RefusesWhatIsNoTraceOfTheModel) {
  Write();
  const std::string good = ReadFileOrDie(path());
  EXPECT_THAT(Error({.layer_count = 2, .unit_count = {9, 18}}),
              HasSubstr("2 layers of 9 input and 17 hidden units; the model has 2 layers of 9 "
                        "input and 18 hidden units"));
  for (const size_t bytes : {0u, 5u, 23u}) {
    WriteFileOrDie(path(), good.substr(0, bytes));
    EXPECT_THAT(Error(), HasSubstr("is not a trace"));
  }
  for (const size_t bytes : {24u, 25u, 43u}) {
    WriteFileOrDie(path(), good.substr(0, bytes));
    EXPECT_THAT(Error(), HasSubstr("is cut off or empty"));
  }
  std::string newer = good;
  newer[8] = 2;
  WriteFileOrDie(path(), newer);
  EXPECT_THAT(Error(), HasSubstr("is a trace of version 2; this program reads version 1"));
}

TEST_F(MaskTraceTest, APipeIsRefusedAndNotWaitedFor) {
  ASSERT_EQ(::mkfifo(path().c_str(), 0600), 0);
  EXPECT_THAT(Error(), HasSubstr("is not a regular file"));
}

TEST_F(MaskTraceTest, AFullDriveIsReported) {
  const auto fd = UniqueFd::Open("/dev/full", O_WRONLY);
  if (!fd.ok()) GTEST_SKIP() << "no /dev/full here";
  MaskTraceWriter writer(fd->get(), kShape);
  writer.Add(UnitKind::kInput, {});
  EXPECT_FALSE(writer.Finish().ok());
}

}  // namespace tidegate::mask_trace_test
