#include "template/runtime.h"

#include <algorithm>

#include "base/status_macros.h"
#include "template/cat.h"
#include "template/characters.h"

namespace tidegate::jinja {
namespace {

std::string AtLine(int line, std::string_view message) {
  return line > 0 ? Cat("line ", line, ": ", message) : std::string(message);
}

}  // namespace

absl::Status Runtime::Error(std::string_view message) const {
  return absl::FailedPreconditionError(AtLine(line_, message));
}

absl::Status Runtime::CapError(std::string_view message) const {
  return absl::ResourceExhaustedError(AtLine(line_, message));
}

absl::Status Runtime::Charge(uint64_t steps) {
  steps_ += steps;
  if (steps_ <= limits_.steps) return absl::OkStatus();
  return CapError(Cat("the template takes more than ", limits_.steps,
                      " steps; does it loop over something huge?"));
}

absl::Status Runtime::ChargeMemory(uint64_t bytes) {
  memory_bytes_ += bytes;
  if (memory_bytes_ <= limits_.memory_bytes) return Charge(bytes / 64);
  return CapError(Cat("the template makes more than ", limits_.memory_bytes >> 20,
                      " MiB of strings and lists"));
}

absl::StatusOr<Value> Runtime::MakeString(Text text) {
  if (text.size() > limits_.string_bytes) {
    return CapError(
        Cat("the template makes a string of more than ", limits_.string_bytes, " bytes"));
  }
  RETURN_IF_ERROR(ChargeMemory(text.cost()));
  return Value(std::move(text));
}

absl::StatusOr<Value> Runtime::MakeList(std::vector<Value> items, List::Kind kind) {
  RETURN_IF_ERROR(Charge(items.size()));
  RETURN_IF_ERROR(ChargeMemory(items.size() * sizeof(Value)));
  auto list = jinja::MakeList(std::move(items), kind);
  if (list->depth > limits_.value_depth) {
    return CapError(Cat("lists nested deeper than ", limits_.value_depth));
  }
  return Value(std::move(list));
}

absl::StatusOr<Value> Runtime::MakeDict(std::vector<std::pair<Value, Value>> entries) {
  RETURN_IF_ERROR(Charge(entries.size()));
  RETURN_IF_ERROR(ChargeMemory(entries.size() * 2 * sizeof(Value)));
  auto dict = jinja::MakeDict(std::move(entries));
  if (dict->depth > limits_.value_depth) {
    return CapError(Cat("dicts nested deeper than ", limits_.value_depth));
  }
  return Value(std::move(dict));
}

Value Runtime::MakeNamespace() { return Value(&namespaces_.emplace_back()); }

Value Runtime::Undefined(std::string what) const {
  return Value::Undefined{std::make_shared<const std::string>(std::move(what))};
}

absl::Status Runtime::Append(const Text& text, Text& out) {
  RETURN_IF_ERROR(Charge(1 + text.cost() / 64));
  if (out.size() + text.size() > limits_.string_bytes) {
    return CapError(Cat("more than ", limits_.string_bytes, " bytes of text"));
  }
  out.Append(text);
  return absl::OkStatus();
}

absl::Status Runtime::Append(std::string_view bytes, Text& out) {
  RETURN_IF_ERROR(Charge(1 + bytes.size() / 64));
  if (out.size() + bytes.size() > limits_.string_bytes) {
    return CapError(Cat("more than ", limits_.string_bytes, " bytes of text"));
  }
  out.Append(bytes);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Value>> Runtime::Items(const Value& value) {
  std::vector<Value> items;
  if (value.is_undefined()) return items;
  if (value.is_list()) {
    RETURN_IF_ERROR(Charge(value.list().items.size()));
    if (value.list().kind != List::Kind::kGenerator) return value.list().items;
    if (!std::exchange(value.list().consumed, true)) items = value.list().items;
    return items;
  }
  if (value.is_dict()) {
    RETURN_IF_ERROR(Charge(value.dict().entries.size()));
    for (const auto& [key, unused] : value.dict().entries) items.push_back(key);
    return items;
  }
  if (!value.is_string()) {
    return Error(Cat("a ", value.KindName(), " cannot be iterated over"));
  }
  const Text& text = value.text();
  for (size_t at = 0, next; at < text.size(); at = next) {
    next = NextCharacter(text.view(), at);
    ASSIGN_OR_RETURN(Value character, MakeString(text.Sub(at, next)));
    RETURN_IF_ERROR(ChargeMemory(sizeof(Value) + sizeof(Text)));
    items.push_back(std::move(character));
  }
  return items;
}

absl::StatusOr<size_t> Runtime::Length(const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.is_string()) {
    RETURN_IF_ERROR(Charge(value.text().size() / 64));
    return CharacterCount(value.string());
  }
  if (value.is_dict()) return value.dict().entries.size();
  if (value.is_list() && value.list().kind != List::Kind::kGenerator) {
    return value.list().items.size();
  }
  return Error(Cat("a ", value.KindName(), " has no length"));
}

absl::StatusOr<bool> Runtime::Equal(const Value& a, const Value& b) {
  RETURN_IF_ERROR(Charge(1));
  if (a.is_string() && b.is_string()) RETURN_IF_ERROR(Charge(a.text().size() / 64));
  if (a.is_list() && b.is_list()) {
    const List& x = a.list();
    const List& y = b.list();
    if (x.kind == List::Kind::kGenerator) return &x == &y;
    if (x.kind != y.kind || x.items.size() != y.items.size()) return false;
    for (size_t i = 0; i < x.items.size(); ++i) {
      ASSIGN_OR_RETURN(const bool equal, Equal(x.items[i], y.items[i]));
      if (!equal) return false;
    }
    return true;
  }
  if (!a.is_dict() || !b.is_dict()) return ScalarsEqual(a, b);
  if (a.dict().entries.size() != b.dict().entries.size()) return false;
  for (const auto& [key, value] : a.dict().entries) {
    RETURN_IF_ERROR(Charge(b.dict().entries.size()));
    const Value* other = b.dict().Find(key);
    if (other == nullptr) return false;
    ASSIGN_OR_RETURN(const bool equal, Equal(value, *other));
    if (!equal) return false;
  }
  return true;
}

absl::StatusOr<bool> Runtime::Less(const Value& a, const Value& b) {
  RETURN_IF_ERROR(Charge(1));
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) return a.as_float() < b.as_float();
    return a.as_int() < b.as_int();
  }
  if (a.is_string() && b.is_string()) {
    RETURN_IF_ERROR(Charge(a.text().size() / 64));
    return a.string() < b.string();  // UTF-8 keeps the order of code points
  }
  if (a.is_list() && b.is_list() && a.list().kind == b.list().kind) {
    const auto& x = a.list().items;
    const auto& y = b.list().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      ASSIGN_OR_RETURN(const bool equal, Equal(x[i], y[i]));
      if (!equal) return Less(x[i], y[i]);
    }
    return x.size() < y.size();
  }
  if (a.is_undefined()) return Error(a.UndefinedText());
  if (b.is_undefined()) return Error(b.UndefinedText());
  return Error(Cat("a ", a.KindName(), " and a ", b.KindName(), " have no order"));
}

absl::StatusOr<bool> Runtime::Contains(const Value& container, const Value& item) {
  if (container.is_string()) {
    if (!item.is_string()) {
      return Error(Cat("'in <string>' needs a string, not a ", item.KindName()));
    }
    RETURN_IF_ERROR(ChargeSearch(container.text().size(), item.text().size()));
    return container.string().find(item.string()) != std::string_view::npos;
  }
  if (container.is_dict()) {
    RETURN_IF_ERROR(Charge(container.dict().entries.size()));
    return container.dict().Find(item) != nullptr;
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, Items(container));
  for (const Value& each : items) {
    ASSIGN_OR_RETURN(const bool equal, Equal(each, item));
    if (equal) return true;
  }
  return false;
}

}  // namespace tidegate::jinja
