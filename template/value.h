// Values of a template: what Python calls None, bool, int, float, str, list, tuple, dict, and the
// few objects of Jinja (undefined, namespace, loop, macros).
//
// Immutable and shared, except namespaces, which a Runtime owns; so there are no cycles, and
// depth() bounds every recursion over a value. Ints have 64 bits. Thread-compatible.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "template/text.h"

namespace tidegate::jinja {

struct List;
struct Dict;
struct Namespace;
struct Loop;
struct Callable;

class Value {
 public:
  struct None {};
  // What a missing name or attribute gives: empty when printed, an error in most other uses.
  struct Undefined {
    std::shared_ptr<const std::string> what;  // "'x' is undefined"; may be null
  };

  Value() = default;  // undefined
  Value(None none) : data_(none) {}
  Value(Undefined undefined) : data_(std::move(undefined)) {}
  Value(bool value) : data_(value) {}
  Value(int64_t value) : data_(value) {}
  Value(double value) : data_(value) {}
  Value(Text text) : data_(std::make_shared<const Text>(std::move(text))) {}
  Value(std::shared_ptr<const List> list) : data_(std::move(list)) {}
  Value(std::shared_ptr<const Dict> dict) : data_(std::move(dict)) {}
  Value(Namespace* names) : data_(names) {}
  Value(std::shared_ptr<const Loop> loop) : data_(std::move(loop)) {}
  Value(std::shared_ptr<const Callable> callable) : data_(std::move(callable)) {}
  Value(const char*) = delete;

  // A string of the caller's own, such as a BOS token, and one from outside.
  static Value Trusted(std::string_view text) { return Text(std::string(text)); }
  static Value Data(std::string_view text) { return Text(std::string(text), Origin::kData); }

  bool is_undefined() const { return Is<Undefined>(); }
  bool is_none() const { return Is<None>(); }
  bool is_bool() const { return Is<bool>(); }
  bool is_int() const { return Is<int64_t>(); }  // without bool
  bool is_float() const { return Is<double>(); }
  bool is_number() const { return is_int() || is_float() || is_bool(); }
  bool is_string() const { return Is<std::shared_ptr<const Text>>(); }
  bool is_list() const { return Is<std::shared_ptr<const List>>(); }  // and tuples, views
  bool is_dict() const { return Is<std::shared_ptr<const Dict>>(); }
  bool is_namespace() const { return Is<Namespace*>(); }
  bool is_loop() const { return Is<std::shared_ptr<const Loop>>(); }
  bool is_callable() const { return Is<std::shared_ptr<const Callable>>(); }

  // REQUIRES the kind, except that as_int() and as_float() take every number.
  bool as_bool() const { return std::get<bool>(data_); }
  int64_t as_int() const;
  double as_float() const;
  const Text& text() const { return *std::get<std::shared_ptr<const Text>>(data_); }
  std::string_view string() const { return text().view(); }
  const List& list() const { return *std::get<std::shared_ptr<const List>>(data_); }
  const Dict& dict() const { return *std::get<std::shared_ptr<const Dict>>(data_); }
  Namespace& names() const { return *std::get<Namespace*>(data_); }
  const Loop& loop() const { return *std::get<std::shared_ptr<const Loop>>(data_); }
  const Callable& callable() const { return *std::get<std::shared_ptr<const Callable>>(data_); }

  bool Truth() const;
  // Levels of lists and dicts inside, itself included; 0 for what is no container.
  int depth() const;
  // "str object", "dict object", "None": as Jinja's messages name it.
  std::string KindName() const;
  // What an undefined value stands for, for messages.
  std::string UndefinedText() const;

 private:
  template <typename T>
  bool Is() const {
    return std::holds_alternative<T>(data_);
  }

  std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const Text>,
               std::shared_ptr<const List>, std::shared_ptr<const Dict>, Namespace*,
               std::shared_ptr<const Loop>, std::shared_ptr<const Callable>>
      data_;
};

// Values in order.
struct List {
  enum class Kind {
    kList,
    kTuple,
    kView,       // keys(), values(), items(): length, but no index
    kGenerator,  // of map, select, reverse: neither; true even if empty; gives its items once
  };
  std::vector<Value> items;
  Kind kind = Kind::kList;
  int depth = 1;
  mutable bool consumed = false;  // kGenerator
};

// Keys with their values, in the order of their making. Keys are str, int, float, bool, None.
struct Dict {
  std::vector<std::pair<Value, Value>> entries;
  int depth = 1;
  // nullptr if there is none. Linear: charge entries.size() steps.
  const Value* Find(std::string_view key) const;
  const Value* Find(const Value& key) const;
};

// namespace(): the only thing that a template can change. Names point into the template.
struct Namespace {
  std::vector<std::pair<std::string, Value>> entries;
  const Value* Find(std::string_view name) const;
};

// `loop` inside a for.
struct Loop {
  std::shared_ptr<const std::vector<Value>> items;
  size_t index0 = 0;
  int level = 1;  // loops around it, itself included
  int depth = 1;  // as of a list of the items
};

struct MacroNode;

// A function of the environment, a macro, or a method that was named and not called.
struct Callable {
  std::string name;
  bool global = false;
  const MacroNode* macro = nullptr;  // owned by the template
  size_t scope = 0;                  // where the macro was defined, see evaluator.h
  uint64_t scope_id = 0;
};

// Python's ==, for values without containers. Containers: Runtime::Equal().
bool ScalarsEqual(const Value& a, const Value& b);

// Copies items into a list or dict with the depth filled in.
std::shared_ptr<const List> MakeList(std::vector<Value> items, List::Kind kind = List::Kind::kList);
std::shared_ptr<const Dict> MakeDict(std::vector<std::pair<Value, Value>> entries);

}  // namespace tidegate::jinja
