#include "base/json_text.h"

#include <gtest/gtest.h>

#include "nlohmann/json.hpp"

namespace tidegate::json_text_test {

TEST(JsonText, ReadsBackAsItWas) {
  constexpr char kText[] =
      "\x01 \"quoted\" back\\slash \n\r\t\x7f \xc2\x85 \xe2\x80\xa8 \0 \xf0\x9f\x90\xb3";
  const std::string text(kText, sizeof kText - 1);
  const std::string json = JsonText(text);
  EXPECT_EQ(nlohmann::json::parse(json).get<std::string>(), text);
  for (const char c : json) EXPECT_GE(static_cast<unsigned char>(c), 0x20) << json;
  EXPECT_EQ(json.find("\xe2\x80\xa8"), std::string::npos);
}

TEST(JsonText, BadUtf8IsReplaced) {
  EXPECT_EQ(JsonText("a\xff\xc3z\xe2\x82"), "\"a\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd\"");
}

}  // namespace tidegate::json_text_test
