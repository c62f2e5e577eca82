#include "template/json_value.h"

#include <limits>
#include <utility>

#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "template/cat.h"
#include "template/runtime.h"

namespace tidegate::jinja {
namespace {

using Json = nlohmann::ordered_json;

absl::StatusOr<Value> Convert(const Json& json, Origin origin, int depth) {
  if (depth > Limits().value_depth) {
    return absl::InvalidArgumentError(
        Cat("JSON is nested deeper than ", Limits().value_depth, " levels"));
  }
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value(json.get<bool>());
    case Json::value_t::number_integer:
      return Value(json.get<int64_t>());
    case Json::value_t::number_unsigned:
      if (json.get<uint64_t>() > std::numeric_limits<int64_t>::max()) {
        return absl::InvalidArgumentError(
            Cat("the number ", json.get<uint64_t>(), " in JSON does not fit into 64 bits"));
      }
      return Value(json.get<int64_t>());
    case Json::value_t::number_float:
      return Value(json.get<double>());
    case Json::value_t::string:
      return Value(Text(json.get<std::string>(), origin));
    case Json::value_t::array: {
      std::vector<Value> items;
      for (const Json& item : json) {
        ASSIGN_OR_RETURN(Value value, Convert(item, origin, depth + 1));
        items.push_back(std::move(value));
      }
      return Value(MakeList(std::move(items)));
    }
    case Json::value_t::object: {
      std::vector<std::pair<Value, Value>> entries;
      for (const auto& [key, item] : json.items()) {
        ASSIGN_OR_RETURN(Value value, Convert(item, origin, depth + 1));
        entries.emplace_back(Text(key, origin), std::move(value));
      }
      return Value(MakeDict(std::move(entries)));
    }
    default:
      return Value(Value::None());
  }
}

}  // namespace

absl::StatusOr<Value> ParseJson(std::string_view text, Origin origin) {
  try {  // for the position in the message; the library throws
    return Convert(Json::parse(text.begin(), text.end()), origin, 1);
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(Cat("not JSON: ", std::string(error.what())));
  }
}

}  // namespace tidegate::jinja
