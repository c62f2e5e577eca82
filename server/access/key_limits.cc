#include "server/access/key_limits.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error_reason.h"

namespace tidegate {
namespace {

using std::chrono::duration;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

// A stream lasts seconds: a place is free soon.
constexpr milliseconds kStreamRetry{1000};

absl::Status LimitReached(const std::string& message, const char* reason, nanoseconds wait) {
  const auto rounded_up = std::chrono::ceil<milliseconds>(wait);
  return WithRetryAfter(WithErrorReason(absl::ResourceExhaustedError(message), reason), rounded_up);
}

}  // namespace

TokenBucket::TokenBucket(uint64_t capacity, seconds period, Clock::time_point now)
    : capacity_(static_cast<double>(capacity)),
      seconds_(static_cast<double>(period.count())),
      level_(capacity_),
      at_(now) {}

double TokenBucket::LevelAt(Clock::time_point now) const {
  const double passed = std::max(0.0, duration<double>(now - at_).count());
  return std::min(capacity_, level_ + passed * capacity_ / seconds_);
}

nanoseconds TokenBucket::WaitFor(double amount, Clock::time_point now) const {
  if (capacity_ == 0) return nanoseconds(0);
  const double missing = std::min(amount, capacity_) - LevelAt(now);
  // Sums of fractions: nobody waits for a billionth of a request.
  if (missing <= 1e-9 * capacity_) return nanoseconds(0);
  // Who owes much waits long; a day says enough.
  const double wait = std::min(missing / capacity_ * seconds_, 86400.0);
  return std::chrono::ceil<nanoseconds>(duration<double>(wait));
}

void TokenBucket::Take(double amount, Clock::time_point now) {
  if (capacity_ == 0) return;
  level_ = std::min(capacity_, LevelAt(now) - amount);
  at_ = std::max(at_, now);
}

void TokenBucket::Resize(uint64_t capacity, Clock::time_point now) {
  const double share = capacity_ == 0 ? 1 : LevelAt(now) / capacity_;
  capacity_ = static_cast<double>(capacity);
  level_ = share * capacity_;
  at_ = now;
}

KeyLimits::KeyLimits(const LimitValues& values, Clock::time_point now)
    : values_(values),
      second_(values.requests_per_second, seconds(1), now),
      minute_(values.requests_per_minute, seconds(60), now),
      tokens_(values.tokens_per_minute, seconds(60), now) {}

void KeyLimits::Change(const LimitValues& values, Clock::time_point now) {
  if (values == values_) return;
  values_ = values;
  second_.Resize(values.requests_per_second, now);
  minute_.Resize(values.requests_per_minute, now);
  tokens_.Resize(values.tokens_per_minute, now);
}

absl::Status KeyLimits::Call(Clock::time_point now) {
  const nanoseconds wait = std::max(second_.WaitFor(1, now), minute_.WaitFor(1, now));
  if (wait.count() > 0) {
    const bool by_second = second_.WaitFor(1, now) == wait;
    return LimitReached(
        absl::StrCat("this key may make ",
                     by_second ? values_.requests_per_second : values_.requests_per_minute,
                     " requests per ", by_second ? "second" : "minute", "; try again later"),
        kRequestRateLimit, wait);
  }
  second_.Take(1, now);
  minute_.Take(1, now);
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> KeyLimits::Begin(uint64_t tokens, Clock::time_point now) {
  if (values_.concurrent != 0 && streams_ >= values_.concurrent) {
    return LimitReached(absl::StrCat("this key may have ", values_.concurrent,
                                     " streams at a time; wait for one to end"),
                        kConcurrencyLimit, kStreamRetry);
  }
  const auto wanted = static_cast<double>(tokens);
  if (const nanoseconds wait = tokens_.WaitFor(wanted, now); wait.count() > 0) {
    return LimitReached(absl::StrCat("this key may use ", values_.tokens_per_minute,
                                     " tokens per minute, and this request could take ", tokens,
                                     "; try again later, or with a smaller max_tokens"),
                        kTokenRateLimit, wait);
  }
  ++streams_;
  if (values_.tokens_per_minute == 0) return 0;
  const uint64_t reserved = std::min(tokens, values_.tokens_per_minute);
  tokens_.Take(static_cast<double>(reserved), now);
  return reserved;
}

void KeyLimits::End(uint64_t reserved, uint64_t used, Clock::time_point now) {
  CHECK(streams_ > 0);
  --streams_;
  tokens_.Take(static_cast<double>(used) - static_cast<double>(reserved), now);
}

}  // namespace tidegate
