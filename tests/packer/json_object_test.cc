#include "packer/json_object.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "packer/hf_tokenizer.h"
#include "packer/source_model.h"
#include "tests/support/test_support.h"

namespace tidegate::json_object_test {

using ::testing::HasSubstr;

std::string Nested(int depth) {
  return std::string(static_cast<size_t>(depth), '[') +
         std::string(static_cast<size_t>(depth), ']');
}

TEST(JsonObjectTest, NestingIsBoundedButNotInsideOfTexts) {
  EXPECT_FALSE(ParseUntrustedJson(Nested(kMaxJsonDepth)).is_discarded());
  EXPECT_TRUE(ParseUntrustedJson(Nested(kMaxJsonDepth + 1)).is_discarded());
  const std::string brackets(1000, '[');
  EXPECT_EQ(ParseUntrustedJson("{\"a\": \"\\\"" + brackets + "\"}").at("a"), "\"" + brackets);
  const auto object = JsonObject::Parse("{\"a\": " + Nested(2'000'000) + "}", "c.json");
  EXPECT_EQ(object.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(object.status().message()), HasSubstr("c.json is not JSON, or nested"));
}

// Each of these took a stack frame for every level once.
TEST(JsonObjectTest, FilesOfAFolderThatNestDeeplyAreErrors) {
  TempDir dir;
  const std::string deep = Nested(2'000'000);
  WriteFileOrDie(dir.File("config.json"),
                 R"({"rope_scaling": {"rope_type": "linear", "factor": 2, "x": )" + deep + "}}");
  WriteFileOrDie(dir.File("model.safetensors"), std::string(8, '\0'));
  EXPECT_THAT(std::string(SourceModel::Open(dir.path()).status().message()), HasSubstr("nested"));
  WriteFileOrDie(dir.File("model.safetensors.index.json"),
                 R"({"weight_map": {"a": )" + deep + "}}");
  EXPECT_THAT(std::string(SourceModel::Open(dir.path()).status().message()), HasSubstr("nested"));
  WriteFileOrDie(dir.File("tokenizer.json"), R"({"model": )" + deep + "}");
  EXPECT_THAT(std::string(ReadHfTokenizer(dir.path()).status().message()), HasSubstr("nested"));
}

}  // namespace tidegate::json_object_test
