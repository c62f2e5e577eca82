#include "template/methods.h"

#include <algorithm>

#include "base/status_macros.h"
#include "template/cat.h"
#include "template/text_functions.h"

namespace tidegate::jinja {
namespace {

constexpr std::string_view kDictMethods[] = {"get", "items", "keys", "values", "copy"};
constexpr std::string_view kDictChanges[] = {"clear", "pop", "popitem", "setdefault", "update"};
constexpr std::string_view kListMethods[] = {"copy", "count", "index"};
constexpr std::string_view kListChanges[] = {"append", "clear",  "extend",  "insert",
                                             "pop",    "remove", "reverse", "sort"};

template <size_t n>
bool Has(const std::string_view (&names)[n], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

absl::StatusOr<Value> CallDict(Runtime& runtime, const Value& object, std::string_view name,
                               const Arguments& arguments) {
  const Dict& dict = object.dict();
  RETURN_IF_ERROR(runtime.Charge(1 + dict.entries.size() / 8));
  if (name == "copy") return object;
  if (name == "get") {
    const Value* key = Argument(arguments, 0, "key");
    if (key == nullptr) return runtime.Error("dict.get needs a key");
    if (const Value* found = dict.Find(*key); found != nullptr) return *found;
    const Value* otherwise = Argument(arguments, 1, "default");
    return otherwise == nullptr ? Value(Value::None()) : *otherwise;
  }
  std::vector<Value> items;
  for (const auto& [key, value] : dict.entries) {
    if (name == "keys") {
      items.push_back(key);
    } else if (name == "values") {
      items.push_back(value);
    } else {
      ASSIGN_OR_RETURN(Value pair, runtime.MakeList({key, value}, List::Kind::kTuple));
      items.push_back(std::move(pair));
    }
  }
  return runtime.MakeList(std::move(items), List::Kind::kView);
}

absl::StatusOr<Value> CallList(Runtime& runtime, const Value& object, std::string_view name,
                               const Arguments& arguments) {
  if (name == "copy") return object;
  const Value* wanted = Argument(arguments, 0, "value");
  if (wanted == nullptr) return runtime.Error(Cat("list.", name, " needs a value"));
  int64_t count = 0, at = 0;
  for (const Value& item : object.list().items) {
    ASSIGN_OR_RETURN(const bool equal, runtime.Equal(item, *wanted));
    if (equal && name == "index") return Value(at);
    count += equal;
    ++at;
  }
  if (name == "index") return runtime.Error("list.index: the value is not in the list");
  return Value(count);
}

}  // namespace

bool HasMethod(const Value& object, std::string_view name) {
  if (object.is_string()) return HasStringMethod(name);
  if (object.is_dict()) return Has(kDictMethods, name) || Has(kDictChanges, name);
  if (!object.is_list()) return false;
  if (object.list().kind == List::Kind::kList && Has(kListChanges, name)) return true;
  return object.list().kind <= List::Kind::kTuple && Has(kListMethods, name);
}

absl::StatusOr<Value> CallMethod(Runtime& runtime, const Value& object, std::string_view name,
                                 const Arguments& arguments) {
  RETURN_IF_ERROR(runtime.Charge(1));
  if (object.is_string()) return CallStringMethod(runtime, object.text(), name, arguments);
  if ((object.is_dict() && Has(kDictChanges, name)) ||
      (object.is_list() && Has(kListChanges, name))) {
    return runtime.Error(Cat("access to '", name, "' of a ", object.KindName(),
                             " is unsafe: templates cannot change lists and dicts"));
  }
  if (object.is_dict()) return CallDict(runtime, object, name, arguments);
  return CallList(runtime, object, name, arguments);
}

}  // namespace tidegate::jinja
