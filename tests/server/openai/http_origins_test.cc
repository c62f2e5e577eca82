#include "server/openai/http_origins.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tidegate::http_origins_test {

using testing::Contains;
using testing::IsEmpty;
using testing::Pair;

TEST(HttpOriginsTest, PagesMayCallFromNamedOrigins) {
  const HttpOrigins none({}), some({"https://a.example", "null"}), any({"*"});
  EXPECT_TRUE(none.Check("").ok());
  EXPECT_EQ(none.Check("https://a.example").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(some.Check("https://a.example").ok());
  EXPECT_TRUE(some.Check("null").ok());
  EXPECT_FALSE(some.Check("https://a.example.evil").ok());
  EXPECT_FALSE(some.Check("http://a.example").ok());
  EXPECT_TRUE(any.Check("http://localhost:3000").ok());
  EXPECT_THAT(some.AnswerHeaders("https://a.example"),
              Contains(Pair("Access-Control-Allow-Origin", "https://a.example")));
  EXPECT_THAT(some.AnswerHeaders("https://b.example"), IsEmpty());
  EXPECT_THAT(any.AnswerHeaders(""), IsEmpty());
}

TEST(HttpOriginsTest, BrowsersLearnWhatTheyMaySend) {
  HttpRequest request;
  request.headers = {{"Origin", "https://a.example"},
                     {"Access-Control-Request-Headers", "authorization,x-stainless-os"}};
  const HttpResponse allowed = HttpOrigins({"https://a.example"}).Preflight(request);
  EXPECT_EQ(allowed.code, 200);
  EXPECT_THAT(allowed.headers,
              Contains(Pair("Access-Control-Allow-Headers", "authorization,x-stainless-os")));
  const HttpResponse refused = HttpOrigins({}).Preflight(request);
  EXPECT_THAT(refused.headers, testing::ElementsAre(Pair("Allow", testing::_)));
}

TEST(HttpOriginsTest, WhatOperatorsMayName) {
  for (const char* origin : {"*", "null", "https://a.example", "http://localhost:3000",
                             "http://[::1]:80", "app://obsidian.md"}) {
    EXPECT_TRUE(CheckHttpOrigin(origin).ok()) << origin;
  }
  for (const char* origin : {"", "a.example", "https://", "https://a.example/", "https://*.example",
                             "https://A.example", "https://a b"}) {
    EXPECT_FALSE(CheckHttpOrigin(origin).ok()) << origin;
  }
}

}  // namespace tidegate::http_origins_test
