// The key file: who may call, with what, and how much. One JSON object a line, so that lines can be
// appended by a shell and removed with any editor; empty lines and lines that begin with # are
// skipped. `tidegate key new` prints a line. docs/security.md describes the fields.
//
//   {"id":"team-a","sha256":"64 hexadecimal digits","scopes":["infer"],"concurrent":4}
//
// Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/access/api_key.h"
#include "server/access/key_limits.h"

namespace tidegate {

// What a key may be used for. No scope includes another.
enum class Scope : uint32_t {
  kInfer = 0,  // streams of text, and the end of one's own
  kTokenize,   // the tokenizer alone
  kModelRead,  // which model is served
  kAdmin,      // gRPC reflection, and the end of anybody's streams
  kMetrics,    // the page for Prometheus
};
inline constexpr uint32_t kScopes = 5;
std::string_view ScopeName(Scope scope);  // "infer", "tokenize", "model.read", "admin", "metrics"
absl::StatusOr<Scope> ParseScope(std::string_view name);

struct KeyEntry {
  std::string id = {};  // see CheckKeyId()
  KeyHash hash = {};
  uint32_t scopes = 0;  // bit 1 << Scope
  LimitValues limits = {};
  std::optional<absl::Time> expires = {};  // the key is refused from then on

  bool Has(Scope scope) const { return (scopes >> static_cast<uint32_t>(scope) & 1) != 0; }
};

inline constexpr size_t kMaxKeyFileBytes = 4 << 20;
inline constexpr size_t kMaxKeys = 10000;

// 1 to 64 letters, digits and "._-", the first a letter or digit: it stands in logs.
absl::Status CheckKeyId(std::string_view id);

// INVALID_ARGUMENT names the line and what is wrong with it, and shows nothing of a hash. No key at
// all is an error too. Ids and hashes occur once.
absl::StatusOr<std::vector<KeyEntry>> ParseKeyFile(std::string_view text);

// The line of an entry, without a line feed.
std::string FormatKeyLine(const KeyEntry& entry);

// "2027-01-31" (its beginning, in UTC) or "2027-01-31T12:00:00Z". INVALID_ARGUMENT for others.
absl::StatusOr<absl::Time> ParseExpiry(std::string_view text);

}  // namespace tidegate
