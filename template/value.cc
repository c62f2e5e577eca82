#include "template/value.h"

#include <algorithm>

namespace tidegate::jinja {

int64_t Value::as_int() const {
  if (is_bool()) return as_bool() ? 1 : 0;
  return is_float() ? static_cast<int64_t>(std::get<double>(data_)) : std::get<int64_t>(data_);
}

double Value::as_float() const {
  return is_float() ? std::get<double>(data_) : static_cast<double>(as_int());
}

bool Value::Truth() const {
  if (is_undefined() || is_none()) return false;
  if (is_bool()) return as_bool();
  if (is_int()) return as_int() != 0;
  if (is_float()) return as_float() != 0;
  if (is_string()) return !text().empty();
  if (is_list()) return list().kind == List::Kind::kGenerator || !list().items.empty();
  if (is_dict()) return !dict().entries.empty();
  return true;
}

int Value::depth() const {
  if (is_list()) return list().depth;
  if (is_dict()) return dict().depth;
  if (is_loop()) return loop().depth;
  return 0;
}

std::string Value::KindName() const {
  if (is_undefined()) return "undefined";
  if (is_none()) return "None";
  if (is_bool()) return "bool object";
  if (is_int()) return "int object";
  if (is_float()) return "float object";
  if (is_string()) return "str object";
  if (is_dict()) return "dict object";
  if (is_namespace()) return "namespace";
  if (is_loop()) return "loop";
  if (is_callable()) return "function";
  switch (list().kind) {
    case List::Kind::kList:
      return "list object";
    case List::Kind::kTuple:
      return "tuple object";
    case List::Kind::kView:
      return "dict view";
    case List::Kind::kGenerator:
      return "generator object";
  }
  return "object";
}

std::string Value::UndefinedText() const {
  const Undefined& undefined = std::get<Undefined>(data_);
  return undefined.what == nullptr ? "a value is undefined" : *undefined.what;
}

const Value* Dict::Find(std::string_view key) const {
  for (const auto& [name, value] : entries) {
    if (name.is_string() && name.string() == key) return &value;
  }
  return nullptr;
}

const Value* Dict::Find(const Value& key) const {
  for (const auto& [name, value] : entries) {
    if (ScalarsEqual(name, key)) return &value;
  }
  return nullptr;
}

const Value* Namespace::Find(std::string_view name) const {
  for (const auto& [key, value] : entries) {
    if (key == name) return &value;
  }
  return nullptr;
}

bool ScalarsEqual(const Value& a, const Value& b) {
  if (a.is_string() || b.is_string()) {
    return a.is_string() && b.is_string() && a.string() == b.string();
  }
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) return a.as_float() == b.as_float();
    return a.as_int() == b.as_int();
  }
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (a.is_namespace() && b.is_namespace()) return &a.names() == &b.names();
  if (a.is_callable() && b.is_callable()) return &a.callable() == &b.callable();
  if (a.is_loop() && b.is_loop()) return &a.loop() == &b.loop();
  return false;
}

std::shared_ptr<const List> MakeList(std::vector<Value> items, List::Kind kind) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  auto list = std::make_shared<List>();
  list->items = std::move(items);
  list->kind = kind;
  list->depth = depth + 1;
  return list;
}

std::shared_ptr<const Dict> MakeDict(std::vector<std::pair<Value, Value>> entries) {
  int depth = 0;
  for (const auto& [key, value] : entries) depth = std::max(depth, value.depth());
  auto dict = std::make_shared<Dict>();
  dict->entries = std::move(entries);
  dict->depth = depth + 1;
  return dict;
}

}  // namespace tidegate::jinja
