// Walks the tree of a template over variables. One object, one rendering, one thread.
//
// Names live in scopes: the template, each iteration of a loop, a macro's call, a with. They stand
// on a stack; a macro finds the scope that it was defined in by its place, and an identity tells it
// when that scope is gone.
#pragma once

#include <ctime>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "template/ast.h"
#include "template/runtime.h"

namespace tidegate::jinja {

class Evaluator {
 public:
  // `now`: what strftime_now() tells.
  Evaluator(const Limits& limits, std::time_t now) : runtime_(limits), now_(now) {}

  // The text that `block` makes of `variables`. Both must live as long as this does. Call once.
  absl::StatusOr<Text> Run(const Block& block,
                           const std::vector<std::pair<std::string, Value>>& variables);

 private:
  enum class Flow { kNext, kBreak, kContinue };
  struct Scope {
    uint64_t id;
    size_t parent;  // on the stack; its own place for the outermost
    std::unordered_map<std::string_view, Value> names;
  };
  class ScopeGuard;

  absl::StatusOr<Flow> Execute(const Block& block, Text& out);
  absl::StatusOr<Flow> Execute(const Statement& statement, Text& out);
  absl::StatusOr<Flow> ExecuteIf(const Statement& statement, Text& out);
  absl::StatusOr<Flow> ExecuteFor(const Statement& statement, Text& out);
  absl::StatusOr<Flow> ExecuteScope(const Statement& statement, Text& out);
  absl::Status ExecuteSet(const Statement& statement);
  absl::Status ExecuteFilter(const Statement& statement, Text& out);
  void DefineMacro(const Statement& statement);
  absl::StatusOr<std::vector<Value>> LoopItems(const Statement& statement);
  absl::StatusOr<Value> BodyText(const Statement& statement);

  absl::Status Assign(const std::vector<std::string>& targets, const Value& value);
  absl::Status AssignOne(std::string_view target, const Value& value);
  absl::StatusOr<const Value*> Find(std::string_view name);

  absl::StatusOr<Value> Evaluate(const Expr& expr);
  absl::StatusOr<Value> EvaluateKind(const Expr& expr);
  absl::StatusOr<Value> EvaluateName(const Expr& expr);
  absl::StatusOr<Value> EvaluateDict(const Expr& expr);
  absl::StatusOr<Value> EvaluateLogic(const Expr& expr);
  absl::StatusOr<Value> EvaluateCompare(const Expr& expr);
  absl::StatusOr<Value> EvaluateConcat(const Expr& expr);
  absl::StatusOr<Value> EvaluateConditional(const Expr& expr);
  absl::StatusOr<Value> EvaluateSlice(const Expr& expr);
  absl::StatusOr<Value> EvaluateFilter(const Expr& expr);
  absl::StatusOr<Value> EvaluateTest(const Expr& expr);
  absl::StatusOr<Value> EvaluateCall(const Expr& expr);
  absl::StatusOr<std::vector<Value>> EvaluateAll(const std::vector<ExprPtr>& children);
  absl::StatusOr<Arguments> EvaluateArguments(const Expr& expr);
  absl::StatusOr<bool> Compare(std::string_view op, const Value& a, const Value& b);

  // calls.cc
  absl::StatusOr<Value> Call(const Value& callee, const Arguments& arguments);
  absl::StatusOr<Value> CallMacro(const Callable& callable, const Arguments& arguments);
  absl::StatusOr<Value> CallGlobal(std::string_view name, const Arguments& arguments);
  absl::StatusOr<Value> CallRange(const Arguments& arguments);
  absl::StatusOr<Value> CallNamespace(const Arguments& arguments);
  absl::StatusOr<Value> CallDict(const Arguments& arguments);
  absl::StatusOr<Value> CallNow(const Arguments& arguments);

  Runtime runtime_;
  const std::time_t now_;
  std::vector<Scope> scopes_;
  uint64_t next_scope_id_ = 0;
  int loops_ = 0;
};

}  // namespace tidegate::jinja
