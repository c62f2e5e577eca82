// JSON files of a model folder: bounded reading, and look-ups that answer with a Status that names
// the file and the key. Thread-compatible.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tidegate {

inline constexpr uint64_t kMaxJsonBytes = 32ull << 20;

// An object. `where` names the file, for messages.
// A JSON value from a file. Discarded if the text is not JSON, or nests arrays and
// objects deeper than kMaxJsonDepth: copying such a value would take stack for every level.
inline constexpr int kMaxJsonDepth = 64;
nlohmann::json ParseUntrustedJson(std::string_view text);

// Copies share what was read.
class JsonObject {
 public:
  // NOT_FOUND, or DATA_LOSS: larger than kMaxJsonBytes, not JSON, not an object.
  static absl::StatusOr<JsonObject> ReadFile(const std::string& path);
  static absl::StatusOr<JsonObject> Parse(std::string_view text, const std::string& where);

  const std::string& where() const { return where_; }
  const nlohmann::json& value() const { return *value_; }

  bool Has(const char* key) const { return Find(key) != nullptr; }  // and not null
  const nlohmann::json* Find(const char* key) const;

  // INVALID_ARGUMENT: missing, or another type.
  absl::StatusOr<uint64_t> Uint(const char* key) const;
  absl::StatusOr<double> Number(const char* key) const;
  absl::StatusOr<bool> Bool(const char* key) const;
  absl::StatusOr<std::string> String(const char* key) const;
  absl::StatusOr<JsonObject> Object(const char* key) const;

 private:
  JsonObject(std::shared_ptr<const nlohmann::json> value, std::string where)
      : value_(std::move(value)), where_(std::move(where)) {}
  absl::Status Wrong(const char* key, const char* wanted) const;

  std::shared_ptr<const nlohmann::json> value_;  // an object
  std::string where_;
};

}  // namespace tidegate
