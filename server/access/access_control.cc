#include "server/access/access_control.h"

#include <sys/stat.h>

#include <cstring>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/error_reason.h"
#include "base/log.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace tidegate {
namespace {

// Where a hash is looked up. How long that takes tells about the hash of what the caller sent,
// which he knows, and not how near it is to that of a key; the rest is compared in constant time.
uint64_t PlaceOf(const KeyHash& hash) {
  uint64_t place = 0;
  std::memcpy(&place, hash.data(), sizeof(place));
  return place;
}

// The key of "Bearer KEY"; "" for other forms.
absl::string_view KeyOf(std::string_view authorization) {
  constexpr absl::string_view kScheme = "Bearer ";
  const absl::string_view text(authorization.data(), authorization.size());
  if (text.size() > kMaxApiKeyBytes + kScheme.size()) return {};
  if (!absl::StartsWithIgnoreCase(text, kScheme)) return {};
  return absl::StripAsciiWhitespace(text.substr(kScheme.size()));
}

void WarnIfOthersRead(const std::string& path) {
  struct stat facts = {};
  if (::stat(path.c_str(), &facts) != 0 || (facts.st_mode & (S_IROTH | S_IWOTH)) == 0) return;
  LogWarning("every user of this machine may read or write the key file ", Quoted(path),
             ": set its mode to 0640 or 0600");
}

}  // namespace

class KeyUsage {
 public:
  KeyUsage(const LimitValues& values, const AccessClock& clock)
      : now_(clock.steady), limits_(values, now_()) {}

  void Change(const LimitValues& values) {
    MutexLock lock(mutex_);
    limits_.Change(values, now_());
  }
  absl::Status Call() {
    MutexLock lock(mutex_);
    return limits_.Call(now_());
  }
  absl::StatusOr<uint64_t> Begin(uint64_t tokens) {
    MutexLock lock(mutex_);
    return limits_.Begin(tokens, now_());
  }
  void End(uint64_t reserved, uint64_t used) {
    MutexLock lock(mutex_);
    limits_.End(reserved, used, now_());
  }

 private:
  const std::function<KeyLimits::Clock::time_point()> now_;
  Mutex mutex_;
  KeyLimits limits_ ABSL_GUARDED_BY(mutex_);
};

void StreamGrant::End(uint64_t used_tokens) {
  if (usage_ == nullptr) return;
  usage_->End(reserved_, used_tokens);
  usage_ = nullptr;
}

absl::StatusOr<StreamGrant> Caller::Begin(uint64_t tokens) const {
  if (usage_ == nullptr) return StreamGrant();
  ASSIGN_OR_RETURN(const uint64_t reserved, usage_->Begin(tokens));
  return StreamGrant(usage_, reserved);
}

struct AccessControl::Table {
  struct Key {
    KeyEntry entry;
    std::shared_ptr<KeyUsage> usage;
  };
  std::vector<Key> keys;
  absl::flat_hash_map<uint64_t, size_t> places;  // PlaceOf(hash) -> index of keys
  absl::flat_hash_map<std::string, size_t> by_id;

  const Key* Find(const KeyHash& hash) const {
    const auto place = places.find(PlaceOf(hash));
    // Somebody's hash in any case: a miss takes as long as a hit.
    const Key& key = keys[place == places.end() ? 0 : place->second];
    return SameHash(key.entry.hash, hash) ? &key : nullptr;
  }
};

AccessControl::AccessControl() : AccessControl("", {}) {}

AccessControl::AccessControl(std::string path, AccessClock clock)
    : path_(std::move(path)), clock_(std::move(clock)) {}

AccessControl::~AccessControl() = default;

absl::StatusOr<std::unique_ptr<AccessControl>> AccessControl::Create(const std::string& key_file,
                                                                     AccessClock clock) {
  std::unique_ptr<AccessControl> access(new AccessControl(key_file, std::move(clock)));
  RETURN_IF_ERROR(access->Load());
  return access;
}

absl::Status AccessControl::Load() {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path_, kMaxKeyFileBytes));
  WarnIfOthersRead(path_);
  absl::StatusOr<std::vector<KeyEntry>> entries = ParseKeyFile(text);
  if (!entries.ok()) return Annotate(entries.status(), absl::StrCat("key file ", Quoted(path_)));
  auto table = std::make_shared<Table>();
  for (KeyEntry& entry : *entries) {
    if (!table->places.emplace(PlaceOf(entry.hash), table->keys.size()).second) {
      return absl::InvalidArgumentError(absl::StrCat("key file ", Quoted(path_), ": the sha256 of ",
                                                     entry.id, " begins like another one"));
    }
    table->by_id.emplace(entry.id, table->keys.size());
    table->keys.push_back({std::move(entry), nullptr});
  }
  MutexLock lock(mutex_);
  for (Table::Key& key : table->keys) key.usage = UsageOf(key.entry);
  table_ = std::move(table);
  return absl::OkStatus();
}

std::shared_ptr<KeyUsage> AccessControl::UsageOf(const KeyEntry& entry) const {
  if (table_ != nullptr) {
    const auto before = table_->by_id.find(entry.id);
    if (before != table_->by_id.end()) {
      std::shared_ptr<KeyUsage> usage = table_->keys[before->second].usage;
      usage->Change(entry.limits);
      return usage;
    }
  }
  return std::make_shared<KeyUsage>(entry.limits, clock_);
}

absl::Status AccessControl::Reload() {
  if (!keys_on()) return absl::OkStatus();
  return Load();
}

absl::Status AccessControl::Refuse(AuthFailure failure, Scope scope) {
  failures_[static_cast<size_t>(failure)].fetch_add(1, std::memory_order_relaxed);
  switch (failure) {
    case AuthFailure::kMissing:
      return WithErrorReason(
          absl::UnauthenticatedError("this server wants a key: send `authorization: Bearer KEY`"),
          kNoKey);
    case AuthFailure::kInvalid:
      return WithErrorReason(absl::UnauthenticatedError("the server does not know this key"),
                             kUnknownKey);
    case AuthFailure::kExpired:
      return WithErrorReason(absl::UnauthenticatedError("this key has expired"), kExpiredKey);
    case AuthFailure::kScope:
      break;
  }
  const std::string_view name = ScopeName(scope);
  return WithErrorReason(
      absl::PermissionDeniedError(
          absl::StrCat("this key lacks the scope ", absl::string_view(name.data(), name.size()))),
      kNoScope);
}

absl::StatusOr<Caller> AccessControl::Authorize(std::string_view authorization, Scope scope) {
  if (!keys_on()) return Caller();
  if (authorization.empty()) return Refuse(AuthFailure::kMissing, scope);
  const absl::string_view text = KeyOf(authorization);
  const KeyHash hash = HashOfKey({text.data(), text.size()});
  std::shared_ptr<const Table> table;
  {
    MutexLock lock(mutex_);
    table = table_;
  }
  const Table::Key* const key = table->Find(hash);
  if (key == nullptr) return Refuse(AuthFailure::kInvalid, scope);
  if (key->entry.expires.has_value() && clock_.wall() >= *key->entry.expires) {
    return Refuse(AuthFailure::kExpired, scope);
  }
  if (!key->entry.Has(scope)) return Refuse(AuthFailure::kScope, scope);
  RETURN_IF_ERROR(key->usage->Call());
  return Caller(key->entry.id, key->entry.Has(Scope::kAdmin), key->entry.limits.queue_share,
                key->usage);
}

}  // namespace tidegate
