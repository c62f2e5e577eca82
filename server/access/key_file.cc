#include "server/access/key_file.h"

#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace tidegate {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<std::string_view, kScopes> kScopeNames = {"infer", "tokenize", "model.read",
                                                               "admin", "metrics"};
constexpr size_t kMaxKeyIdBytes = 64;
constexpr size_t kMaxLineBytes = 4096;
constexpr uint64_t kMaxLimit = uint64_t{1} << 40;  // exact as a double

// The fields that are whole numbers.
constexpr std::pair<const char*, uint64_t LimitValues::*> kLimitFields[] = {
    {"requests_per_second", &LimitValues::requests_per_second},
    {"requests_per_minute", &LimitValues::requests_per_minute},
    {"concurrent", &LimitValues::concurrent},
    {"tokens_per_minute", &LimitValues::tokens_per_minute}};

absl::Status FieldError(std::string_view field, std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", absl::string_view(field.data(), field.size()), "\" ",
                   absl::string_view(what.data(), what.size())));
}

absl::StatusOr<std::string> TextOf(const std::string& field, const Json& value) {
  if (!value.is_string()) return FieldError(field, "is no text");
  return value.get<std::string>();
}

absl::Status ReadScopes(const Json& value, KeyEntry& entry) {
  if (!value.is_array() || value.empty()) {
    return FieldError("scopes", "is no list of scopes, such as [\"infer\", \"tokenize\"]");
  }
  for (const Json& one : value) {
    ASSIGN_OR_RETURN(const std::string name, TextOf("scopes", one));
    ASSIGN_OR_RETURN(const Scope scope, ParseScope(name));
    entry.scopes |= 1u << static_cast<uint32_t>(scope);
  }
  return absl::OkStatus();
}

absl::Status ReadQueueShare(const Json& value, KeyEntry& entry) {
  const double share = value.is_number() ? value.get<double>() : 0;
  if (!(share > 0 && share <= 1)) return FieldError("queue_share", "is not above 0 and at most 1");
  entry.limits.queue_share = share;
  return absl::OkStatus();
}

// False: there is no such limit.
absl::StatusOr<bool> ReadLimit(const std::string& field, const Json& value, KeyEntry& entry) {
  for (const auto& [name, member] : kLimitFields) {
    if (field != name) continue;
    if (!value.is_number_unsigned() || value.get<uint64_t>() == 0 ||
        value.get<uint64_t>() > kMaxLimit) {
      return FieldError(field, "is no whole number above 0; leave it out for no limit");
    }
    entry.limits.*member = value.get<uint64_t>();
    return true;
  }
  return false;
}

absl::Status ReadField(const std::string& field, const Json& value, KeyEntry& entry) {
  if (field == "scopes") return ReadScopes(value, entry);
  if (field == "queue_share") return ReadQueueShare(value, entry);
  ASSIGN_OR_RETURN(const bool is_limit, ReadLimit(field, value, entry));
  if (is_limit) return absl::OkStatus();
  if (field == "id") {
    ASSIGN_OR_RETURN(entry.id, TextOf(field, value));
    return CheckKeyId(entry.id);
  }
  if (field == "sha256") {
    ASSIGN_OR_RETURN(const std::string text, TextOf(field, value));
    const absl::StatusOr<KeyHash> hash = HashFromHex(text);
    if (!hash.ok()) return FieldError(field, std::string(hash.status().message()));
    entry.hash = *hash;
    return absl::OkStatus();
  }
  if (field == "expires") {
    ASSIGN_OR_RETURN(const std::string text, TextOf(field, value));
    ASSIGN_OR_RETURN(entry.expires, ParseExpiry(text));
    return absl::OkStatus();
  }
  // A limit with a name that nobody knows would be no limit.
  return absl::InvalidArgumentError(absl::StrCat("unknown field ", Quoted(field)));
}

absl::StatusOr<KeyEntry> ParseKeyLine(std::string_view line) {
  if (line.size() > kMaxLineBytes) {
    return absl::InvalidArgumentError(absl::StrCat("is longer than ", kMaxLineBytes, " bytes"));
  }
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError("is no JSON object; `tidegate key new` prints one");
  }
  KeyEntry entry;
  for (const auto& [field, value] : json.items()) RETURN_IF_ERROR(ReadField(field, value, entry));
  for (const char* field : {"id", "sha256", "scopes"}) {
    if (!json.contains(field)) return FieldError(field, "is missing");
  }
  return entry;
}

}  // namespace

std::string_view ScopeName(Scope scope) { return kScopeNames[static_cast<size_t>(scope)]; }

absl::StatusOr<Scope> ParseScope(std::string_view name) {
  for (uint32_t i = 0; i < kScopes; ++i) {
    if (kScopeNames[i] == name) return static_cast<Scope>(i);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      Quoted(name), " is no scope; there are infer, tokenize, model.read, admin and metrics"));
}

absl::Status CheckKeyId(std::string_view id) {
  bool good = !id.empty() && id.size() <= kMaxKeyIdBytes &&
              absl::ascii_isalnum(static_cast<unsigned char>(id[0]));
  for (const char c : id) {
    good = good &&
           (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-');
  }
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(id), " is no id of a key: 1 to ", kMaxKeyIdBytes,
                   " letters, digits, dots, dashes and underscores, the first a letter or digit"));
}

absl::StatusOr<std::vector<KeyEntry>> ParseKeyFile(std::string_view text) {
  std::vector<KeyEntry> entries;
  absl::flat_hash_set<std::string> ids, hashes;
  size_t number = 0;
  for (const absl::string_view whole :
       absl::StrSplit(absl::string_view(text.data(), text.size()), '\n')) {
    ++number;
    const absl::string_view line = absl::StripAsciiWhitespace(whole);
    if (line.empty() || line[0] == '#') continue;
    absl::StatusOr<KeyEntry> entry = ParseKeyLine({line.data(), line.size()});
    if (!entry.ok()) return Annotate(entry.status(), absl::StrCat("line ", number));
    if (!ids.insert(entry->id).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, ": a line before has the id ", entry->id, " too"));
    }
    if (!hashes.insert(HashToHex(entry->hash)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, ": a line before has the same sha256"));
    }
    if (entries.size() == kMaxKeys) {
      return absl::InvalidArgumentError(absl::StrCat("more than ", kMaxKeys, " keys"));
    }
    entries.push_back(*std::move(entry));
  }
  if (entries.empty()) {
    return absl::InvalidArgumentError("no key in it; `tidegate key new` prints the line of one");
  }
  return entries;
}

std::string FormatKeyLine(const KeyEntry& entry) {
  Json json = {{"id", entry.id}, {"sha256", HashToHex(entry.hash)}, {"scopes", Json::array()}};
  for (uint32_t i = 0; i < kScopes; ++i) {
    if (entry.Has(static_cast<Scope>(i))) json["scopes"].push_back(std::string(kScopeNames[i]));
  }
  for (const auto& [name, member] : kLimitFields) {
    if (entry.limits.*member != 0) json[name] = entry.limits.*member;
  }
  if (entry.limits.queue_share != 1) json["queue_share"] = entry.limits.queue_share;
  if (entry.expires.has_value()) {
    json["expires"] = absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", *entry.expires, absl::UTCTimeZone());
  }
  return json.dump();
}

absl::StatusOr<absl::Time> ParseExpiry(std::string_view text) {
  absl::Time time;
  for (const char* format : {"%Y-%m-%d", "%Y-%m-%dT%H:%M:%E*S%Ez"}) {
    if (absl::ParseTime(format, {text.data(), text.size()}, &time, nullptr)) return time;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      Quoted(text), " is no date such as 2027-01-31 and no time such as 2027-01-31T12:00:00Z"));
}

}  // namespace tidegate
