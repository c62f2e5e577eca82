#include "base/json_depth.h"

#include <gtest/gtest.h>

namespace tidegate::json_depth_test {

TEST(JsonDepthTest, CountsObjectsAndListsOutsideOfTexts) {
  EXPECT_TRUE(IsJsonDepthWithin("[[],{\"a\":[1]}]", 3));
  EXPECT_FALSE(IsJsonDepthWithin("[[],{\"a\":[1]}]", 2));
  EXPECT_TRUE(IsJsonDepthWithin(R"(["[[[[\"[[["])", 1));
  EXPECT_TRUE(IsJsonDepthWithin("", 0));
}

}  // namespace tidegate::json_depth_test
