#include "server/access/key_limits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error_reason.h"

namespace tidegate::key_limits_test {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr TokenBucket::Clock::time_point kStart{};

TEST(TokenBucketTest, TakesABurstAndFillsSteadily) {
  TokenBucket bucket(4, seconds(2), kStart);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(bucket.WaitFor(1, kStart).count(), 0) << i;
    bucket.Take(1, kStart);
  }
  EXPECT_EQ(bucket.WaitFor(1, kStart), milliseconds(500));
  EXPECT_EQ(bucket.WaitFor(1, kStart + milliseconds(200)), milliseconds(300));
  EXPECT_EQ(bucket.WaitFor(1, kStart + milliseconds(500)).count(), 0);
  // It does not overflow, and takes more than it holds when it is full.
  EXPECT_EQ(bucket.WaitFor(100, kStart + seconds(1)), seconds(1));
  EXPECT_EQ(bucket.WaitFor(100, kStart + seconds(100)).count(), 0);
}

TEST(TokenBucketTest, DebtIsPaidFirst) {
  TokenBucket bucket(10, seconds(10), kStart);
  bucket.Take(15, kStart);
  EXPECT_EQ(bucket.WaitFor(1, kStart), seconds(6));
  bucket.Take(-5, kStart);
  EXPECT_EQ(bucket.WaitFor(1, kStart), seconds(1));
  bucket.Take(-1000, kStart);
  EXPECT_EQ(bucket.WaitFor(10, kStart).count(), 0);
  bucket.Take(10, kStart);
  EXPECT_EQ(bucket.WaitFor(1, kStart), seconds(1)) << "no more than full";
}

TEST(TokenBucketTest, TimeThatGoesBackChangesNothing) {
  TokenBucket bucket(1, seconds(1), kStart + seconds(5));
  bucket.Take(1, kStart + seconds(5));
  EXPECT_EQ(bucket.WaitFor(1, kStart), seconds(1));
}

TEST(TokenBucketTest, NoCapacityIsNoLimit) {
  TokenBucket bucket(0, seconds(1), kStart);
  bucket.Take(1e9, kStart);
  EXPECT_EQ(bucket.WaitFor(1e9, kStart).count(), 0);
}

TEST(KeyLimitsTest, CallsBySecondAndMinute) {
  KeyLimits limits({.requests_per_second = 2, .requests_per_minute = 3}, kStart);
  EXPECT_TRUE(limits.Call(kStart).ok());
  EXPECT_TRUE(limits.Call(kStart).ok());
  const absl::Status by_second = limits.Call(kStart);
  EXPECT_EQ(by_second.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorReason(by_second), kRequestRateLimit);
  EXPECT_EQ(RetryAfter(by_second), milliseconds(500));
  EXPECT_THAT(std::string(by_second.message()), testing::HasSubstr("2 requests per second"));

  EXPECT_TRUE(limits.Call(kStart + seconds(1)).ok());
  const absl::Status by_minute = limits.Call(kStart + seconds(2));
  EXPECT_THAT(std::string(by_minute.message()), testing::HasSubstr("3 requests per minute"));
  EXPECT_EQ(RetryAfter(by_minute), seconds(18));
  EXPECT_TRUE(limits.Call(kStart + seconds(20)).ok());
}

TEST(KeyLimitsTest, StreamsAtATime) {
  KeyLimits limits({.concurrent = 2}, kStart);
  EXPECT_TRUE(limits.Begin(10, kStart).ok());
  EXPECT_TRUE(limits.Begin(10, kStart).ok());
  EXPECT_EQ(ErrorReason(limits.Begin(10, kStart).status()), kConcurrencyLimit);
  limits.End(0, 10, kStart);
  EXPECT_TRUE(limits.Begin(10, kStart).ok());
  EXPECT_EQ(limits.streams(), 2u);
}

TEST(KeyLimitsTest, TokensAreReservedAndWhatIsNotUsedComesBack) {
  KeyLimits limits({.tokens_per_minute = 600}, kStart);
  EXPECT_EQ(limits.Begin(400, kStart).value(), 400u);
  const absl::Status refused = limits.Begin(400, kStart).status();
  EXPECT_EQ(ErrorReason(refused), kTokenRateLimit);
  EXPECT_EQ(RetryAfter(refused), seconds(20));
  EXPECT_EQ(limits.streams(), 1u) << "what is refused takes no place";
  limits.End(400, 100, kStart);
  EXPECT_EQ(limits.Begin(400, kStart).value(), 400u);
}

TEST(KeyLimitsTest, ARequestOfMoreThanAMinuteWaitsForAFullMinute) {
  KeyLimits limits({.tokens_per_minute = 600}, kStart);
  EXPECT_EQ(limits.Begin(5000, kStart).value(), 600u);
  limits.End(600, 1200, kStart);
  EXPECT_EQ(RetryAfter(limits.Begin(1, kStart).status()), milliseconds(60100));
}

TEST(KeyLimitsTest, OtherLimitsKeepWhatHasBeenUsed) {
  KeyLimits limits({.requests_per_minute = 2, .concurrent = 1}, kStart);
  EXPECT_TRUE(limits.Call(kStart).ok());
  EXPECT_TRUE(limits.Begin(1, kStart).ok());
  limits.Change({.requests_per_minute = 4, .concurrent = 2}, kStart);
  EXPECT_TRUE(limits.Begin(1, kStart).ok());
  EXPECT_TRUE(limits.Call(kStart).ok());
  EXPECT_TRUE(limits.Call(kStart).ok());
  EXPECT_FALSE(limits.Call(kStart).ok()) << "half a minute's calls were left, 2 of 4";
  limits.Change({}, kStart);
  EXPECT_TRUE(limits.Call(kStart).ok());
}

}  // namespace tidegate::key_limits_test
