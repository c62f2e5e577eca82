#include "server/access/access_control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "base/error_reason.h"
#include "tests/support/test_support.h"

namespace tidegate::access_control_test {

using ::testing::HasSubstr;
using ::testing::Not;

std::string LineOf(const std::string& id, std::vector<Scope> scopes, LimitValues limits = {}) {
  KeyEntry entry = {.id = id, .hash = HashOfKey("tg-" + id), .limits = limits};
  for (const Scope scope : scopes) entry.scopes |= 1u << static_cast<uint32_t>(scope);
  return FormatKeyLine(entry) + "\n";
}

class AccessControlTest : public testing::Test {
 protected:
  void Write(const std::string& text) {
    WriteFileOrDie(path_, text);
    ASSERT_EQ(::chmod(path_.c_str(), 0600), 0);
  }
  void Open(const std::string& text) {
    Write(text);
    AccessClock clock;
    clock.steady = [this] { return now_; };
    clock.wall = [this] { return wall_; };
    auto access = AccessControl::Create(path_, clock);
    ASSERT_TRUE(access.ok()) << access.status();
    access_ = *std::move(access);
  }
  absl::StatusOr<Caller> Ask(const std::string& key, Scope scope = Scope::kInfer) {
    return access_->Authorize("Bearer " + key, scope);
  }

  TempDir folder_;
  const std::string path_ = folder_.File("keys");
  std::chrono::steady_clock::time_point now_{};
  absl::Time wall_ = absl::FromUnixSeconds(1700000000);
  std::unique_ptr<AccessControl> access_;
};

TEST_F(AccessControlTest, WithoutAFileEverybodyIsLetIn) {
  AccessControl access;
  EXPECT_FALSE(access.keys_on());
  const absl::StatusOr<Caller> caller = access.Authorize("", Scope::kAdmin);
  ASSERT_TRUE(caller.ok());
  EXPECT_EQ(caller->key_id(), "");
  EXPECT_EQ(caller->client(), "");
  EXPECT_TRUE(caller->Begin(1000000).ok());
  EXPECT_TRUE(access.Reload().ok());
}

TEST_F(AccessControlTest, AKeyOpensItsScopesAlone) {
  Open(LineOf("a", {Scope::kInfer, Scope::kTokenize}) + LineOf("root", {Scope::kAdmin}));
  const absl::StatusOr<Caller> caller = Ask("tg-a");
  ASSERT_TRUE(caller.ok()) << caller.status();
  EXPECT_EQ(caller->key_id(), "a");
  EXPECT_EQ(caller->client(), "key:a");
  EXPECT_FALSE(caller->is_admin());
  EXPECT_TRUE(Ask("tg-root", Scope::kAdmin)->is_admin());
  EXPECT_TRUE(access_->Authorize("bearer   tg-a", Scope::kTokenize).ok());
  const absl::Status refused = Ask("tg-a", Scope::kAdmin).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ErrorReason(refused), kNoScope);
  EXPECT_EQ(Ask("tg-root", Scope::kInfer).status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(access_->failures(AuthFailure::kScope), 2u);
}

TEST_F(AccessControlTest, NoKeyAndWrongKeysAreNobody) {
  Open(LineOf("a", {Scope::kInfer}));
  EXPECT_EQ(ErrorReason(access_->Authorize("", Scope::kInfer).status()), kNoKey);
  for (const std::string& text :
       {std::string("tg-a"), std::string("Basic tg-a"), std::string("Bearer"),
        std::string("Bearer "), std::string("Bearer tg-b"), std::string("Bearer tg-a x"),
        "Bearer " + std::string(1 << 20, 'a'), std::string("Bearer tg-a\0", 12)}) {
    const absl::Status status = access_->Authorize(text, Scope::kInfer).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << text.substr(0, 30);
    EXPECT_EQ(ErrorReason(status), kUnknownKey) << text.substr(0, 30);
  }
  // What opens is the key, not what the file has of it.
  EXPECT_FALSE(Ask(HashToHex(HashOfKey("tg-a"))).ok());
  EXPECT_EQ(access_->failures(AuthFailure::kMissing), 1u);
  EXPECT_EQ(access_->failures(AuthFailure::kInvalid), 9u);
}

TEST_F(AccessControlTest, KeysExpire) {
  KeyEntry entry = {.id = "a", .hash = HashOfKey("tg-a"), .scopes = 1};
  entry.expires = wall_ + absl::Seconds(10);
  Open(FormatKeyLine(entry));
  EXPECT_TRUE(Ask("tg-a").ok());
  wall_ += absl::Seconds(10);
  EXPECT_EQ(ErrorReason(Ask("tg-a").status()), kExpiredKey);
  EXPECT_EQ(access_->failures(AuthFailure::kExpired), 1u);
}

TEST_F(AccessControlTest, ARemovedKeyLosesNewCallsAndKeepsItsStream) {
  Open(LineOf("a", {Scope::kInfer}, {.concurrent = 1}) + LineOf("b", {Scope::kInfer}));
  const absl::StatusOr<Caller> caller = Ask("tg-a");
  ASSERT_TRUE(caller.ok());
  absl::StatusOr<StreamGrant> grant = caller->Begin(10);
  ASSERT_TRUE(grant.ok());
  Write(LineOf("b", {Scope::kInfer}));
  ASSERT_TRUE(access_->Reload().ok());
  EXPECT_EQ(ErrorReason(Ask("tg-a").status()), kUnknownKey);
  EXPECT_TRUE(Ask("tg-b").ok());
  grant->End(10);
}

TEST_F(AccessControlTest, ABrokenFileChangesNothing) {
  Open(LineOf("a", {Scope::kInfer}));
  Write(LineOf("b", {Scope::kInfer}) + "{");
  const absl::Status status = access_->Reload();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("line 2"));
  EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
  EXPECT_TRUE(Ask("tg-a").ok());
  EXPECT_FALSE(Ask("tg-b").ok());
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  EXPECT_EQ(access_->Reload().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Ask("tg-a").ok());
}

TEST_F(AccessControlTest, LimitsHoldAcrossCallsAndReadings) {
  Open(LineOf("a", {Scope::kInfer}, {.requests_per_minute = 3, .concurrent = 1}));
  const absl::StatusOr<Caller> caller = Ask("tg-a");
  ASSERT_TRUE(caller.ok());
  absl::StatusOr<StreamGrant> first = caller->Begin(1);
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE(access_->Reload().ok());
  EXPECT_EQ(ErrorReason(Ask("tg-a")->Begin(1).status()), kConcurrencyLimit);
  first = StreamGrant();
  EXPECT_TRUE(Ask("tg-a")->Begin(1).ok()) << "a grant that is dropped is over";
  const absl::Status refused = Ask("tg-a").status();
  EXPECT_EQ(ErrorReason(refused), kRequestRateLimit);
  EXPECT_EQ(RetryAfter(refused), std::chrono::seconds(20));
  now_ += std::chrono::seconds(20);
  EXPECT_TRUE(Ask("tg-a").ok());
}

TEST_F(AccessControlTest, ErrorsForClientsNameNeitherKeysNorFiles) {
  Open(LineOf("team-a", {Scope::kInfer}));
  for (const absl::Status& status :
       {Ask("tg-guess").status(), Ask("tg-team-a", Scope::kAdmin).status(), Ask("").status()}) {
    const std::string message(status.message());
    EXPECT_THAT(message, Not(HasSubstr("team-a")));
    EXPECT_THAT(message, Not(HasSubstr("guess")));
    EXPECT_THAT(message, Not(HasSubstr(path_)));
  }
}

TEST_F(AccessControlTest, AFileThatCannotBeReadIsNamed) {
  const absl::Status status = AccessControl::Create(folder_.File("none")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("none"));
}

}  // namespace tidegate::access_control_test
