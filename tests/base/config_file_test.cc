#include "base/config_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tidegate::config_file_test {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(ConfigFile, TakesNamesAndValues) {
  const auto entries = ParseConfig(
      "# a comment\n"
      "; another\n"
      "\n"
      "listen = 127.0.0.1:50051\n"
      "  max-running=2   # behind a value\r\n"
      "pack = \"a # b\"\n"
      "lora = 'one file'\n"
      "model-alias = [small, \"with, comma\", ]\n"
      "path = /a#b = c\n"
      "empty =\n"
      "none = []");
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 8u);
  EXPECT_EQ((*entries)[0].name, "listen");
  EXPECT_THAT((*entries)[0].values, ElementsAre("127.0.0.1:50051"));
  EXPECT_EQ((*entries)[0].line, 4);
  EXPECT_THAT((*entries)[1].values, ElementsAre("2"));
  EXPECT_THAT((*entries)[2].values, ElementsAre("a # b"));
  EXPECT_THAT((*entries)[4].values, ElementsAre("small", "with, comma"));
  EXPECT_THAT((*entries)[5].values, ElementsAre("/a#b = c"));
  EXPECT_THAT((*entries)[6].values, ElementsAre(""));
  EXPECT_TRUE((*entries)[7].values.empty());
}

TEST(ConfigFile, NamesTheLineOfAMistake) {
  const std::pair<std::string, const char*> cases[] = {
      {"a = 1\nlisten 5\n", "line 2: 'listen 5': write name = value"},
      {"= 5\n", "line 1: '= 5': write name = value"},
      {"[server]\nlisten = 5\n", "line 1: section '[server]' is not known"},
      {"\n[[x]]\n", "line 2: section"},
      {"a = 1\nb = 2\na = 3\n", "line 3: 'a' stands in line 1 already"},
      {"a = \"x\n", "line 1: a text without its closing \""},
      {"a = 'x' y\n", "line 1: 'y' behind the value"},
      {"a = [1, 2\n", "line 1: a list without its closing ]"},
      {"a = [1 2\n", "line 1: a list without its closing ]"},
      {std::string("a = \0\n", 6), "line 1: holds a NUL byte"},
      {"\x1b[31m\n", "line 1: '\\u{1b}[31m': write name"}};
  for (const auto& [text, message] : cases) {
    const auto entries = ParseConfig(text);
    EXPECT_EQ(entries.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(entries.status().message()), HasSubstr(message));
  }
}

TEST(ConfigFile, FindsTheNearestName) {
  const std::vector<std::string> known = {"listen", "metrics-listen", "max-running", "threads"};
  EXPECT_EQ(NearestName("listne", known), "listen");
  EXPECT_EQ(NearestName("max_running", known), "max-running");
  EXPECT_EQ(NearestName("Max-Runing", known), "max-running");
  EXPECT_EQ(NearestName("metric-listen", known), "metrics-listen");
  EXPECT_EQ(NearestName("colour", known), "");
  EXPECT_EQ(NearestName(std::string(1 << 20, 'x'), known), "");
}

TEST(ConfigFile, DistancesCountEdits) {
  EXPECT_EQ(EditDistance("", ""), 0u);
  EXPECT_EQ(EditDistance("abc", ""), 3u);
  EXPECT_EQ(EditDistance("abc", "abc"), 0u);
  EXPECT_EQ(EditDistance("abc", "acb"), 1u);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3u);
}

}  // namespace tidegate::config_file_test
