// A scope of names on the evaluator's stack, as long as it lives. Only for evaluator.cc and
// calls.cc, on the thread of their evaluator.
#pragma once

#include <optional>

#include "template/evaluator.h"

namespace tidegate::jinja {

class Evaluator::ScopeGuard {
 public:
  explicit ScopeGuard(Evaluator& evaluator)
      : ScopeGuard(evaluator, evaluator.scopes_.empty() ? 0 : evaluator.scopes_.size() - 1) {}
  ScopeGuard(Evaluator& evaluator, size_t parent) : evaluator_(evaluator) {
    evaluator_.scopes_.push_back({evaluator_.next_scope_id_++, parent, {}});
  }
  ~ScopeGuard() { evaluator_.scopes_.pop_back(); }
  ScopeGuard(const ScopeGuard&) = delete;
  ScopeGuard& operator=(const ScopeGuard&) = delete;

 private:
  Evaluator& evaluator_;
};

}  // namespace tidegate::jinja
