// The Evaluator's expressions.
#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "template/cat.h"
#include "template/evaluator.h"
#include "template/filters.h"
#include "template/methods.h"
#include "template/operators.h"

namespace tidegate::jinja {

absl::StatusOr<Value> Evaluator::Evaluate(const Expr& expr) {
  const Runtime::Level level(runtime_);
  const int line = runtime_.line();
  runtime_.set_line(expr.line);
  RETURN_IF_ERROR(level.ok());
  RETURN_IF_ERROR(runtime_.Charge(1));
  absl::StatusOr<Value> value = EvaluateKind(expr);
  runtime_.set_line(line);
  return value;
}

absl::StatusOr<Value> Evaluator::EvaluateKind(const Expr& expr) {
  switch (expr.kind) {
    case Expr::Kind::kConstant:
      return expr.constant;
    case Expr::Kind::kName:
      return EvaluateName(expr);
    case Expr::Kind::kList:
    case Expr::Kind::kTuple: {
      ASSIGN_OR_RETURN(std::vector<Value> items, EvaluateAll(expr.children));
      return runtime_.MakeList(std::move(items), expr.kind == Expr::Kind::kList
                                                     ? List::Kind::kList
                                                     : List::Kind::kTuple);
    }
    case Expr::Kind::kDict:
      return EvaluateDict(expr);
    case Expr::Kind::kAttribute: {
      ASSIGN_OR_RETURN(const Value object, Evaluate(*expr.children[0]));
      return GetAttribute(runtime_, object, expr.name);
    }
    case Expr::Kind::kSubscript: {
      ASSIGN_OR_RETURN(const std::vector<Value> parts, EvaluateAll(expr.children));
      return GetItem(runtime_, parts[0], parts[1]);
    }
    case Expr::Kind::kSlice:
      return EvaluateSlice(expr);
    case Expr::Kind::kCall:
      return EvaluateCall(expr);
    case Expr::Kind::kFilter:
      return EvaluateFilter(expr);
    case Expr::Kind::kTest:
      return EvaluateTest(expr);
    case Expr::Kind::kNot:
    case Expr::Kind::kAnd:
    case Expr::Kind::kOr:
      return EvaluateLogic(expr);
    case Expr::Kind::kNegative:
    case Expr::Kind::kPositive: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*expr.children[0]));
      if (expr.kind == Expr::Kind::kNegative) return Negative(runtime_, value);
      return Arithmetic(runtime_, "+", Value(int64_t{0}), value);
    }
    case Expr::Kind::kCompare:
      return EvaluateCompare(expr);
    case Expr::Kind::kConcat:
      return EvaluateConcat(expr);
    case Expr::Kind::kArithmetic: {
      ASSIGN_OR_RETURN(const std::vector<Value> parts, EvaluateAll(expr.children));
      return Arithmetic(runtime_, expr.operators[0], parts[0], parts[1]);
    }
    case Expr::Kind::kConditional:
      return EvaluateConditional(expr);
  }
  return runtime_.Error("an expression of an unknown kind");
}

absl::StatusOr<std::vector<Value>> Evaluator::EvaluateAll(const std::vector<ExprPtr>& children) {
  std::vector<Value> values;
  values.reserve(children.size());
  for (const ExprPtr& child : children) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*child));
    values.push_back(std::move(value));
  }
  return values;
}

absl::StatusOr<Value> Evaluator::EvaluateName(const Expr& expr) {
  ASSIGN_OR_RETURN(const Value* found, Find(expr.name));
  if (found != nullptr) return *found;
  return runtime_.Undefined(Cat("'", expr.name, "' is undefined"));
}

absl::StatusOr<Value> Evaluator::EvaluateDict(const Expr& expr) {
  ASSIGN_OR_RETURN(const std::vector<Value> values, EvaluateAll(expr.children));
  std::vector<std::pair<Value, Value>> entries;
  for (size_t i = 0; i < values.size(); i += 2) {
    const Value& key = values[i];
    if (!key.is_string() && !key.is_number() && !key.is_none()) {
      return runtime_.Error(Cat("a ", key.KindName(), " cannot be the key of a dict"));
    }
    RETURN_IF_ERROR(runtime_.Charge(1 + entries.size() / 8));
    const auto old = std::find_if(entries.begin(), entries.end(), [&](const auto& entry) {
      return ScalarsEqual(entry.first, key);
    });
    if (old != entries.end()) {
      old->second = values[i + 1];
    } else {
      entries.emplace_back(key, values[i + 1]);
    }
  }
  return runtime_.MakeDict(std::move(entries));
}

// `and` and `or` give one of their operands, `not` a bool.
absl::StatusOr<Value> Evaluator::EvaluateLogic(const Expr& expr) {
  Value value;
  for (const ExprPtr& child : expr.children) {
    ASSIGN_OR_RETURN(value, Evaluate(*child));
    if (expr.kind == Expr::Kind::kNot) return Value(!value.Truth());
    if (value.Truth() == (expr.kind == Expr::Kind::kOr)) break;
  }
  return value;
}

absl::StatusOr<bool> Evaluator::Compare(std::string_view op, const Value& a, const Value& b) {
  if (op == "==") return runtime_.Equal(a, b);
  if (op == "in") return runtime_.Contains(b, a);
  if (op == "<") return runtime_.Less(a, b);
  if (op == ">") return runtime_.Less(b, a);
  absl::StatusOr<bool> opposite = op == "!="       ? runtime_.Equal(a, b)
                                  : op == "not in" ? runtime_.Contains(b, a)
                                  : op == "<="     ? runtime_.Less(b, a)
                                                   : runtime_.Less(a, b);
  RETURN_IF_ERROR(opposite.status());
  return !*opposite;
}

// a < b < c: every neighbouring pair, left to right, up to the first that fails.
absl::StatusOr<Value> Evaluator::EvaluateCompare(const Expr& expr) {
  ASSIGN_OR_RETURN(Value left, Evaluate(*expr.children[0]));
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    ASSIGN_OR_RETURN(Value right, Evaluate(*expr.children[i + 1]));
    ASSIGN_OR_RETURN(const bool holds, Compare(expr.operators[i], left, right));
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

absl::StatusOr<Value> Evaluator::EvaluateConcat(const Expr& expr) {
  ASSIGN_OR_RETURN(const std::vector<Value> values, EvaluateAll(expr.children));
  Text out;
  for (const Value& value : values) {
    ASSIGN_OR_RETURN(const Text text, runtime_.ToText(value));
    RETURN_IF_ERROR(runtime_.Append(text, out));
  }
  return runtime_.MakeString(std::move(out));
}

absl::StatusOr<Value> Evaluator::EvaluateConditional(const Expr& expr) {
  ASSIGN_OR_RETURN(const Value condition, Evaluate(*expr.children[0]));
  if (condition.Truth()) return Evaluate(*expr.children[1]);
  if (expr.children[2] != nullptr) return Evaluate(*expr.children[2]);
  return runtime_.Undefined("the inline if-expression evaluated to false and has no else");
}

absl::StatusOr<Value> Evaluator::EvaluateSlice(const Expr& expr) {
  Value parts[4];
  for (size_t i = 0; i < 4; ++i) {
    if (expr.children[i] == nullptr) continue;
    ASSIGN_OR_RETURN(parts[i], Evaluate(*expr.children[i]));
  }
  return Slice(runtime_, parts[0], parts[1], parts[2], parts[3]);
}

absl::StatusOr<Arguments> Evaluator::EvaluateArguments(const Expr& expr) {
  Arguments arguments;
  for (const auto& [name, child] : expr.arguments) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*child));
    if (name.empty()) {
      arguments.positional.push_back(std::move(value));
    } else {
      arguments.named.emplace_back(name, std::move(value));
    }
  }
  return arguments;
}

absl::StatusOr<Value> Evaluator::EvaluateFilter(const Expr& expr) {
  ASSIGN_OR_RETURN(const Value input, Evaluate(*expr.children[0]));
  ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expr));
  return ApplyFilter(runtime_, expr.name, input, arguments);
}

absl::StatusOr<Value> Evaluator::EvaluateTest(const Expr& expr) {
  ASSIGN_OR_RETURN(const Value input, Evaluate(*expr.children[0]));
  ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expr));
  ASSIGN_OR_RETURN(const bool passes, ApplyTest(runtime_, expr.name, input, arguments));
  return Value(passes);
}

absl::StatusOr<Value> Evaluator::EvaluateCall(const Expr& expr) {
  const Expr& callee = *expr.children[0];
  if (callee.kind != Expr::Kind::kAttribute) {
    ASSIGN_OR_RETURN(const Value function, Evaluate(callee));
    ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expr));
    return Call(function, arguments);
  }
  ASSIGN_OR_RETURN(const Value object, Evaluate(*callee.children[0]));
  ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expr));
  if (HasMethod(object, callee.name)) {
    return CallMethod(runtime_, object, callee.name, arguments);
  }
  if (object.is_loop() && callee.name == "cycle") {
    if (arguments.positional.empty()) return runtime_.Error("no items for cycling given");
    return arguments.positional[object.loop().index0 % arguments.positional.size()];
  }
  ASSIGN_OR_RETURN(const Value function, GetAttribute(runtime_, object, callee.name));
  return Call(function, arguments);
}

}  // namespace tidegate::jinja
