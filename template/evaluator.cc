#include "template/evaluator.h"

#include <algorithm>

#include "base/status_macros.h"
#include "base/text.h"
#include "template/cat.h"
#include "template/filters.h"
#include "template/methods.h"
#include "template/operators.h"
#include "template/scope_guard.h"

namespace tidegate::jinja {

absl::StatusOr<Text> Evaluator::Run(const Block& block,
                                    const std::vector<std::pair<std::string, Value>>& variables) {
  const ScopeGuard scope(*this);
  for (const std::string_view name :
       {"range", "namespace", "dict", "raise_exception", "strftime_now"}) {
    auto callable = std::make_shared<Callable>();
    callable->name = std::string(name);
    callable->global = true;
    scopes_.back().names[name] = Value(std::shared_ptr<const Callable>(std::move(callable)));
  }
  for (const auto& [name, value] : variables) {
    if (value.depth() > runtime_.limits().value_depth) {
      return runtime_.CapError(Cat(name, " is nested deeper than ", runtime_.limits().value_depth));
    }
    scopes_.back().names[name] = value;
  }
  Text out;
  RETURN_IF_ERROR(Execute(block, out).status());
  return out;
}

absl::StatusOr<Evaluator::Flow> Evaluator::Execute(const Block& block, Text& out) {
  const Runtime::Level level(runtime_);
  RETURN_IF_ERROR(level.ok());
  for (const std::unique_ptr<Statement>& statement : block) {
    runtime_.set_line(statement->line);
    RETURN_IF_ERROR(runtime_.Charge(1));
    ASSIGN_OR_RETURN(const Flow flow, Execute(*statement, out));
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

absl::StatusOr<Evaluator::Flow> Evaluator::Execute(const Statement& statement, Text& out) {
  switch (statement.kind) {
    case Statement::Kind::kText:
      RETURN_IF_ERROR(runtime_.Append(statement.text, out));
      return Flow::kNext;
    case Statement::Kind::kOutput: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.expression));
      runtime_.set_line(statement.line);
      if (value.is_string()) {
        RETURN_IF_ERROR(runtime_.Append(value.text(), out));
      } else {
        ASSIGN_OR_RETURN(const Text text, runtime_.ToText(value));
        RETURN_IF_ERROR(runtime_.Append(text, out));
      }
      return Flow::kNext;
    }
    case Statement::Kind::kIf:
      return ExecuteIf(statement, out);
    case Statement::Kind::kFor:
      return ExecuteFor(statement, out);
    case Statement::Kind::kScope:
      return ExecuteScope(statement, out);
    case Statement::Kind::kSet:
    case Statement::Kind::kSetBlock:
      RETURN_IF_ERROR(ExecuteSet(statement));
      return Flow::kNext;
    case Statement::Kind::kFilter:
      RETURN_IF_ERROR(ExecuteFilter(statement, out));
      return Flow::kNext;
    case Statement::Kind::kMacro:
      DefineMacro(statement);
      return Flow::kNext;
    case Statement::Kind::kBreak:
      return Flow::kBreak;
    case Statement::Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

absl::StatusOr<Evaluator::Flow> Evaluator::ExecuteIf(const Statement& statement, Text& out) {
  for (const auto& [condition, body] : statement.branches) {
    if (condition != nullptr) {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*condition));
      if (!value.Truth()) continue;
    }
    return Execute(body, out);
  }
  return Flow::kNext;
}

absl::StatusOr<std::vector<Value>> Evaluator::LoopItems(const Statement& statement) {
  ASSIGN_OR_RETURN(const Value iterable, Evaluate(*statement.expression));
  ASSIGN_OR_RETURN(std::vector<Value> items, runtime_.Items(iterable));
  if (statement.condition == nullptr) return items;
  std::vector<Value> kept;
  for (Value& item : items) {
    const ScopeGuard scope(*this);
    RETURN_IF_ERROR(Assign(statement.targets, item));
    ASSIGN_OR_RETURN(const Value keep, Evaluate(*statement.condition));
    if (keep.Truth()) kept.push_back(std::move(item));
  }
  return kept;
}

absl::StatusOr<Evaluator::Flow> Evaluator::ExecuteFor(const Statement& statement, Text& out) {
  ASSIGN_OR_RETURN(std::vector<Value> all, LoopItems(statement));
  const auto items = std::make_shared<const std::vector<Value>>(std::move(all));
  if (items->empty()) return Execute(statement.otherwise, out);
  int depth = 0;  // a template may keep `loop`, and its items with it
  for (const Value& item : *items) depth = std::max(depth, item.depth());
  ++loops_;
  for (size_t i = 0; i < items->size(); ++i) {
    RETURN_IF_ERROR(runtime_.Charge(1));
    const ScopeGuard scope(*this);
    scopes_.back().names["loop"] =
        Value(std::make_shared<const Loop>(Loop{items, i, loops_, depth + 1}));
    runtime_.set_line(statement.line);
    RETURN_IF_ERROR(Assign(statement.targets, (*items)[i]));
    ASSIGN_OR_RETURN(const Flow flow, Execute(statement.body, out));
    if (flow == Flow::kBreak) break;
  }
  --loops_;
  return Flow::kNext;
}

absl::StatusOr<Evaluator::Flow> Evaluator::ExecuteScope(const Statement& statement, Text& out) {
  ASSIGN_OR_RETURN(const std::vector<Value> values, EvaluateAll(statement.values));
  const ScopeGuard scope(*this);
  for (size_t i = 0; i < values.size(); ++i) {
    scopes_.back().names[statement.targets[i]] = values[i];
  }
  return Execute(statement.body, out);
}

absl::StatusOr<Value> Evaluator::BodyText(const Statement& statement) {
  const ScopeGuard scope(*this);
  Text text;
  RETURN_IF_ERROR(Execute(statement.body, text).status());
  ASSIGN_OR_RETURN(Value value, runtime_.MakeString(std::move(text)));
  if (statement.filter == nullptr) return value;
  scopes_.back().names[""] = std::move(value);
  return Evaluate(*statement.filter);
}

absl::Status Evaluator::ExecuteSet(const Statement& statement) {
  ASSIGN_OR_RETURN(const Value value, statement.kind == Statement::Kind::kSet
                                          ? Evaluate(*statement.expression)
                                          : BodyText(statement));
  runtime_.set_line(statement.line);
  return Assign(statement.targets, value);
}

absl::Status Evaluator::ExecuteFilter(const Statement& statement, Text& out) {
  ASSIGN_OR_RETURN(const Value value, BodyText(statement));
  ASSIGN_OR_RETURN(const Text text, runtime_.ToText(value));
  return runtime_.Append(text, out);
}

void Evaluator::DefineMacro(const Statement& statement) {
  auto callable = std::make_shared<Callable>();
  callable->name = statement.macro->name;
  callable->macro = statement.macro.get();
  callable->scope = scopes_.size() - 1;
  callable->scope_id = scopes_.back().id;
  scopes_.back().names[statement.macro->name] =
      Value(std::shared_ptr<const Callable>(std::move(callable)));
}

absl::Status Evaluator::Assign(const std::vector<std::string>& targets, const Value& value) {
  if (targets.size() == 1) return AssignOne(targets[0], value);
  ASSIGN_OR_RETURN(const std::vector<Value> items, runtime_.Items(value));
  if (items.size() != targets.size()) {
    return runtime_.Error(Cat(items.size(), " values to unpack into ", targets.size(), " names"));
  }
  for (size_t i = 0; i < targets.size(); ++i) RETURN_IF_ERROR(AssignOne(targets[i], items[i]));
  return absl::OkStatus();
}

absl::Status Evaluator::AssignOne(std::string_view target, const Value& value) {
  const size_t dot = target.find('.');
  if (dot == std::string_view::npos) {
    scopes_.back().names[target] = value;
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const Value* object, Find(target.substr(0, dot)));
  if (object == nullptr || !object->is_namespace()) {
    return runtime_.Error(Cat("cannot assign attribute on non-namespace object '",
                              CutAtCharacter(target.substr(0, dot), kShownBytes), "'"));
  }
  auto& entries = object->names().entries;
  const std::string_view name = target.substr(dot + 1);
  RETURN_IF_ERROR(runtime_.Charge(entries.size() / 8));
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const auto& entry) { return entry.first == name; });
  if (found != entries.end()) {
    found->second = value;
  } else {
    entries.emplace_back(std::string(name), value);
  }
  return absl::OkStatus();
}

absl::StatusOr<const Value*> Evaluator::Find(std::string_view name) {
  for (size_t at = scopes_.size() - 1;; at = scopes_[at].parent) {
    RETURN_IF_ERROR(runtime_.Charge(1));
    const auto found = scopes_[at].names.find(name);
    if (found != scopes_[at].names.end()) return &found->second;
    if (scopes_[at].parent == at) return nullptr;
  }
}

}  // namespace tidegate::jinja
