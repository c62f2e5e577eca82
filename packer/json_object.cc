#include "packer/json_object.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/json_depth.h"
#include "base/read_file.h"
#include "base/status_macros.h"

namespace tidegate {

nlohmann::json ParseUntrustedJson(std::string_view text) {
  if (!IsJsonDepthWithin(text, kMaxJsonDepth)) {
    return nlohmann::json(nlohmann::json::value_t::discarded);
  }
  return nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
}

absl::StatusOr<JsonObject> JsonObject::ReadFile(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, tidegate::ReadFile(path, kMaxJsonBytes));
  return Parse(text, path);
}

absl::StatusOr<JsonObject> JsonObject::Parse(std::string_view text, const std::string& where) {
  auto value = std::make_shared<const nlohmann::json>(ParseUntrustedJson(text));
  if (value->is_object()) return JsonObject(std::move(value), where);
  return absl::DataLossError(absl::StrCat(
      where, " is ", value->is_discarded() ? "not JSON, or nested too deeply" : "no object",
      "; copy or download it again"));
}

const nlohmann::json* JsonObject::Find(const char* key) const {
  const auto found = value_->find(key);
  return found == value_->end() || found->is_null() ? nullptr : &*found;
}

absl::Status JsonObject::Wrong(const char* key, const char* wanted) const {
  return absl::InvalidArgumentError(absl::StrCat(
      where_, ": \"", key, "\" is ", Has(key) ? absl::StrCat("not ", wanted) : "missing"));
}

absl::StatusOr<uint64_t> JsonObject::Uint(const char* key) const {
  const nlohmann::json* found = Find(key);
  if (found == nullptr || !found->is_number_unsigned()) return Wrong(key, "an unsigned integer");
  return found->get<uint64_t>();
}

absl::StatusOr<double> JsonObject::Number(const char* key) const {
  const nlohmann::json* found = Find(key);
  if (found == nullptr || !found->is_number()) return Wrong(key, "a number");
  return found->get<double>();
}

absl::StatusOr<bool> JsonObject::Bool(const char* key) const {
  const nlohmann::json* found = Find(key);
  if (found == nullptr || !found->is_boolean()) return Wrong(key, "true or false");
  return found->get<bool>();
}

absl::StatusOr<std::string> JsonObject::String(const char* key) const {
  const nlohmann::json* found = Find(key);
  if (found == nullptr || !found->is_string()) return Wrong(key, "a text");
  return found->get<std::string>();
}

absl::StatusOr<JsonObject> JsonObject::Object(const char* key) const {
  const nlohmann::json* found = Find(key);
  if (found == nullptr || !found->is_object()) return Wrong(key, "an object");
  return JsonObject({value_, found}, absl::StrCat(where_, ": ", key));
}

}  // namespace tidegate
