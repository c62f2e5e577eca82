#include "template/parser.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "template/cat.h"
#include "template/expression_parser.h"

namespace tidegate::jinja {
namespace {

using StatementPtr = std::unique_ptr<Statement>;
using Names = std::vector<std::string_view>;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : stream_(std::move(tokens)), expressions_(stream_) {}

  absl::StatusOr<Block> Run() {
    ASSIGN_OR_RETURN(Block block, ParseBlock({}));
    if (!stream_.Is(Token::Kind::kEnd)) return stream_.Unexpected("the end of the template");
    return block;
  }

 private:
  StatementPtr New(Statement::Kind kind) const {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = stream_.current().line;
    return statement;
  }

  absl::Status ExpectBlockEnd() {
    if (!stream_.Is(Token::Kind::kBlockEnd)) return stream_.Unexpected("'%}'");
    stream_.Advance();
    return absl::OkStatus();
  }

  // Statements up to a tag named in `ends`, whose name is the current token then; without any, up
  // to the end of the source.
  absl::StatusOr<Block> ParseBlock(const Names& ends) {
    if (nesting_ >= kMaxNesting) {
      return SyntaxError(stream_.current().line,
                         Cat("blocks are nested deeper than ", kMaxNesting));
    }
    ++nesting_;
    Block block;
    for (;;) {
      if (stream_.Is(Token::Kind::kEnd)) {
        if (!ends.empty()) return stream_.Unexpected(Cat("{% ", ends.back(), " %}"));
        break;
      }
      if (stream_.Is(Token::Kind::kBlockBegin)) {
        stream_.Advance();
        const bool is_end =
            stream_.Is(Token::Kind::kName) &&
            std::find(ends.begin(), ends.end(), stream_.current().text) != ends.end();
        if (is_end) break;
        ASSIGN_OR_RETURN(StatementPtr statement, ParseTag());
        block.push_back(std::move(statement));
      } else {
        ASSIGN_OR_RETURN(StatementPtr statement, ParseTextOrOutput());
        block.push_back(std::move(statement));
      }
    }
    --nesting_;
    return block;
  }

  // ParseBlock() with the end tag taken.
  absl::StatusOr<Block> ParseBody(std::string_view end) {
    ASSIGN_OR_RETURN(Block block, ParseBlock({end}));
    stream_.Advance();
    RETURN_IF_ERROR(ExpectBlockEnd());
    return block;
  }

  absl::StatusOr<StatementPtr> ParseTextOrOutput() {
    if (stream_.Is(Token::Kind::kData)) {
      StatementPtr statement = New(Statement::Kind::kText);
      statement->text = Text(stream_.current().text);
      stream_.Advance();
      return statement;
    }
    StatementPtr statement = New(Statement::Kind::kOutput);
    stream_.Advance();  // {{
    ASSIGN_OR_RETURN(statement->expression, expressions_.ParseTuple());
    if (!stream_.Is(Token::Kind::kVariableEnd)) return stream_.Unexpected("'}}'");
    stream_.Advance();
    return statement;
  }

  absl::StatusOr<StatementPtr> ParseTag() {
    using Method = absl::StatusOr<StatementPtr> (Parser::*)();
    static constexpr std::pair<std::string_view, Method> kTags[] = {
        {"if", &Parser::ParseIf},
        {"for", &Parser::ParseFor},
        {"set", &Parser::ParseSet},
        {"macro", &Parser::ParseMacro},
        {"filter", &Parser::ParseFilter},
        {"with", &Parser::ParseWith},
        {"break", &Parser::ParseJump},
        {"continue", &Parser::ParseJump},
        {"generation", &Parser::ParseGeneration},
    };
    for (const auto& [name, method] : kTags) {
      if (stream_.IsName(name)) return (this->*method)();
    }
    const auto names = absl::StrJoin(
        kTags, ", ", [](std::string* out, const auto& tag) { out->append(tag.first); });
    return stream_.Unexpected(Cat("one of ", names, ", raw; no other tag is supported"));
  }

  absl::StatusOr<StatementPtr> ParseIf() {
    StatementPtr statement = New(Statement::Kind::kIf);
    do {  // at "if" or "elif"
      stream_.Advance();
      ASSIGN_OR_RETURN(ExprPtr condition, expressions_.ParseTuple());
      RETURN_IF_ERROR(ExpectBlockEnd());
      ASSIGN_OR_RETURN(Block body, ParseBlock({"elif", "else", "endif"}));
      statement->branches.emplace_back(std::move(condition), std::move(body));
    } while (stream_.IsName("elif"));
    if (stream_.SkipName("else")) {
      RETURN_IF_ERROR(ExpectBlockEnd());
      ASSIGN_OR_RETURN(Block body, ParseBlock({"endif"}));
      statement->branches.emplace_back(nullptr, std::move(body));
    }
    stream_.Advance();
    RETURN_IF_ERROR(ExpectBlockEnd());
    return statement;
  }

  // "a", "a, b" or "(a, b)"; with_namespace: "a.b" as well.
  absl::StatusOr<std::vector<std::string>> ParseTargets(bool with_namespace) {
    std::vector<std::string> targets;
    const bool bracket = stream_.SkipOperator("(");
    do {
      if (!targets.empty() && !stream_.Is(Token::Kind::kName)) break;  // a comma at the end
      ASSIGN_OR_RETURN(std::string name, stream_.ExpectName());
      static constexpr std::string_view kConstants[] = {"true", "false", "none",
                                                        "True", "False", "None"};
      if (std::find(std::begin(kConstants), std::end(kConstants), name) != std::end(kConstants)) {
        return SyntaxError(stream_.current().line, Cat("cannot assign to ", name));
      }
      if (with_namespace && stream_.SkipOperator(".")) {
        ASSIGN_OR_RETURN(const std::string attribute, stream_.ExpectName());
        name += Cat(".", attribute);
      }
      targets.push_back(std::move(name));
    } while (stream_.SkipOperator(","));
    if (bracket) RETURN_IF_ERROR(stream_.ExpectOperator(")"));
    return targets;
  }

  absl::StatusOr<StatementPtr> ParseFor() {
    StatementPtr statement = New(Statement::Kind::kFor);
    stream_.Advance();
    ASSIGN_OR_RETURN(statement->targets, ParseTargets(/*with_namespace=*/false));
    if (!stream_.SkipName("in")) return stream_.Unexpected("'in'");
    ASSIGN_OR_RETURN(statement->expression, expressions_.ParseTuple(/*conditional=*/false));
    if (stream_.SkipName("if")) {
      ASSIGN_OR_RETURN(statement->condition, expressions_.ParseExpression());
    }
    if (stream_.IsName("recursive")) {
      return SyntaxError(stream_.current().line, "recursive loops are not supported; use a macro");
    }
    RETURN_IF_ERROR(ExpectBlockEnd());
    ++loops_;
    ASSIGN_OR_RETURN(statement->body, ParseBlock({"else", "endfor"}));
    --loops_;
    if (stream_.SkipName("else")) {
      RETURN_IF_ERROR(ExpectBlockEnd());
      ASSIGN_OR_RETURN(statement->otherwise, ParseBlock({"endfor"}));
    }
    stream_.Advance();
    RETURN_IF_ERROR(ExpectBlockEnd());
    return statement;
  }

  absl::StatusOr<StatementPtr> ParseSet() {
    StatementPtr statement = New(Statement::Kind::kSet);
    stream_.Advance();
    ASSIGN_OR_RETURN(statement->targets, ParseTargets(/*with_namespace=*/true));
    if (stream_.SkipOperator("=")) {
      ASSIGN_OR_RETURN(statement->expression, expressions_.ParseTuple());
      RETURN_IF_ERROR(ExpectBlockEnd());
      return statement;
    }
    statement->kind = Statement::Kind::kSetBlock;
    if (statement->targets.size() != 1) return stream_.Unexpected("'='");
    if (stream_.SkipOperator("|")) {
      ASSIGN_OR_RETURN(statement->filter, expressions_.ParseFilters(Input()));
    }
    RETURN_IF_ERROR(ExpectBlockEnd());
    ASSIGN_OR_RETURN(statement->body, ParseBody("endset"));
    return statement;
  }

  // What a filter block works on: the name "", which no template can write.
  ExprPtr Input() const {
    auto input = std::make_unique<Expr>();
    input->kind = Expr::Kind::kName;
    input->line = stream_.current().line;
    return input;
  }

  absl::StatusOr<StatementPtr> ParseFilter() {
    StatementPtr statement = New(Statement::Kind::kFilter);
    stream_.Advance();
    ASSIGN_OR_RETURN(statement->filter, expressions_.ParseFilters(Input()));
    RETURN_IF_ERROR(ExpectBlockEnd());
    ASSIGN_OR_RETURN(statement->body, ParseBody("endfilter"));
    return statement;
  }

  absl::StatusOr<StatementPtr> ParseMacro() {
    StatementPtr statement = New(Statement::Kind::kMacro);
    stream_.Advance();
    statement->macro = std::make_unique<MacroNode>();
    MacroNode& macro = *statement->macro;
    ASSIGN_OR_RETURN(macro.name, stream_.ExpectName());
    RETURN_IF_ERROR(stream_.ExpectOperator("("));
    while (!stream_.SkipOperator(")")) {
      if (!macro.parameters.empty()) RETURN_IF_ERROR(stream_.ExpectOperator(","));
      ASSIGN_OR_RETURN(std::string name, stream_.ExpectName());
      ExprPtr value;
      if (stream_.SkipOperator("=")) {
        ASSIGN_OR_RETURN(value, expressions_.ParseExpression());
      } else if (!macro.parameters.empty() && macro.parameters.back().second != nullptr) {
        return stream_.Unexpected("a default, as the parameter before has one");
      }
      macro.parameters.emplace_back(std::move(name), std::move(value));
    }
    RETURN_IF_ERROR(ExpectBlockEnd());
    const int loops = std::exchange(loops_, 0);
    ASSIGN_OR_RETURN(macro.body, ParseBody("endmacro"));
    loops_ = loops;
    return statement;
  }

  absl::StatusOr<StatementPtr> ParseWith() {
    StatementPtr statement = New(Statement::Kind::kScope);
    stream_.Advance();
    while (!stream_.Is(Token::Kind::kBlockEnd)) {
      if (!statement->targets.empty()) RETURN_IF_ERROR(stream_.ExpectOperator(","));
      ASSIGN_OR_RETURN(std::string name, stream_.ExpectName());
      RETURN_IF_ERROR(stream_.ExpectOperator("="));
      ASSIGN_OR_RETURN(ExprPtr value, expressions_.ParseExpression());
      statement->targets.push_back(std::move(name));
      statement->values.push_back(std::move(value));
    }
    stream_.Advance();
    ASSIGN_OR_RETURN(statement->body, ParseBody("endwith"));
    return statement;
  }

  // Marks the assistant's words for training; here it is only a scope.
  absl::StatusOr<StatementPtr> ParseGeneration() {
    StatementPtr statement = New(Statement::Kind::kScope);
    stream_.Advance();
    RETURN_IF_ERROR(ExpectBlockEnd());
    ASSIGN_OR_RETURN(statement->body, ParseBody("endgeneration"));
    return statement;
  }

  absl::StatusOr<StatementPtr> ParseJump() {
    const bool is_break = stream_.IsName("break");
    StatementPtr statement = New(is_break ? Statement::Kind::kBreak : Statement::Kind::kContinue);
    if (loops_ == 0) {
      return SyntaxError(stream_.current().line, Cat(stream_.current().text, " outside of a loop"));
    }
    stream_.Advance();
    RETURN_IF_ERROR(ExpectBlockEnd());
    return statement;
  }

  TokenStream stream_;
  ExpressionParser expressions_;
  int nesting_ = 0;
  int loops_ = 0;
};

}  // namespace

absl::StatusOr<Block> ParseTemplate(std::string_view source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace tidegate::jinja
