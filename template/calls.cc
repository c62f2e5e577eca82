// The Evaluator's calls: macros and the functions of the environment.
#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "base/text.h"
#include "template/cat.h"
#include "template/evaluator.h"
#include "template/scope_guard.h"
#include "template/text_functions.h"

namespace tidegate::jinja {
namespace {

constexpr int64_t kMaxRange = 100000;  // as Jinja's sandbox

}  // namespace

absl::StatusOr<Value> Evaluator::Call(const Value& callee, const Arguments& arguments) {
  if (callee.is_undefined()) return runtime_.Error(callee.UndefinedText());
  if (!callee.is_callable()) {
    return runtime_.Error(Cat("a ", callee.KindName(), " cannot be called"));
  }
  const Callable& callable = callee.callable();
  if (callable.macro != nullptr) return CallMacro(callable, arguments);
  if (callable.global) return CallGlobal(callable.name, arguments);
  return runtime_.Error(
      Cat("call the method ", callable.name, " where it is named; not by a variable"));
}

absl::StatusOr<Value> Evaluator::CallMacro(const Callable& callable, const Arguments& arguments) {
  const MacroNode& macro = *callable.macro;
  if (callable.scope >= scopes_.size() || scopes_[callable.scope].id != callable.scope_id) {
    return runtime_.Error(
        Cat("macro '", macro.name, "' is called after the block that defines it"));
  }
  if (arguments.positional.size() > macro.parameters.size()) {
    return runtime_.Error(Cat("macro '", macro.name, "' takes not more than ",
                              macro.parameters.size(), " argument(s)"));
  }
  for (const auto& argument : arguments.named) {
    const auto known =
        std::find_if(macro.parameters.begin(), macro.parameters.end(),
                     [&](const auto& parameter) { return parameter.first == argument.first; });
    if (known == macro.parameters.end()) {
      return runtime_.Error(
          Cat("macro '", macro.name, "' takes no keyword argument '", argument.first, "'"));
    }
  }
  const Runtime::Level level(runtime_);
  RETURN_IF_ERROR(level.ok());
  const int line = runtime_.line();
  const int loops = std::exchange(loops_, 0);
  const ScopeGuard scope(*this, callable.scope);
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const auto& [name, otherwise] = macro.parameters[i];
    const Value* given = Argument(arguments, i, name);
    Value value = runtime_.Undefined(Cat("parameter '", name, "' was not provided"));
    if (given != nullptr) {
      value = *given;
    } else if (otherwise != nullptr) {
      ASSIGN_OR_RETURN(value, Evaluate(*otherwise));
    }
    scopes_.back().names[name] = std::move(value);
  }
  Text text;
  RETURN_IF_ERROR(Execute(macro.body, text).status());
  loops_ = loops;
  runtime_.set_line(line);
  return runtime_.MakeString(std::move(text));
}

absl::StatusOr<Value> Evaluator::CallGlobal(std::string_view name, const Arguments& arguments) {
  if (name == "range") return CallRange(arguments);
  if (name == "namespace") return CallNamespace(arguments);
  if (name == "dict") return CallDict(arguments);
  if (name == "strftime_now") return CallNow(arguments);
  const Value* message = Argument(arguments, 0, "message");  // raise_exception
  ASSIGN_OR_RETURN(const Text text,
                   message == nullptr ? absl::StatusOr<Text>(Text()) : runtime_.ToText(*message));
  constexpr size_t kMaxMessageBytes = 1000;
  const std::string_view cut = CutAtCharacter(text.bytes(), kMaxMessageBytes);
  return absl::InvalidArgumentError({cut.data(), cut.size()});
}

absl::StatusOr<Value> Evaluator::CallRange(const Arguments& arguments) {
  int64_t parts[3] = {0, 0, 1};
  const size_t given = arguments.positional.size();
  if (given == 0 || given > 3) return runtime_.Error("range takes one to three integers");
  for (size_t i = 0; i < given; ++i) {
    ASSIGN_OR_RETURN(parts[given == 1 ? 1 : i], IntArgument(runtime_, arguments, i, "range", 0));
  }
  const auto [begin, end, step] = parts;
  if (step == 0) return runtime_.Error("range: the step is 0");
  // 128 bits: the distance of two int64_t has 65.
  const __int128 distance = step > 0 ? __int128{end} - begin : __int128{begin} - end;
  const __int128 stride = step > 0 ? __int128{step} : -__int128{step};
  const __int128 count = distance <= 0 ? 0 : (distance + stride - 1) / stride;
  if (count > kMaxRange) {
    return runtime_.CapError(
        Cat("Range too big. The sandbox blocks ranges larger than ", kMaxRange));
  }
  std::vector<Value> items;
  for (int64_t i = 0; i < static_cast<int64_t>(count); ++i)
    items.push_back(Value(begin + i * step));
  return runtime_.MakeList(std::move(items));
}

absl::StatusOr<Value> Evaluator::CallNamespace(const Arguments& arguments) {
  Value names = runtime_.MakeNamespace();
  if (!arguments.positional.empty()) {
    if (!arguments.positional[0].is_dict())
      return runtime_.Error("namespace takes a dict or names");
    for (const auto& [key, value] : arguments.positional[0].dict().entries) {
      ASSIGN_OR_RETURN(const Text name, runtime_.ToText(key));
      names.names().entries.emplace_back(name.bytes(), value);
    }
  }
  for (const auto& [name, value] : arguments.named) {
    names.names().entries.emplace_back(name, value);
  }
  RETURN_IF_ERROR(runtime_.Charge(8 + names.names().entries.size()));
  return names;
}

absl::StatusOr<Value> Evaluator::CallDict(const Arguments& arguments) {
  std::vector<std::pair<Value, Value>> entries;
  if (!arguments.positional.empty()) {
    if (!arguments.positional[0].is_dict()) return runtime_.Error("dict takes a dict or names");
    entries = arguments.positional[0].dict().entries;
  }
  for (const auto& argument : arguments.named) {
    RETURN_IF_ERROR(runtime_.Charge(1 + entries.size() / 8));
    const auto old = std::find_if(entries.begin(), entries.end(), [&](const auto& entry) {
      return entry.first.is_string() && entry.first.string() == argument.first;
    });
    if (old != entries.end()) {
      old->second = argument.second;
    } else {
      entries.emplace_back(Value::Trusted(argument.first), argument.second);
    }
  }
  return runtime_.MakeDict(std::move(entries));
}

absl::StatusOr<Value> Evaluator::CallNow(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Text format, TextArgument(runtime_, arguments, 0, "format", ""));
  std::tm local = {};
  char buffer[256];
  if (format.empty()) return runtime_.MakeString(Text());
  if (localtime_r(&now_, &local) == nullptr ||
      std::strftime(buffer, sizeof(buffer), format.bytes().c_str(), &local) == 0) {
    return runtime_.Error("strftime_now: the format does not give 1 to 255 bytes");
  }
  return runtime_.MakeString(Text(buffer));
}

}  // namespace tidegate::jinja
