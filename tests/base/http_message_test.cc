#include "base/http_message.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tidegate::http_message_test {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

TEST(HttpTargetTest, PathAndQuery) {
  const struct {
    const char* target;
    const char* path;
    const char* query;
  } kCases[] = {
      {"/", "/", ""},
      {"/metrics", "/metrics", ""},
      {"/metrics?", "/metrics", ""},
      {"/a?b=c&d=%20", "/a", "b=c&d=%20"},
      {"/a?b?c", "/a", "b?c"},
      {"/m%65trics", "/metrics", ""},
      {"/%4D%4d", "/MM", ""},
      {"/a%2Fb", "/a/b", ""},
      {"/a%3Fb", "/a?b", ""},
      {"/a/../b", "/a/../b", ""},
      {"//a", "//a", ""},
      {"http://host:1/metrics?x", "/metrics", "x"},
      {"HTTPS://host", "/", ""},
      {"http://host?x", "/", "x"},
  };
  for (const auto& c : kCases) {
    const auto parsed = ParseHttpTarget(c.target);
    ASSERT_TRUE(parsed.ok()) << c.target << ": " << parsed.status();
    EXPECT_EQ(parsed->path, c.path) << c.target;
    EXPECT_EQ(parsed->query, c.query) << c.target;
  }
}

TEST(HttpTargetTest, OthersAreRefused) {
  for (const char* target : {"", "metrics", "*", "host:443", "?x", "http://", "http:///a", "/%",
                             "/%4", "/%zz", "/%4x", "/%00", "/a%0d%0ab", "/%7f", "ftp://host/a"}) {
    EXPECT_EQ(ParseHttpTarget(target).status().code(), absl::StatusCode::kInvalidArgument)
        << target;
  }
}

TEST(HttpRequestTest, HeadersAreFoundInAnyCase) {
  const HttpRequest request{"GET", "/", "", {{"Accept", "a"}, {"ACCEPT", "b"}}, ""};
  EXPECT_EQ(request.Header("accept"), "a");
  EXPECT_EQ(request.Header("host"), "");
}

TEST(HttpHeadTest, StatusLineDateAndHeaders) {
  const std::string head =
      FormatHttpHead({404, "text/plain", "", {{"Allow", "GET"}}}, "Content-Length: 0\r\n");
  EXPECT_THAT(head, MatchesRegex("HTTP/1.1 404 Not Found\r\n"
                                 "Date: ..., .. ... .... ..:..:.. GMT\r\n"
                                 "Content-Type: text/plain\r\nAllow: GET\r\n"
                                 "Content-Length: 0\r\n\r\n"));
}

TEST(HttpHeadTest, ValuesCannotAddHeaders) {
  const std::string head = FormatHttpHead({200, "a\r\nEvil: 1", "", {{"X", "b\nEvil: 2"}}}, "");
  EXPECT_THAT(head, HasSubstr("Content-Type: a  Evil: 1\r\n"));
  EXPECT_THAT(head, Not(HasSubstr("\nEvil")));
}

}  // namespace tidegate::http_message_test
