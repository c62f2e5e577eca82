#include "template/filters.h"

#include <algorithm>

#include "base/status_macros.h"
#include "base/text.h"
#include "template/cat.h"
#include "template/characters.h"
#include "template/text_functions.h"

namespace tidegate::jinja {
namespace {

using TestFunction = absl::StatusOr<bool> (*)(Runtime&, const Value&, const Arguments&);

absl::StatusOr<Value> TestArgument(Runtime& runtime, const Arguments& arguments) {
  if (!arguments.positional.empty()) return arguments.positional[0];
  return runtime.Error("a test needs a value to compare with");
}

absl::StatusOr<int64_t> Integer(Runtime& runtime, const Value& value) {
  if (value.is_int() || value.is_bool()) return value.as_int();
  return runtime.Error(Cat("a test needs an integer, not a ", value.KindName()));
}

template <bool (Value::*predicate)() const>
absl::StatusOr<bool> Is(Runtime&, const Value& value, const Arguments&) {
  return (value.*predicate)();
}

absl::StatusOr<bool> IsDefined(Runtime&, const Value& value, const Arguments&) {
  return !value.is_undefined();
}
absl::StatusOr<bool> IsTrue(Runtime&, const Value& value, const Arguments&) {
  return value.is_bool() && value.as_bool();
}
absl::StatusOr<bool> IsFalse(Runtime&, const Value& value, const Arguments&) {
  return value.is_bool() && !value.as_bool();
}
absl::StatusOr<bool> IsIterable(Runtime&, const Value& value, const Arguments&) {
  return value.is_string() || value.is_list() || value.is_dict() || value.is_undefined();
}
absl::StatusOr<bool> IsFilterSequence(Runtime&, const Value& value, const Arguments&) {
  if (value.is_list()) return value.list().kind <= List::Kind::kTuple;
  return value.is_string() || value.is_dict() || value.is_undefined();
}

absl::StatusOr<bool> IsCased(Runtime& runtime, const Value& value, bool upper) {
  ASSIGN_OR_RETURN(const Text text, runtime.ToText(value));
  RETURN_IF_ERROR(runtime.Charge(text.size() / 16));
  bool any = false;
  for (size_t at = 0; at < text.size(); at = NextCharacter(text.view(), at)) {
    const char32_t c = CodePointAt(text.view(), at);
    if (upper ? IsLower(c) : IsUpper(c)) return false;
    any = any || (upper ? IsUpper(c) : IsLower(c));
  }
  return any;
}
absl::StatusOr<bool> AllUpper(Runtime& runtime, const Value& value, const Arguments&) {
  return IsCased(runtime, value, true);
}
absl::StatusOr<bool> AllLower(Runtime& runtime, const Value& value, const Arguments&) {
  return IsCased(runtime, value, false);
}

absl::StatusOr<bool> IsEqual(Runtime& runtime, const Value& value, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Value other, TestArgument(runtime, arguments));
  return runtime.Equal(value, other);
}
absl::StatusOr<bool> IsNotEqual(Runtime& runtime, const Value& value, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const bool equal, IsEqual(runtime, value, arguments));
  return !equal;
}
absl::StatusOr<bool> IsLess(Runtime& runtime, const Value& value, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Value other, TestArgument(runtime, arguments));
  return runtime.Less(value, other);
}
absl::StatusOr<bool> IsGreater(Runtime& runtime, const Value& value, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Value other, TestArgument(runtime, arguments));
  return runtime.Less(other, value);
}
absl::StatusOr<bool> IsLessOrEqual(Runtime& runtime, const Value& value,
                                   const Arguments& arguments) {
  ASSIGN_OR_RETURN(const bool greater, IsGreater(runtime, value, arguments));
  return !greater;
}
absl::StatusOr<bool> IsGreaterOrEqual(Runtime& runtime, const Value& value,
                                      const Arguments& arguments) {
  ASSIGN_OR_RETURN(const bool less, IsLess(runtime, value, arguments));
  return !less;
}
absl::StatusOr<bool> IsIn(Runtime& runtime, const Value& value, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Value container, TestArgument(runtime, arguments));
  return runtime.Contains(container, value);
}
// Identity: of scalars their equality within a kind, of containers never.
absl::StatusOr<bool> IsSame(Runtime& runtime, const Value& value, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Value other, TestArgument(runtime, arguments));
  return value.KindName() == other.KindName() && ScalarsEqual(value, other);
}

absl::StatusOr<bool> IsOdd(Runtime& runtime, const Value& value, const Arguments&) {
  ASSIGN_OR_RETURN(const int64_t number, Integer(runtime, value));
  return number % 2 != 0;
}
absl::StatusOr<bool> IsEven(Runtime& runtime, const Value& value, const Arguments&) {
  ASSIGN_OR_RETURN(const int64_t number, Integer(runtime, value));
  return number % 2 == 0;
}
absl::StatusOr<bool> IsDivisible(Runtime& runtime, const Value& value, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Value other, TestArgument(runtime, arguments));
  ASSIGN_OR_RETURN(const int64_t number, Integer(runtime, value));
  ASSIGN_OR_RETURN(const int64_t divisor, Integer(runtime, other));
  if (divisor == 0) return runtime.Error("division by zero");
  return divisor == -1 || number % divisor == 0;
}

absl::StatusOr<bool> NamesFilter(Runtime&, const Value& value, const Arguments&) {
  return value.is_string() && HasFilter(value.string());
}
absl::StatusOr<bool> NamesTest(Runtime&, const Value& value, const Arguments&) {
  return value.is_string() && HasTest(value.string());
}
absl::StatusOr<bool> Never(Runtime&, const Value&, const Arguments&) { return false; }

constexpr std::pair<std::string_view, TestFunction> kTests[] = {
    {"defined", IsDefined},
    {"undefined", Is<&Value::is_undefined>},
    {"none", Is<&Value::is_none>},
    {"boolean", Is<&Value::is_bool>},
    {"true", IsTrue},
    {"false", IsFalse},
    {"integer", Is<&Value::is_int>},
    {"float", Is<&Value::is_float>},
    {"number", Is<&Value::is_number>},
    {"string", Is<&Value::is_string>},
    {"mapping", Is<&Value::is_dict>},
    {"iterable", IsIterable},
    {"sequence", IsFilterSequence},
    {"callable", Is<&Value::is_callable>},
    {"upper", AllUpper},
    {"lower", AllLower},
    {"equalto", IsEqual},
    {"eq", IsEqual},
    {"==", IsEqual},
    {"ne", IsNotEqual},
    {"!=", IsNotEqual},
    {"lt", IsLess},
    {"<", IsLess},
    {"lessthan", IsLess},
    {"le", IsLessOrEqual},
    {"<=", IsLessOrEqual},
    {"gt", IsGreater},
    {">", IsGreater},
    {"greaterthan", IsGreater},
    {"ge", IsGreaterOrEqual},
    {">=", IsGreaterOrEqual},
    {"in", IsIn},
    {"sameas", IsSame},
    {"odd", IsOdd},
    {"even", IsEven},
    {"divisibleby", IsDivisible},
    {"filter", NamesFilter},
    {"test", NamesTest},
    {"escaped", Never},
};

TestFunction FindTest(std::string_view name) {
  const auto found = std::find_if(std::begin(kTests), std::end(kTests),
                                  [&](const auto& entry) { return entry.first == name; });
  return found == std::end(kTests) ? nullptr : found->second;
}

FilterFunction FindFilter(std::string_view name) {
  const FilterFunction filter = FindTextFilter(name);
  return filter != nullptr ? filter : FindSequenceFilter(name);
}

}  // namespace

bool HasFilter(std::string_view name) { return FindFilter(name) != nullptr; }
bool HasTest(std::string_view name) { return FindTest(name) != nullptr; }

absl::StatusOr<Value> ApplyFilter(Runtime& runtime, std::string_view name, const Value& input,
                                  const Arguments& arguments) {
  const Runtime::Level level(runtime);  // a filter may apply filters: map('map', ...)
  RETURN_IF_ERROR(level.ok());
  RETURN_IF_ERROR(runtime.Charge(1));
  const FilterFunction filter = FindFilter(name);
  if (filter == nullptr) {
    return runtime.Error(Cat("there is no filter '", CutAtCharacter(name, 80), "'"));
  }
  return filter({runtime, name, input, arguments});
}

absl::StatusOr<bool> ApplyTest(Runtime& runtime, std::string_view name, const Value& value,
                               const Arguments& arguments) {
  RETURN_IF_ERROR(runtime.Charge(1));
  const TestFunction test = FindTest(name);
  if (test == nullptr) {
    return runtime.Error(Cat("there is no test '", CutAtCharacter(name, 80), "'"));
  }
  return test(runtime, value, arguments);
}

}  // namespace tidegate::jinja
