// Who may call: the one place where credentials are looked at, for gRPC and HTTP.
//
// A caller shows a key (`authorization: Bearer KEY`), which the key file (key_file.h) knows by its
// hash. Without a key file everybody may do everything. With one, nobody may do anything that the
// file does not say: Authorize() first, then Caller::Begin() for each stream of text.
//
//   ASSIGN_OR_RETURN(const Caller caller, access.Authorize(authorization_header, Scope::kInfer));
//   ASSIGN_OR_RETURN(stream->grant, caller.Begin(prompt_tokens + max_tokens));
//   request.client = caller.client();  // if not empty; else the peer's address
//   request.queue_share = caller.queue_share();
//   ...
//   stream->grant.End(prompt_tokens + generated_tokens);  // or its destructor: nothing was used
//
// Thread-safe: every method. Authorize() hashes the key and takes short locks.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "server/access/key_file.h"

namespace tidegate {

// Reasons of errors (base/error_reason.h), in ErrorInfo of gRPC.
inline constexpr char kNoKey[] = "API_KEY_MISSING";
inline constexpr char kUnknownKey[] = "API_KEY_INVALID";
inline constexpr char kExpiredKey[] = "API_KEY_EXPIRED";
inline constexpr char kNoScope[] = "API_KEY_SCOPE";

// Why callers were turned away.
enum class AuthFailure { kMissing, kInvalid, kExpired, kScope };
inline constexpr size_t kAuthFailures = 4;

// Where time comes from, for tests.
struct AccessClock {
  std::function<std::chrono::steady_clock::time_point()> steady = [] {
    return std::chrono::steady_clock::now();
  };
  std::function<absl::Time()> wall = [] { return absl::Now(); };
};

// What is used by one key; the same object while the file is read anew.
class KeyUsage;

// A stream that counts against the limits of its key until it ends. Thread-compatible.
class StreamGrant {
 public:
  StreamGrant() = default;  // counts nowhere
  StreamGrant(std::shared_ptr<KeyUsage> usage, uint64_t reserved)
      : usage_(std::move(usage)), reserved_(reserved) {}
  StreamGrant(StreamGrant&& other) noexcept : StreamGrant() { *this = std::move(other); }
  StreamGrant& operator=(StreamGrant&& other) noexcept {
    std::swap(usage_, other.usage_);
    std::swap(reserved_, other.reserved_);
    return *this;
  }
  ~StreamGrant() { End(0); }

  // The stream is over and used so many tokens. Later calls do nothing.
  void End(uint64_t used_tokens);

 private:
  std::shared_ptr<KeyUsage> usage_;
  uint64_t reserved_ = 0;
};

// Somebody who has been let in. Plain data; copies share what the key uses.
class Caller {
 public:
  Caller() = default;  // anybody, where there are no keys
  Caller(std::string key_id, bool is_admin, double queue_share, std::shared_ptr<KeyUsage> usage)
      : key_id_(std::move(key_id)),
        is_admin_(is_admin),
        queue_share_(queue_share),
        usage_(std::move(usage)) {}

  // "" where there are no keys.
  const std::string& key_id() const { return key_id_; }
  // Whose requests the key's are, for the scheduler; "" where there are no keys.
  std::string client() const { return key_id_.empty() ? "" : "key:" + key_id_; }
  bool is_admin() const { return is_admin_; }
  double queue_share() const { return queue_share_; }  // LimitValues::queue_share

  // A stream that takes up to `tokens`, prompt and answer together, may begin. RESOURCE_EXHAUSTED
  // with a reason and RetryAfter().
  absl::StatusOr<StreamGrant> Begin(uint64_t tokens) const;

 private:
  std::string key_id_;
  bool is_admin_ = false;
  double queue_share_ = 1;
  std::shared_ptr<KeyUsage> usage_;
};

class AccessControl {
 public:
  // Everybody may do everything.
  AccessControl();
  // Reads the file. Errors name the file, and the line; see ReadFile() and ParseKeyFile().
  static absl::StatusOr<std::unique_ptr<AccessControl>> Create(const std::string& key_file,
                                                               AccessClock clock = {});
  ~AccessControl();
  AccessControl(const AccessControl&) = delete;
  AccessControl& operator=(const AccessControl&) = delete;

  // Whether there are keys. Does not change.
  bool keys_on() const { return !path_.empty(); }

  // `authorization`: the header or metadata of that name as it came; "" if there is none. Counts as
  // a call of the key. Errors have a reason and say nothing of other keys:
  //   UNAUTHENTICATED     no key, one that is not in the file, one that has expired
  //   PERMISSION_DENIED   the key lacks the scope
  //   RESOURCE_EXHAUSTED  the key makes too many calls; RetryAfter() says when the next may come
  absl::StatusOr<Caller> Authorize(std::string_view authorization, Scope scope);

  // Reads the file anew. New calls go by it; streams that run go on, whatever became of their key.
  // What a key has used stays with its id. On an error everything stays as it was.
  absl::Status Reload();

  uint64_t failures(AuthFailure reason) const {
    return failures_[static_cast<size_t>(reason)].load(std::memory_order_relaxed);
  }

 private:
  struct Table;  // the keys of one reading of the file

  AccessControl(std::string path, AccessClock clock);
  absl::Status Load();
  // Of the reading before, if it had the id, with the new limits.
  std::shared_ptr<KeyUsage> UsageOf(const KeyEntry& entry) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Refuse(AuthFailure failure, Scope scope);

  const std::string path_;  // "": no keys
  const AccessClock clock_;
  mutable Mutex mutex_;
  std::shared_ptr<const Table> table_ ABSL_GUARDED_BY(mutex_);
  std::array<std::atomic<uint64_t>, kAuthFailures> failures_ = {};
};

}  // namespace tidegate
