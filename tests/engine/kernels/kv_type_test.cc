#include "engine/kernels/kv_type.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace tidegate::kv_type_test {

using ::testing::HasSubstr;

constexpr KvType kTypes[] = {KvType::kF32, KvType::kF16, KvType::kQ8};

TEST(KvTypeTest, NamesGoThereAndBack) {
  for (const KvType type : kTypes) {
    const auto parsed = ParseKvType(KvTypeName(type));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, type);
  }
  for (const char* bad : {"", "q4", "F16", "f16 "}) {
    const auto parsed = ParseKvType(bad);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(parsed.status().message()),
                HasSubstr(std::string("'") + bad + "'; use f32, f16 or q8"));
  }
}

TEST(KvTypeTest, RowsAreThoseOfGgufFiles) {
  for (const KvType type : kTypes) {
    for (const size_t head_size : {32, 64, 96, 128, 256}) {
      EXPECT_EQ(KvRowBytes(type, head_size), GgmlRowBytes(KvRowType(type), head_size));
    }
  }
  EXPECT_EQ(KvRowBytes(KvType::kF32, 80), 320u);
  EXPECT_EQ(KvRowBytes(KvType::kF16, 80), 160u);
  EXPECT_EQ(KvRowBytes(KvType::kQ8, 128), 136u);
}

TEST(KvTypeTest, EightBitsNeedHeadsOfWholeBlocks) {
  for (const size_t head_size : {32, 64, 128}) {
    for (const KvType type : kTypes) EXPECT_TRUE(CheckKvType(type, head_size).ok());
  }
  for (const size_t head_size : {0, 16, 48, 80}) {
    EXPECT_TRUE(CheckKvType(KvType::kF32, head_size).ok());
    EXPECT_TRUE(CheckKvType(KvType::kF16, head_size).ok());
    EXPECT_EQ(CheckKvType(KvType::kQ8, head_size).code(), absl::StatusCode::kInvalidArgument);
  }
  const std::string message(CheckKvType(KvType::kQ8, 80).message());
  EXPECT_THAT(message, HasSubstr("--kv q8"));
  EXPECT_THAT(message, HasSubstr("80 numbers"));
  EXPECT_THAT(message, HasSubstr("use --kv f16"));
}

}  // namespace tidegate::kv_type_test
