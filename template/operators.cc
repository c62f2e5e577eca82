#include "template/operators.h"

#include <algorithm>
#include <cmath>

#include "base/status_macros.h"
#include "base/text.h"
#include "template/cat.h"
#include "template/characters.h"
#include "template/methods.h"

namespace tidegate::jinja {
namespace {

absl::Status NoOperator(Runtime& runtime, std::string_view op, const Value& a, const Value& b) {
  if (a.is_undefined()) return runtime.Error(a.UndefinedText());
  if (b.is_undefined()) return runtime.Error(b.UndefinedText());
  return runtime.Error(
      Cat("'", op, "' does not work on a ", a.KindName(), " and a ", b.KindName()));
}

absl::Status Overflow(Runtime& runtime) {
  return runtime.Error("a number leaves the range of 64 bits");
}

absl::StatusOr<Value> Power(Runtime& runtime, int64_t base, int64_t exponent) {
  if (exponent < 0)
    return Value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  int64_t result = 1;
  if (base == 0 || base == 1) return Value(exponent == 0 ? int64_t{1} : base);
  if (base == -1) return Value(exponent % 2 == 0 ? int64_t{1} : int64_t{-1});
  for (int64_t i = 0; i < exponent; ++i) {  // at most 63 rounds
    if (__builtin_mul_overflow(result, base, &result)) return Overflow(runtime);
  }
  return Value(result);
}

absl::StatusOr<Value> IntegerArithmetic(Runtime& runtime, char op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  switch (op) {
    case '+':
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case '-':
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case '*':
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    default:  // 'f' floor division and '%'
      if (b == 0) return runtime.Error("division by zero");
      if (b == -1) {
        overflow = op == 'f' && __builtin_sub_overflow(int64_t{0}, a, &result);
        break;
      }
      const int64_t remainder = a % b != 0 && (a % b < 0) != (b < 0) ? a % b + b : a % b;
      result = op == '%' ? remainder : (a - remainder) / b;
  }
  if (overflow) return Overflow(runtime);
  return Value(result);
}

absl::StatusOr<Value> FloatArithmetic(Runtime& runtime, char op, double a, double b) {
  switch (op) {
    case '+':
      return Value(a + b);
    case '-':
      return Value(a - b);
    case '*':
      return Value(a * b);
    case '^':
      return Value(std::pow(a, b));
    default:
      break;
  }
  if (b == 0) return runtime.Error("division by zero");
  if (op == '/') return Value(a / b);
  const double floored = std::floor(a / b);
  return op == 'f' ? Value(floored) : Value(a - floored * b);
}

absl::StatusOr<Value> Numbers(Runtime& runtime, std::string_view op, const Value& a,
                              const Value& b) {
  const char code = op == "//" ? 'f' : op == "**" ? '^' : op[0];
  if (a.is_float() || b.is_float() || code == '/') {
    return FloatArithmetic(runtime, code, a.as_float(), b.as_float());
  }
  if (code == '^') return Power(runtime, a.as_int(), b.as_int());
  return IntegerArithmetic(runtime, code, a.as_int(), b.as_int());
}

absl::StatusOr<Value> Repeat(Runtime& runtime, const Value& value, int64_t count) {
  const uint64_t times = static_cast<uint64_t>(std::max<int64_t>(count, 0));
  const uint64_t size = value.is_string() ? value.text().cost() : value.list().items.size();
  const uint64_t limit = runtime.limits().string_bytes;
  if (size > 0 && times > limit / size) {
    return runtime.CapError(Cat("a repetition makes more than ", limit, " bytes"));
  }
  RETURN_IF_ERROR(runtime.Charge(times));
  if (value.is_string()) {
    Text text;
    for (uint64_t i = 0; i < times; ++i) text.Append(value.text());
    return runtime.MakeString(std::move(text));
  }
  RETURN_IF_ERROR(runtime.Charge(times * size));
  std::vector<Value> items;
  for (uint64_t i = 0; i < times; ++i) {
    items.insert(items.end(), value.list().items.begin(), value.list().items.end());
  }
  return runtime.MakeList(std::move(items), value.list().kind);
}

bool IsSequence(const Value& value) {
  return value.is_list() &&
         (value.list().kind == List::Kind::kList || value.list().kind == List::Kind::kTuple);
}

absl::StatusOr<Value> Concatenate(Runtime& runtime, const Value& a, const Value& b) {
  if (a.is_string()) {
    RETURN_IF_ERROR(runtime.Charge((a.text().cost() + b.text().cost()) / 64));
    Text text = a.text();
    text.Append(b.text());
    return runtime.MakeString(std::move(text));
  }
  RETURN_IF_ERROR(runtime.Charge(a.list().items.size() + b.list().items.size()));
  std::vector<Value> items = a.list().items;
  items.insert(items.end(), b.list().items.begin(), b.list().items.end());
  return runtime.MakeList(std::move(items), a.list().kind);
}

Value NoAttribute(Runtime& runtime, const Value& object, std::string_view name) {
  return runtime.Undefined(
      Cat("'", object.KindName(), "' has no attribute '", CutAtCharacter(name, 80), "'"));
}

std::shared_ptr<const Callable> NamedMethod(std::string_view name) {
  auto method = std::make_shared<Callable>();
  method->name = std::string(name);
  return method;
}

absl::StatusOr<Value> LoopAttribute(Runtime& runtime, const Value& object, std::string_view name) {
  const Loop& loop = object.loop();
  const int64_t index = static_cast<int64_t>(loop.index0);
  const int64_t length = static_cast<int64_t>(loop.items->size());
  if (name == "index") return Value(index + 1);
  if (name == "index0") return Value(index);
  if (name == "revindex") return Value(length - index);
  if (name == "revindex0") return Value(length - index - 1);
  if (name == "first") return Value(index == 0);
  if (name == "last") return Value(index + 1 == length);
  if (name == "length") return Value(length);
  if (name == "depth") return Value(static_cast<int64_t>(loop.level));
  if (name == "depth0") return Value(static_cast<int64_t>(loop.level - 1));
  if (name == "previtem" || name == "nextitem") {
    const bool previous = name == "previtem";
    if (previous ? index == 0 : index + 1 == length) {
      return runtime.Undefined(previous ? "there is no previous item" : "there is no next item");
    }
    return (*loop.items)[static_cast<size_t>(previous ? index - 1 : index + 1)];
  }
  return NoAttribute(runtime, object, name);
}

absl::StatusOr<Value> ItemAt(Runtime& runtime, const Value& object, int64_t index) {
  ASSIGN_OR_RETURN(const size_t length, runtime.Length(object));
  const int64_t count = static_cast<int64_t>(length);
  if (index < -count || index >= count) {
    return runtime.Undefined(Cat(object.KindName(), " has no element ", index));
  }
  const size_t at = static_cast<size_t>(index < 0 ? index + count : index);
  if (object.is_list()) return object.list().items[at];
  RETURN_IF_ERROR(runtime.Charge(at / 64));
  const Text& text = object.text();
  size_t begin = 0;
  for (size_t i = 0; i < at; ++i) begin = NextCharacter(text.view(), begin);
  return runtime.MakeString(text.Sub(begin, NextCharacter(text.view(), begin)));
}

}  // namespace

absl::StatusOr<Value> Arithmetic(Runtime& runtime, std::string_view op, const Value& a,
                                 const Value& b) {
  if (a.is_number() && b.is_number()) return Numbers(runtime, op, a, b);
  if (op == "+" && ((a.is_string() && b.is_string()) ||
                    (IsSequence(a) && IsSequence(b) && a.list().kind == b.list().kind))) {
    return Concatenate(runtime, a, b);
  }
  if (op == "*") {
    const auto counts = [](const Value& v) { return v.is_int() || v.is_bool(); };
    if ((a.is_string() || IsSequence(a)) && counts(b)) return Repeat(runtime, a, b.as_int());
    if ((b.is_string() || IsSequence(b)) && counts(a)) return Repeat(runtime, b, a.as_int());
  }
  if (op == "%" && a.is_string()) {
    const bool tuple = b.is_list() && b.list().kind == List::Kind::kTuple;
    return FormatPercent(runtime, a.text(), tuple ? b.list().items : std::vector<Value>{b});
  }
  return NoOperator(runtime, op, a, b);
}

absl::StatusOr<Value> Negative(Runtime& runtime, const Value& value) {
  if (value.is_float()) return Value(-value.as_float());
  if (value.is_number()) return IntegerArithmetic(runtime, '-', 0, value.as_int());
  return NoOperator(runtime, "-", value, value);
}

absl::StatusOr<Value> GetAttribute(Runtime& runtime, const Value& object, std::string_view name) {
  if (object.is_undefined()) return runtime.Error(object.UndefinedText());
  if (HasMethod(object, name)) return Value(NamedMethod(name));
  if (object.is_loop()) return LoopAttribute(runtime, object, name);
  const Value* found = nullptr;
  if (object.is_dict()) {
    RETURN_IF_ERROR(runtime.Charge(object.dict().entries.size() / 8));
    found = object.dict().Find(name);
  } else if (object.is_namespace()) {
    RETURN_IF_ERROR(runtime.Charge(object.names().entries.size() / 8));
    found = object.names().Find(name);
  }
  return found != nullptr ? *found : NoAttribute(runtime, object, name);
}

absl::StatusOr<Value> GetItem(Runtime& runtime, const Value& object, const Value& key) {
  if (object.is_undefined()) return runtime.Error(object.UndefinedText());
  if (object.is_dict()) {
    RETURN_IF_ERROR(runtime.Charge(object.dict().entries.size() / 8));
    if (const Value* found = object.dict().Find(key); found != nullptr) return *found;
  }
  if ((object.is_string() || IsSequence(object)) && (key.is_int() || key.is_bool())) {
    return ItemAt(runtime, object, key.as_int());
  }
  if (key.is_string()) return GetAttribute(runtime, object, key.string());
  ASSIGN_OR_RETURN(const Text text, runtime.ToText(key));
  return runtime.Undefined(
      Cat(object.KindName(), " has no element ", CutAtCharacter(text.view(), 80)));
}

absl::StatusOr<Value> Slice(Runtime& runtime, const Value& object, const Value& begin,
                            const Value& end, const Value& step) {
  if (object.is_undefined()) return runtime.Error(object.UndefinedText());
  if (!object.is_string() && !IsSequence(object)) {
    return runtime.Undefined(Cat("a ", object.KindName(), " has no slices"));
  }
  for (const Value* part : {&begin, &end, &step}) {
    if (!part->is_undefined() && !part->is_none() && !part->is_int() && !part->is_bool()) {
      return runtime.Error(Cat("a slice needs integers, not a ", part->KindName()));
    }
  }
  const auto given = [](const Value& v) { return v.is_number(); };
  const int64_t stride = given(step) ? step.as_int() : 1;
  if (stride == 0) return runtime.Error("the step of a slice is 0");
  ASSIGN_OR_RETURN(const size_t size, runtime.Length(object));
  const int64_t length = static_cast<int64_t>(size);
  const int64_t low = stride > 0 ? 0 : -1, high = stride > 0 ? length : length - 1;
  const auto clamp = [&](int64_t at) {
    return at < 0 ? std::max(at < -length ? low : at + length, low) : std::min(at, high);
  };
  const int64_t first = given(begin) ? clamp(begin.as_int()) : stride > 0 ? low : high;
  const int64_t last = given(end) ? clamp(end.as_int()) : stride > 0 ? high : low;
  const auto more = [&](int64_t at) { return stride > 0 ? at < last : at > last; };
  RETURN_IF_ERROR(runtime.Charge(size / 8));
  std::vector<size_t> starts;  // of characters, and the end
  if (object.is_string()) {
    for (size_t at = 0; at < object.text().size(); at = NextCharacter(object.string(), at)) {
      starts.push_back(at);
    }
    starts.push_back(object.text().size());
    if (stride == 1 || first == last) {
      const size_t from = starts[static_cast<size_t>(std::max<int64_t>(first, 0))];
      const size_t to = more(first) ? starts[static_cast<size_t>(last)] : from;
      return runtime.MakeString(object.text().Sub(from, to));
    }
  }
  Text text;
  std::vector<Value> items;
  for (int64_t at = first; more(at);) {
    const size_t i = static_cast<size_t>(at);
    if (object.is_string()) {
      text.Append(object.text().Sub(starts[i], starts[i + 1]));
    } else {
      items.push_back(object.list().items[i]);
    }
    if (__builtin_add_overflow(at, stride, &at)) break;
  }
  if (object.is_string()) return runtime.MakeString(std::move(text));
  return runtime.MakeList(std::move(items), object.list().kind);
}

absl::StatusOr<Value> FormatPercent(Runtime& runtime, const Text& format,
                                    const std::vector<Value>& values) {
  Text out;
  size_t used = 0, kept = 0;
  const std::string_view view = format.view();
  for (size_t at = 0; (at = view.find('%', at)) != std::string_view::npos; at += 2) {
    const char code = at + 1 < view.size() ? view[at + 1] : '\0';
    RETURN_IF_ERROR(runtime.Append(format.Sub(kept, at), out));
    kept = at + 2;
    if (code == '%') {
      RETURN_IF_ERROR(runtime.Append("%", out));
      continue;
    }
    if (code != 's' && code != 'd' && code != 'i' && code != 'r') {
      return runtime.Error("a format may have %s, %d, %r and %%; no other is supported");
    }
    if (used == values.size()) return runtime.Error("a format has more places than values");
    const Value& value = values[used++];
    if ((code == 'd' || code == 'i') && !value.is_number()) {
      return runtime.Error(Cat("%d needs a number, not a ", value.KindName()));
    }
    if (code == 's' && value.is_string()) {
      RETURN_IF_ERROR(runtime.Append(value.text(), out));
    } else if ((code == 'd' || code == 'i') && std::abs(value.as_float()) < 9e18) {
      RETURN_IF_ERROR(runtime.Append(Cat(value.as_int()), out));
    } else {
      Text text;
      RETURN_IF_ERROR(runtime.AppendRepr(value, text));
      RETURN_IF_ERROR(runtime.Append(text, out));
    }
  }
  RETURN_IF_ERROR(runtime.Append(format.Sub(std::min(kept, format.size()), format.size()), out));
  if (used < values.size()) return runtime.Error("a format has fewer places than values");
  return runtime.MakeString(std::move(out));
}

}  // namespace tidegate::jinja
