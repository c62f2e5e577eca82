// What stands behind a primary: attributes, subscripts, calls, filters and tests.
#include <utility>

#include "base/status_macros.h"
#include "template/expression_parser.h"

namespace tidegate::jinja {

absl::StatusOr<ExprPtr> ExpressionParser::ParsePostfix(ExprPtr node) {
  for (;;) {
    absl::StatusOr<ExprPtr> next;
    if (stream_.IsOperator(".")) {
      next = ParseAttribute(std::move(node));
    } else if (stream_.IsOperator("[")) {
      next = ParseSubscript(std::move(node));
    } else if (stream_.IsOperator("(")) {
      next = ParseCall(std::move(node));
    } else {
      return node;
    }
    ASSIGN_OR_RETURN(node, std::move(next));
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseFiltersAndTests(ExprPtr node) {
  for (;;) {
    absl::StatusOr<ExprPtr> next;
    if (stream_.SkipOperator("|")) {
      next = ParseFilter(std::move(node));
    } else if (stream_.SkipName("is")) {
      next = ParseTest(std::move(node));
    } else if (stream_.IsOperator("(")) {
      next = ParseCall(std::move(node));
    } else {
      return node;
    }
    ASSIGN_OR_RETURN(node, std::move(next));
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseFilters(ExprPtr input) {
  ASSIGN_OR_RETURN(ExprPtr node, ParseFilter(std::move(input)));
  while (stream_.SkipOperator("|")) {
    ASSIGN_OR_RETURN(node, ParseFilter(std::move(node)));
  }
  return node;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseFilter(ExprPtr input) {
  ExprPtr node = NewNode(Expr::Kind::kFilter);
  ASSIGN_OR_RETURN(node->name, stream_.ExpectName());
  node->children.push_back(std::move(input));
  if (stream_.IsOperator("(")) RETURN_IF_ERROR(ParseArguments(*node));
  return Finished(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseTest(ExprPtr input) {
  ExprPtr negation = stream_.IsName("not") ? NewNode(Expr::Kind::kNot) : nullptr;
  if (negation != nullptr) stream_.Advance();
  ExprPtr node = NewNode(Expr::Kind::kTest);
  ASSIGN_OR_RETURN(node->name, stream_.ExpectName());
  node->children.push_back(std::move(input));
  const Token& token = stream_.current();
  const bool value_follows =
      token.kind == Token::Kind::kString || token.kind == Token::Kind::kInteger ||
      token.kind == Token::Kind::kFloat || stream_.IsOperator("[") || stream_.IsOperator("{") ||
      (token.kind == Token::Kind::kName && token.text != "else" && token.text != "or" &&
       token.text != "and" && token.text != "is" && token.text != "if" && token.text != "not" &&
       token.text != "in");
  if (stream_.IsOperator("(")) {
    RETURN_IF_ERROR(ParseArguments(*node));
  } else if (value_follows) {
    ASSIGN_OR_RETURN(ExprPtr argument, ParsePrimary());
    ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    node->arguments.emplace_back("", std::move(argument));
  }
  ASSIGN_OR_RETURN(node, Finished(std::move(node)));
  if (negation == nullptr) return node;
  negation->children.push_back(std::move(node));
  return Finished(std::move(negation));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseAttribute(ExprPtr object) {
  RETURN_IF_ERROR(stream_.ExpectOperator("."));
  ExprPtr node = NewNode(Expr::Kind::kAttribute);
  node->children.push_back(std::move(object));
  if (stream_.Is(Token::Kind::kInteger)) {
    ExprPtr index = NewNode(Expr::Kind::kConstant);
    index->constant = Value(stream_.current().integer);
    stream_.Advance();
    node->kind = Expr::Kind::kSubscript;
    node->children.push_back(std::move(index));
  } else {
    ASSIGN_OR_RETURN(node->name, stream_.ExpectName());
  }
  return Finished(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseSubscript(ExprPtr object) {
  RETURN_IF_ERROR(stream_.ExpectOperator("["));
  ExprPtr node = NewNode(Expr::Kind::kSubscript);
  node->children.push_back(std::move(object));
  std::vector<ExprPtr> parts(1);  // begin, end, step
  while (!stream_.IsOperator("]")) {
    if (stream_.SkipOperator(":")) {
      if (parts.size() == 3) return stream_.Unexpected("']'");
      parts.emplace_back();
      continue;
    }
    if (parts.back() != nullptr) return stream_.Unexpected("']'");
    ASSIGN_OR_RETURN(parts.back(), ParseExpression());
  }
  if (parts.size() == 1 && parts[0] == nullptr) return stream_.Unexpected("an index");
  RETURN_IF_ERROR(stream_.ExpectOperator("]"));
  if (parts.size() > 1) {
    node->kind = Expr::Kind::kSlice;
    parts.resize(3);
  }
  for (ExprPtr& part : parts) node->children.push_back(std::move(part));
  return Finished(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseCall(ExprPtr callee) {
  ExprPtr node = NewNode(Expr::Kind::kCall);
  node->children.push_back(std::move(callee));
  RETURN_IF_ERROR(ParseArguments(*node));
  return Finished(std::move(node));
}

absl::Status ExpressionParser::ParseArguments(Expr& node) {
  RETURN_IF_ERROR(stream_.ExpectOperator("("));
  while (!stream_.SkipOperator(")")) {
    if (!node.arguments.empty()) {
      RETURN_IF_ERROR(stream_.ExpectOperator(","));
      if (stream_.SkipOperator(")")) break;
    }
    if (stream_.IsOperator("*") || stream_.IsOperator("**")) {
      return SyntaxError(stream_.current().line, "* and ** in calls are not supported");
    }
    std::string name;
    if (stream_.Is(Token::Kind::kName) && stream_.next().kind == Token::Kind::kOperator &&
        stream_.next().text == "=") {
      name = stream_.current().text;
      stream_.Advance();
      stream_.Advance();
    } else if (!node.arguments.empty() && !node.arguments.back().first.empty()) {
      return stream_.Unexpected("a named argument");
    }
    ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
    node.arguments.emplace_back(std::move(name), std::move(value));
  }
  return absl::OkStatus();
}

}  // namespace tidegate::jinja
