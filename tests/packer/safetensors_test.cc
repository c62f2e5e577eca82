#include "packer/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/unique_fd.h"
#include "tests/support/safetensors_builder.h"

namespace tidegate::safetensors_test {

using ::testing::HasSubstr;

class SafetensorsTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::vector<SafetensorsEntry>> Read(const std::string& bytes) {
    WriteFileOrDie(dir_.File("m.safetensors"), bytes);
    const auto fd = UniqueFd::Open(dir_.File("m.safetensors"), O_RDONLY);
    return ReadSafetensorsDirectory(fd->get(), bytes.size());
  }
  std::string Error(const std::string& bytes) {
    return std::string(Read(bytes).status().message());
  }
  static SafetensorsBuilder Small() {
    SafetensorsBuilder file;
    file.Add("b", GgmlType::kF32, {2, 3}, {1, 2, 3, 4, 5, 6});
    file.Add("a", GgmlType::kBF16, {4}, {1, 2, 3, 4});
    return file;
  }

  TempDir dir_;
};

TEST_F(SafetensorsTest, ReadsNamesTypesShapesAndPlaces) {
  const std::string bytes = Small().Build();
  const auto entries = Read(bytes);
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 2u);
  const SafetensorsEntry& a = entries->at(0);
  const SafetensorsEntry& b = entries->at(1);
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.dtype, "BF16");
  EXPECT_EQ(a.bytes, 8u);
  EXPECT_EQ(b.shape, (std::vector<uint64_t>{2, 3}));
  float values[6];
  std::memcpy(values, bytes.data() + b.offset, b.bytes);
  EXPECT_EQ(values[5], 6);
  EXPECT_EQ(a.offset + a.bytes, bytes.size());
}

TEST_F(SafetensorsTest, DamagedFilesAreRefused) {
  EXPECT_THAT(Error("1234567"), HasSubstr("too short"));
  EXPECT_THAT(Error(std::string(8, '\xff') + "{}"), HasSubstr("not a safetensors file"));
  EXPECT_THAT(Error(std::string("\x40\0\0\0\0\0\0\0{}", 10)), HasSubstr("truncated"));
  EXPECT_THAT(Error(std::string("\x02\0\0\0\0\0\0\0[]", 10)), HasSubstr("no object"));
  EXPECT_THAT(Error(std::string("\x02\0\0\0\0\0\0\0{,", 10)), HasSubstr("not JSON"));
  const std::string whole = Small().Build();
  EXPECT_THAT(Error(whole.substr(0, whole.size() - 1)), HasSubstr("truncated: its header: a ends"));
  const auto refused = [&](const char* key, const nlohmann::json& value) {
    SafetensorsBuilder file = Small();
    file.header()["b"][key] = value;
    return Error(file.Build());
  };
  EXPECT_THAT(refused("shape", {2, 4}), HasSubstr("its shape needs 32"));
  EXPECT_THAT(refused("shape", {1ull << 40, 1ull << 40}), HasSubstr("impossible shape"));
  EXPECT_THAT(refused("shape", {-1}), HasSubstr("no usable shape"));
  EXPECT_THAT(refused("shape", std::vector<int>(9, 1)), HasSubstr("no usable shape"));
  EXPECT_THAT(refused("data_offsets", {24, 0}), HasSubstr("impossible offsets"));
  EXPECT_THAT(refused("data_offsets", {0}), HasSubstr("impossible offsets"));
  EXPECT_THAT(refused("dtype", 3), HasSubstr("dtype"));
  SafetensorsBuilder file = Small();
  file.header()["c"] = 1;
  EXPECT_THAT(Error(file.Build()), HasSubstr("is no object"));
}

}  // namespace tidegate::safetensors_test
