#include "template/expression_parser.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "base/text.h"
#include "template/cat.h"
#include "template/parser.h"

namespace tidegate::jinja {
namespace {

std::string Describe(const Token& token) {
  switch (token.kind) {
    case Token::Kind::kEnd:
      return "the end of the template";
    case Token::Kind::kVariableEnd:
      return "'}}'";
    case Token::Kind::kBlockEnd:
      return "'%}'";
    default:
      return Cat("'", CutAtCharacter(token.text, 40), "'");
  }
}

bool IsComparison(const Token& token) {
  static constexpr std::string_view kOperators[] = {"==", "!=", "<", ">", "<=", ">="};
  return token.kind == Token::Kind::kOperator &&
         std::find(std::begin(kOperators), std::end(kOperators), token.text) !=
             std::end(kOperators);
}

}  // namespace

bool TokenStream::SkipName(std::string_view name) {
  if (!IsName(name)) return false;
  Advance();
  return true;
}

bool TokenStream::SkipOperator(std::string_view op) {
  if (!IsOperator(op)) return false;
  Advance();
  return true;
}

absl::Status TokenStream::ExpectOperator(std::string_view op) {
  return SkipOperator(op) ? absl::OkStatus() : Unexpected(Cat("'", op, "'"));
}

absl::StatusOr<std::string> TokenStream::ExpectName() {
  if (!Is(Token::Kind::kName)) return Unexpected("a name");
  std::string name = current().text;
  Advance();
  return name;
}

absl::Status TokenStream::Unexpected(std::string_view expected) const {
  return SyntaxError(current().line,
                     Cat("unexpected ", Describe(current()), ", expected ", expected));
}

ExprPtr ExpressionParser::NewNode(Expr::Kind kind) const {
  auto node = std::make_unique<Expr>();
  node->kind = kind;
  node->line = stream_.current().line;
  return node;
}

absl::StatusOr<ExprPtr> ExpressionParser::Finished(ExprPtr node) const {
  int height = 0;
  for (const ExprPtr& child : node->children) {
    if (child != nullptr) height = std::max(height, child->height);
  }
  for (const auto& [name, value] : node->arguments) height = std::max(height, value->height);
  node->height = height + 1;
  if (node->height <= kMaxHeight) return node;
  return SyntaxError(node->line, Cat("an expression is nested deeper than ", kMaxHeight));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseExpression() {
  if (depth_ >= kMaxNesting) {
    return SyntaxError(stream_.current().line,
                       Cat("brackets are nested deeper than ", kMaxNesting));
  }
  ++depth_;
  absl::StatusOr<ExprPtr> value = ParseOr();
  while (value.ok() && stream_.IsName("if")) {
    ExprPtr node = NewNode(Expr::Kind::kConditional);
    stream_.Advance();
    ASSIGN_OR_RETURN(ExprPtr condition, ParseOr());
    ExprPtr other;
    if (stream_.SkipName("else")) {
      ASSIGN_OR_RETURN(other, ParseExpression());
    }
    node->children.push_back(std::move(condition));
    node->children.push_back(std::move(*value));
    node->children.push_back(std::move(other));
    value = Finished(std::move(node));
  }
  --depth_;
  return value;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseTuple(bool conditional) {
  ExprPtr tuple = NewNode(Expr::Kind::kTuple);
  bool comma = false;
  for (;;) {
    const bool ends = stream_.Is(Token::Kind::kVariableEnd) || stream_.Is(Token::Kind::kBlockEnd) ||
                      stream_.IsOperator(")");
    if (ends && (comma || stream_.IsOperator(")"))) break;
    ASSIGN_OR_RETURN(ExprPtr item, conditional ? ParseExpression() : ParseOr());
    tuple->children.push_back(std::move(item));
    if (!stream_.SkipOperator(",")) break;
    comma = true;
  }
  if (tuple->children.size() == 1 && !comma) return std::move(tuple->children[0]);
  return Finished(std::move(tuple));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseOr() {
  ASSIGN_OR_RETURN(ExprPtr first, ParseAnd());
  if (!stream_.IsName("or")) return first;
  ExprPtr node = NewNode(Expr::Kind::kOr);
  node->children.push_back(std::move(first));
  while (stream_.SkipName("or")) {
    ASSIGN_OR_RETURN(ExprPtr next, ParseAnd());
    node->children.push_back(std::move(next));
  }
  return Finished(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseAnd() {
  ASSIGN_OR_RETURN(ExprPtr first, ParseNot());
  if (!stream_.IsName("and")) return first;
  ExprPtr node = NewNode(Expr::Kind::kAnd);
  node->children.push_back(std::move(first));
  while (stream_.SkipName("and")) {
    ASSIGN_OR_RETURN(ExprPtr next, ParseNot());
    node->children.push_back(std::move(next));
  }
  return Finished(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseNot() {
  std::vector<ExprPtr> nots;  // a loop: "not not not ..." needs no stack
  while (stream_.IsName("not")) {
    nots.push_back(NewNode(Expr::Kind::kNot));
    stream_.Advance();
  }
  ASSIGN_OR_RETURN(ExprPtr node, ParseComparison());
  for (; !nots.empty(); nots.pop_back()) {
    nots.back()->children.push_back(std::move(node));
    ASSIGN_OR_RETURN(node, Finished(std::move(nots.back())));
  }
  return node;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseComparison() {
  ASSIGN_OR_RETURN(ExprPtr first, ParseSum());
  ExprPtr node = NewNode(Expr::Kind::kCompare);
  for (;;) {
    std::string op;
    if (IsComparison(stream_.current())) {
      op = stream_.current().text;
      stream_.Advance();
    } else if (stream_.SkipName("in")) {
      op = "in";
    } else if (stream_.IsName("not") && stream_.next().kind == Token::Kind::kName &&
               stream_.next().text == "in") {
      stream_.Advance();
      stream_.Advance();
      op = "not in";
    } else {
      break;
    }
    if (node->children.empty()) node->children.push_back(std::move(first));
    ASSIGN_OR_RETURN(ExprPtr operand, ParseSum());
    node->children.push_back(std::move(operand));
    node->operators.push_back(std::move(op));
  }
  if (node->operators.empty()) return first;
  return Finished(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseBinary(
    absl::StatusOr<ExprPtr> (ExpressionParser::*operand)(),
    const std::vector<std::string_view>& operators) {
  ASSIGN_OR_RETURN(ExprPtr left, (this->*operand)());
  for (;;) {
    const auto found = std::find_if(operators.begin(), operators.end(),
                                    [&](std::string_view op) { return stream_.IsOperator(op); });
    if (found == operators.end()) return left;
    ExprPtr node = NewNode(Expr::Kind::kArithmetic);
    stream_.Advance();
    ASSIGN_OR_RETURN(ExprPtr right, (this->*operand)());
    node->operators.emplace_back(*found);
    node->children.push_back(std::move(left));
    node->children.push_back(std::move(right));
    ASSIGN_OR_RETURN(left, Finished(std::move(node)));
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseSum() {
  return ParseBinary(&ExpressionParser::ParseConcat, {"+", "-"});
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseConcat() {
  ASSIGN_OR_RETURN(ExprPtr first, ParseProduct());
  if (!stream_.IsOperator("~")) return first;
  ExprPtr node = NewNode(Expr::Kind::kConcat);
  node->children.push_back(std::move(first));
  while (stream_.SkipOperator("~")) {
    ASSIGN_OR_RETURN(ExprPtr next, ParseProduct());
    node->children.push_back(std::move(next));
  }
  return Finished(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseProduct() {
  return ParseBinary(&ExpressionParser::ParsePower, {"*", "/", "//", "%"});
}

absl::StatusOr<ExprPtr> ExpressionParser::ParsePower() {
  ASSIGN_OR_RETURN(ExprPtr left, ParseUnary(true));
  while (stream_.IsOperator("**")) {
    ExprPtr node = NewNode(Expr::Kind::kArithmetic);
    stream_.Advance();
    ASSIGN_OR_RETURN(ExprPtr right, ParseUnary(true));
    node->operators.emplace_back("**");
    node->children.push_back(std::move(left));
    node->children.push_back(std::move(right));
    ASSIGN_OR_RETURN(left, Finished(std::move(node)));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseUnary(bool with_filters) {
  std::vector<ExprPtr> signs;
  while (stream_.IsOperator("-") || stream_.IsOperator("+")) {
    signs.push_back(
        NewNode(stream_.IsOperator("-") ? Expr::Kind::kNegative : Expr::Kind::kPositive));
    stream_.Advance();
  }
  ASSIGN_OR_RETURN(ExprPtr node, ParsePrimary());
  ASSIGN_OR_RETURN(node, ParsePostfix(std::move(node)));
  for (; !signs.empty(); signs.pop_back()) {
    signs.back()->children.push_back(std::move(node));
    ASSIGN_OR_RETURN(node, Finished(std::move(signs.back())));
  }
  if (!with_filters) return node;
  return ParseFiltersAndTests(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParsePrimary() {
  ExprPtr node = NewNode(Expr::Kind::kConstant);
  const Token& token = stream_.current();
  switch (token.kind) {
    case Token::Kind::kName:
      return ParseNamed();
    case Token::Kind::kString: {
      std::string text;
      for (; stream_.Is(Token::Kind::kString); stream_.Advance()) text += stream_.current().text;
      node->constant = Value::Trusted(text);
      return node;
    }
    case Token::Kind::kInteger:
      node->constant = Value(token.integer);
      stream_.Advance();
      return node;
    case Token::Kind::kFloat:
      node->constant = Value(token.number);
      stream_.Advance();
      return node;
    default:
      return ParseBracketed();
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseNamed() {
  ExprPtr node = NewNode(Expr::Kind::kConstant);
  const std::string& name = stream_.current().text;
  if (name == "true" || name == "True" || name == "false" || name == "False") {
    node->constant = Value(name == "true" || name == "True");
  } else if (name == "none" || name == "None") {
    node->constant = Value(Value::None());
  } else {
    node->kind = Expr::Kind::kName;
    node->name = name;
  }
  stream_.Advance();
  return node;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseBracketed() {
  if (stream_.SkipOperator("(")) {
    ASSIGN_OR_RETURN(ExprPtr inner, ParseTuple());
    RETURN_IF_ERROR(stream_.ExpectOperator(")"));
    return inner;
  }
  if (stream_.IsOperator("[")) return ParseList();
  if (stream_.IsOperator("{")) return ParseDict();
  return stream_.Unexpected("an expression");
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseList() {
  ExprPtr node = NewNode(Expr::Kind::kList);
  RETURN_IF_ERROR(stream_.ExpectOperator("["));
  while (!stream_.SkipOperator("]")) {
    if (!node->children.empty()) {
      RETURN_IF_ERROR(stream_.ExpectOperator(","));
      if (stream_.SkipOperator("]")) break;
    }
    ASSIGN_OR_RETURN(ExprPtr item, ParseExpression());
    node->children.push_back(std::move(item));
  }
  return Finished(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseDict() {
  ExprPtr node = NewNode(Expr::Kind::kDict);
  RETURN_IF_ERROR(stream_.ExpectOperator("{"));
  while (!stream_.SkipOperator("}")) {
    if (!node->children.empty()) {
      RETURN_IF_ERROR(stream_.ExpectOperator(","));
      if (stream_.SkipOperator("}")) break;
    }
    ASSIGN_OR_RETURN(ExprPtr key, ParseExpression());
    RETURN_IF_ERROR(stream_.ExpectOperator(":"));
    ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
    node->children.push_back(std::move(key));
    node->children.push_back(std::move(value));
  }
  return Finished(std::move(node));
}

}  // namespace tidegate::jinja
