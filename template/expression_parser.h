// Expressions of a template, by recursive descent in Jinja's order of precedence: if-else, or, and,
// not, comparisons, + -, ~, * / // %, **, unary signs, then calls, subscripts, filters and tests.
//
// One parse, one thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "template/ast.h"
#include "template/lexer.h"

namespace tidegate::jinja {

// Where a parser stands in the tokens. The last one is kEnd and is never left.
class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[at_]; }
  const Token& next() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  void Advance() { at_ += at_ + 1 < tokens_.size(); }
  bool Is(Token::Kind kind) const { return current().kind == kind; }
  bool IsName(std::string_view name) const {
    return Is(Token::Kind::kName) && current().text == name;
  }
  bool IsOperator(std::string_view op) const {
    return Is(Token::Kind::kOperator) && current().text == op;
  }
  bool SkipName(std::string_view name);
  bool SkipOperator(std::string_view op);
  absl::Status ExpectOperator(std::string_view op);
  absl::StatusOr<std::string> ExpectName();
  // "line N: unexpected 'x', expected WHAT".
  absl::Status Unexpected(std::string_view expected) const;

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
};

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream& stream) : stream_(stream) {}

  absl::StatusOr<ExprPtr> ParseExpression();
  // One expression, or several with commas between them as a tuple. Without `conditional`, an
  // if-else may only stand in brackets, as after `in` of a for.
  absl::StatusOr<ExprPtr> ParseTuple(bool conditional = true);
  // "name(arguments) | name ..." applied to `input`; the first without its bar.
  absl::StatusOr<ExprPtr> ParseFilters(ExprPtr input);

 private:
  absl::StatusOr<ExprPtr> ParseOr();
  absl::StatusOr<ExprPtr> ParseAnd();
  absl::StatusOr<ExprPtr> ParseNot();
  absl::StatusOr<ExprPtr> ParseComparison();
  absl::StatusOr<ExprPtr> ParseSum();
  absl::StatusOr<ExprPtr> ParseConcat();
  absl::StatusOr<ExprPtr> ParseProduct();
  absl::StatusOr<ExprPtr> ParsePower();
  absl::StatusOr<ExprPtr> ParseUnary(bool with_filters);
  absl::StatusOr<ExprPtr> ParsePrimary();
  absl::StatusOr<ExprPtr> ParseNamed();
  absl::StatusOr<ExprPtr> ParseBracketed();
  absl::StatusOr<ExprPtr> ParseList();
  absl::StatusOr<ExprPtr> ParseDict();
  absl::StatusOr<ExprPtr> ParsePostfix(ExprPtr node);
  absl::StatusOr<ExprPtr> ParseFiltersAndTests(ExprPtr node);
  absl::StatusOr<ExprPtr> ParseFilter(ExprPtr input);
  absl::StatusOr<ExprPtr> ParseTest(ExprPtr input);
  absl::StatusOr<ExprPtr> ParseAttribute(ExprPtr node);
  absl::StatusOr<ExprPtr> ParseSubscript(ExprPtr node);
  absl::StatusOr<ExprPtr> ParseCall(ExprPtr callee);
  absl::Status ParseArguments(Expr& node);
  absl::StatusOr<ExprPtr> ParseBinary(absl::StatusOr<ExprPtr> (ExpressionParser::*operand)(),
                                      const std::vector<std::string_view>& operators);

  ExprPtr NewNode(Expr::Kind kind) const;
  // Sets the height; an error where it is too much.
  absl::StatusOr<ExprPtr> Finished(ExprPtr node) const;

  TokenStream& stream_;
  int depth_ = 0;
};

}  // namespace tidegate::jinja
