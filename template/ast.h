// The syntax tree of a template. Built by parser.h, walked by evaluator.h; never changed in
// between.
//
// height(s) bound every recursion over a tree. Once parsed, any thread may read it.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "template/value.h"

namespace tidegate::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  enum class Kind {
    kConstant,     // constant
    kName,         // name
    kList,         // children
    kTuple,        // children
    kDict,         // children: key, value, key, value, ...
    kAttribute,    // children[0].name
    kSubscript,    // children[0][children[1]]
    kSlice,        // children[0][begin:end:step], absent ones null
    kCall,         // children[0](arguments)
    kFilter,       // children[0] | name(arguments)
    kTest,         // children[0] is name(arguments)
    kNot,          // children[0]
    kNegative,     // -children[0]
    kPositive,     // +children[0]
    kAnd,          // children
    kOr,           // children
    kCompare,      // children[0] operators[0] children[1] operators[1] ...
    kConcat,       // children, ~ between them
    kArithmetic,   // children[0] operators[0] children[1]
    kConditional,  // children: condition, value, other (null if there is none)
  };
  Kind kind;
  int line;
  int height = 1;
  Value constant;
  std::string name;
  std::vector<ExprPtr> children;
  std::vector<std::string> operators;
  // kCall, kFilter, kTest: positional ones have no name. The callee is children[0].
  std::vector<std::pair<std::string, ExprPtr>> arguments;
};

struct Statement;
using Block = std::vector<std::unique_ptr<Statement>>;

// {% macro name(parameters) %}
struct MacroNode {
  std::string name;
  std::vector<std::pair<std::string, ExprPtr>> parameters;  // with defaults; null: none
  Block body;
};

struct Statement {
  enum class Kind {
    kText,      // text
    kOutput,    // {{ expression }}
    kIf,        // branches
    kFor,       // targets in expression if condition: body, otherwise
    kSet,       // targets = expression
    kSetBlock,  // targets[0] = body, through filters
    kMacro,     // macro
    kFilter,    // body through filters
    kScope,     // with, generation: targets[i] = values[i], body
    kBreak,
    kContinue,
  };
  Kind kind;
  int line;
  Text text;
  ExprPtr expression, condition;
  // Names to assign; "a.b" is attribute b of namespace a.
  std::vector<std::string> targets;
  std::vector<ExprPtr> values;
  std::vector<std::pair<ExprPtr, Block>> branches;  // condition null: else
  Block body, otherwise;
  // Filters as expressions whose innermost input (a kConstant) is replaced by the body's text.
  ExprPtr filter;
  std::unique_ptr<MacroNode> macro;
};

}  // namespace tidegate::jinja
