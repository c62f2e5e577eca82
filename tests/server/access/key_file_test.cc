#include "server/access/key_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace tidegate::key_file_test {

using ::testing::HasSubstr;

// A line with these fields beside id, hash and scopes.
std::string Line(const std::string& id, const std::string& more = "") {
  return absl::StrCat(R"({"id":")", id, R"(","sha256":")", HashToHex(HashOfKey(id)),
                      R"(","scopes":["infer"])", more, "}\n");
}

std::string ErrorOf(const std::string& text) {
  const absl::Status status = ParseKeyFile(text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(status.message());
}

TEST(KeyFileTest, ReadsAllFields) {
  const auto entries = ParseKeyFile(
      absl::StrCat("# the teams\n\n",
                   Line("team-a", R"(,"requests_per_second":5,"requests_per_minute":60,)"
                                  R"("concurrent":4,"tokens_per_minute":10000,)"
                                  R"("queue_share":0.25,"expires":"2027-01-31")"),
                   "  ", Line("b")));
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 2u);
  const KeyEntry& entry = entries->at(0);
  EXPECT_EQ(entry.id, "team-a");
  EXPECT_EQ(entry.hash, HashOfKey("team-a"));
  EXPECT_TRUE(entry.Has(Scope::kInfer));
  EXPECT_FALSE(entry.Has(Scope::kAdmin));
  EXPECT_EQ(entry.limits, (LimitValues{.requests_per_second = 5,
                                       .requests_per_minute = 60,
                                       .concurrent = 4,
                                       .tokens_per_minute = 10000,
                                       .queue_share = 0.25}));
  EXPECT_EQ(entry.expires, absl::FromUnixSeconds(1801353600));
  EXPECT_EQ(entries->at(1).limits, LimitValues());
  EXPECT_FALSE(entries->at(1).expires.has_value());
}

TEST(KeyFileTest, WritesWhatItReads) {
  KeyEntry entry = {.id = "x", .hash = HashOfKey("x")};
  for (uint32_t scope = 0; scope < kScopes; ++scope) entry.scopes |= 1u << scope;
  entry.limits = {.requests_per_minute = 7, .concurrent = 1, .queue_share = 0.5};
  entry.expires = ParseExpiry("2027-01-31T12:30:00Z").value();
  const std::string line = FormatKeyLine(entry);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const auto entries = ParseKeyFile(line);
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_EQ(FormatKeyLine(entries->at(0)), line);
  EXPECT_EQ(entries->at(0).scopes, entry.scopes);
  EXPECT_EQ(entries->at(0).expires, entry.expires);
}

TEST(KeyFileTest, NamesTheLineAndTheMistake) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("no key in it"));
  EXPECT_THAT(ErrorOf(Line("a") + "{"), HasSubstr("line 2: is no JSON object"));
  EXPECT_THAT(ErrorOf("[]"), HasSubstr("is no JSON object"));
  EXPECT_THAT(ErrorOf(Line("a") + Line("a")), HasSubstr("line 2: a line before has the id a"));
  EXPECT_THAT(ErrorOf(Line("a b")), HasSubstr("'a b' is no id"));
  EXPECT_THAT(ErrorOf(Line(std::string(65, 'a'))), HasSubstr("is no id"));
  EXPECT_THAT(ErrorOf(R"({"id":"a","scopes":["infer"]})"), HasSubstr("\"sha256\" is missing"));
  EXPECT_THAT(ErrorOf(R"({"id":"a","sha256":"tg-secret","scopes":["infer"]})"),
              testing::AllOf(HasSubstr("64 hexadecimal"), testing::Not(HasSubstr("secret"))));
  EXPECT_THAT(ErrorOf(Line("a", R"(,"scopes":[])")), HasSubstr("no list of scopes"));
  EXPECT_THAT(ErrorOf(Line("a", R"(,"scopes":["all"])")), HasSubstr("'all' is no scope"));
  EXPECT_THAT(ErrorOf(Line("a", R"(,"concurent":1)")), HasSubstr("unknown field 'concurent'"));
  EXPECT_THAT(ErrorOf(Line("a", R"(,"expires":"soon")")), HasSubstr("'soon' is no date"));
  EXPECT_THAT(ErrorOf("#\n" + std::string(5000, ' ') + Line("a", std::string(5000, ' '))),
              HasSubstr("line 2: is longer"));
  for (const char* value : {"0", "-1", "1.5", "\"1\"", "null", "1e300"}) {
    EXPECT_THAT(ErrorOf(Line("a", absl::StrCat(R"(,"concurrent":)", value))),
                HasSubstr("no whole number above 0"));
  }
  for (const char* value : {"0", "-1", "1.5", "\"1\""}) {
    EXPECT_THAT(ErrorOf(Line("a", absl::StrCat(R"(,"queue_share":)", value))),
                HasSubstr("not above 0 and at most 1"));
  }
  const std::string hash = HashToHex(HashOfKey("a"));
  const std::string same =
      absl::StrCat(R"({"id":"b","sha256":")", hash, R"(","scopes":["infer"]})");
  EXPECT_THAT(ErrorOf(Line("a") + same), HasSubstr("line 2: a line before has the same sha256"));
}

TEST(KeyFileTest, NamesOfScopes) {
  for (uint32_t i = 0; i < kScopes; ++i) {
    const auto scope = static_cast<Scope>(i);
    EXPECT_EQ(ParseScope(ScopeName(scope)).value(), scope);
  }
  EXPECT_FALSE(ParseScope("").ok());
  EXPECT_FALSE(ParseScope("Infer").ok());
}

}  // namespace tidegate::key_file_test
