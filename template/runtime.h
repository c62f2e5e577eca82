// What a rendering may still spend, and the operations on values that spend it: making strings and
// lists, comparing, printing.
//
// Every loop over data goes through Charge() or one of the makers, so that a hostile template ends
// with RESOURCE_EXHAUSTED and not with the machine. Errors carry the line that is being evaluated.
// One rendering, one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "template/value.h"

namespace tidegate::jinja {

struct Limits {
  uint64_t steps = 4'000'000;         // expressions, iterations, and 64 bytes or 1 item handled
  uint64_t memory_bytes = 256 << 20;  // made while rendering, all together
  uint64_t string_bytes = 8 << 20;    // one string, the output included
  int value_depth = 64;               // lists in lists
  int evaluation_depth = 400;         // expressions in blocks in macros
};

// Arguments of a filter, test, function or macro.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

class Runtime {
 public:
  explicit Runtime(const Limits& limits) : limits_(limits) {}
  Runtime(const Runtime&) = delete;

  const Limits& limits() const { return limits_; }
  int line() const { return line_; }
  void set_line(int line) { line_ = line; }

  // FAILED_PRECONDITION "line N: message"; of RESOURCE_EXHAUSTED for a cap.
  absl::Status Error(std::string_view message) const;
  absl::Status CapError(std::string_view message) const;

  absl::Status Charge(uint64_t steps);
  // Of looking for `wanted` bytes in `text` bytes, the worst case included.
  absl::Status ChargeSearch(size_t text, size_t wanted) {
    return Charge(1 + text / 64 + text / 512 * wanted);
  }
  // One more level of evaluation while it lives; check ok() first.
  class Level {
   public:
    explicit Level(Runtime& runtime) : runtime_(runtime) { ++runtime_.depth_; }
    ~Level() { --runtime_.depth_; }
    Level(const Level&) = delete;
    absl::Status ok() const {
      if (runtime_.depth_ <= runtime_.limits_.evaluation_depth) return absl::OkStatus();
      return runtime_.CapError("macros and expressions are nested too deeply");
    }

   private:
    Runtime& runtime_;
  };

  absl::StatusOr<Value> MakeString(Text text);
  absl::StatusOr<Value> MakeList(std::vector<Value> items, List::Kind kind = List::Kind::kList);
  absl::StatusOr<Value> MakeDict(std::vector<std::pair<Value, Value>> entries);
  Value MakeNamespace();
  Value Undefined(std::string what) const;

  // Appends while `out` stays within string_bytes.
  absl::Status Append(const Text& text, Text& out);
  absl::Status Append(std::string_view bytes, Text& out);

  // Items that a for would see: of a string its characters, of a dict its keys; none of undefined.
  absl::StatusOr<std::vector<Value>> Items(const Value& value);
  absl::StatusOr<size_t> Length(const Value& value);

  // Python's == and <. Less: an error for kinds that have no order between them.
  absl::StatusOr<bool> Equal(const Value& a, const Value& b);
  absl::StatusOr<bool> Less(const Value& a, const Value& b);
  absl::StatusOr<bool> Contains(const Value& container, const Value& item);

  // Python's str() and repr().
  absl::StatusOr<Text> ToText(const Value& value);
  absl::Status AppendRepr(const Value& value, Text& out);

  // json.dumps(value, ensure_ascii=False). indent < 0: one line.
  struct JsonStyle {
    int indent = -1;
    std::string item_separator = ", ", key_separator = ": ";
    bool sort_keys = false;
    bool ascii = false;
  };
  absl::StatusOr<Text> ToJson(const Value& value, const JsonStyle& style);

 private:
  absl::Status ChargeMemory(uint64_t bytes);

  const Limits limits_;
  int line_ = 0;
  int depth_ = 0;
  uint64_t steps_ = 0, memory_bytes_ = 0;
  std::deque<Namespace> namespaces_;
};

// repr() of a float: the shortest digits that give it back.
std::string FloatRepr(double value);

}  // namespace tidegate::jinja
