#include "template/lexer.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "absl/strings/ascii.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "template/cat.h"
#include "template/characters.h"
#include "template/string_literal.h"

namespace tidegate::jinja {
namespace {

bool IsNameStart(char c) {
  return absl::ascii_isalpha(static_cast<unsigned char>(c)) || c == '_' || (c & 0x80) != 0;
}
bool IsNamePart(char c) {
  return IsNameStart(c) || absl::ascii_isdigit(static_cast<unsigned char>(c));
}
bool IsDigitByte(char c) { return absl::ascii_isdigit(static_cast<unsigned char>(c)); }

// Line breaks as "\n", the last one dropped.
std::string Normalised(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out.push_back(source[i]);
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) {
      const size_t tag = FindTag();
      const char kind = tag < source_.size() ? source_[tag + 1] : '\0';
      TakeData(tag, kind);
      if (kind == '\0') break;
      if (kind == '#') {
        RETURN_IF_ERROR(SkipComment());
      } else if (kind == '%' && IsRaw()) {
        RETURN_IF_ERROR(TakeRaw());
      } else {
        RETURN_IF_ERROR(TakeTag(kind));
      }
    }
    Add(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  std::string_view Rest() const { return std::string_view(source_).substr(at_); }
  bool Starts(std::string_view what) const { return Rest().substr(0, what.size()) == what; }
  char Peek(size_t ahead = 0) const {
    return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0';
  }

  void Add(Token::Kind kind, std::string text) {
    tokens_.push_back({.kind = kind, .line = line_, .text = std::move(text)});
  }

  void Advance(size_t bytes) {
    for (const size_t end = at_ + bytes; at_ < end; ++at_) line_ += source_[at_] == '\n';
  }

  // Where the next {{, {% or {# begins; the end of the source if there is none.
  size_t FindTag() const {
    for (size_t at = at_; (at = source_.find('{', at)) != std::string::npos; ++at) {
      if (at + 1 == source_.size()) break;
      const char next = source_[at + 1];
      if (next == '{' || next == '%' || next == '#') return at;
    }
    return source_.size();
  }

  // The text up to `tag`, shortened as the tag's sign ('-', '+', none) asks, and the tag's opening.
  void TakeData(size_t tag, char kind) {
    std::string_view text = std::string_view(source_).substr(at_, tag - at_);
    const char sign = kind != '\0' && tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    if (kind != '\0' && sign == '-') {
      text = StripEnd(text);
    } else if (kind == '%' || kind == '#') {
      if (sign != '+') text = StripLine(text);
    }
    if (!text.empty()) Add(Token::Kind::kData, std::string(text));
    Advance(tag - at_);
    if (kind == '\0') return;
    Advance(2);
    if (sign == '-' || (sign == '+' && kind != '{')) Advance(1);
  }

  static std::string_view StripEnd(std::string_view text) {
    while (!text.empty()) {
      const size_t last = PreviousCharacter(text, text.size());
      if (!IsSpace(CodePointAt(text, last))) break;
      text = text.substr(0, last);
    }
    return text;
  }

  // Drops blanks between the beginning of the line and its end.
  std::string_view StripLine(std::string_view text) const {
    const size_t line = text.rfind('\n') + 1;  // 0 if there is none
    if (line == 0 && !line_starting_) return text;
    for (size_t i = line; i < text.size(); i = NextCharacter(text, i)) {
      if (!IsSpace(CodePointAt(text, i))) return text;
    }
    return text.substr(0, line);
  }

  void SkipBlanks() {
    while (at_ < source_.size() && IsSpace(CodePointAt(source_, at_))) {
      Advance(NextCharacter(source_, at_) - at_);
    }
  }

  // Takes the end of a block or comment ("%}" with its sign) and what it swallows; false if it is
  // not here.
  bool TakeEnd(std::string_view end) {
    const char sign = Peek();
    if (sign == '-' && Rest().substr(1, 2) == end) {
      const size_t begin = at_;
      Advance(3);
      SkipBlanks();
      NoteEnd(begin);
      return true;
    }
    if (sign == '+' && end != "}}" && Rest().substr(1, 2) == end) {
      Advance(3);
      line_starting_ = false;
      return true;
    }
    if (!Starts(end)) return false;
    const size_t begin = at_;
    Advance(2);
    if (end != "}}" && Peek() == '\n') Advance(1);
    NoteEnd(begin);
    return true;
  }

  void NoteEnd(size_t begin) { line_starting_ = at_ > begin && source_[at_ - 1] == '\n'; }

  absl::Status SkipComment() {
    const int line = line_;
    while (at_ < source_.size()) {
      if (TakeEnd("#}")) return absl::OkStatus();
      Advance(1);
    }
    return SyntaxError(line, "a comment {# has no end #}");
  }

  // Whether the tag whose opening was taken is {% raw %}.
  bool IsRaw() const {
    size_t at = at_;
    while (at < source_.size() && absl::ascii_isspace(static_cast<unsigned char>(source_[at])))
      ++at;
    if (source_.compare(at, 3, "raw") != 0) return false;
    at += 3;
    while (at < source_.size() && absl::ascii_isspace(static_cast<unsigned char>(source_[at])))
      ++at;
    return source_.compare(at, 2, "%}") == 0 || source_.compare(at, 3, "-%}") == 0;
  }

  absl::Status TakeRaw() {
    const int line = line_;
    const size_t close = source_.find("%}", at_);
    const bool strips = source_[close - 1] == '-';
    Advance(close + 2 - at_);
    if (strips) SkipBlanks();
    line_starting_ = source_[at_ - 1] == '\n';
    for (size_t tag = at_; (tag = source_.find("{%", tag)) != std::string::npos; tag += 2) {
      size_t name = tag + 2;
      if (name < source_.size() && (source_[name] == '-' || source_[name] == '+')) ++name;
      while (name < source_.size() &&
             absl::ascii_isspace(static_cast<unsigned char>(source_[name]))) {
        ++name;
      }
      if (source_.compare(name, 6, "endraw") != 0) continue;
      TakeData(tag, '%');
      Advance(name + 6 - at_);
      SkipBlanks();
      if (TakeEnd("%}")) return absl::OkStatus();
      return SyntaxError(line_, "{% endraw takes nothing but %}");
    }
    return SyntaxError(line, "{% raw %} has no {% endraw %}");
  }

  absl::Status TakeTag(char kind) {
    const bool variable = kind == '{';
    const int line = line_;
    Add(variable ? Token::Kind::kVariableBegin : Token::Kind::kBlockBegin, "");
    std::string open;  // brackets that wait for their partner
    for (;;) {
      SkipBlanks();
      if (at_ >= source_.size()) {
        return SyntaxError(line, variable ? "{{ has no end }}" : "{% has no end %}");
      }
      if (open.empty() && TakeEnd(variable ? "}}" : "%}")) break;
      RETURN_IF_ERROR(TakeToken(open));
    }
    Add(variable ? Token::Kind::kVariableEnd : Token::Kind::kBlockEnd, "");
    return absl::OkStatus();
  }

  absl::Status TakeToken(std::string& open) {
    const char c = Peek();
    if (IsDigitByte(c)) return TakeNumber();
    if (c == '"' || c == '\'') return TakeString(c);
    if (!IsNameStart(c)) return TakeOperator(open);
    size_t end = 1;
    while (IsNamePart(Peek(end))) ++end;
    Add(Token::Kind::kName, std::string(Rest().substr(0, end)));
    Advance(end);
    return absl::OkStatus();
  }

  absl::Status TakeNumber() {
    size_t end = 0;
    std::string digits;
    const auto take = [&] {
      for (; IsDigitByte(Peek(end)) || (Peek(end) == '_' && IsDigitByte(Peek(end + 1))); ++end) {
        if (Peek(end) != '_') digits.push_back(Peek(end));
      }
    };
    take();
    bool is_float = false;
    if (Peek(end) == '.' && IsDigitByte(Peek(end + 1))) {
      is_float = true;
      digits.push_back('.');
      ++end;
      take();
    }
    const size_t sign = Peek(end + 1) == '+' || Peek(end + 1) == '-' ? 1 : 0;
    if ((Peek(end) == 'e' || Peek(end) == 'E') && IsDigitByte(Peek(end + 1 + sign))) {
      is_float = true;
      digits.push_back('e');
      if (sign == 1) digits.push_back(Peek(end + 1));
      end += 1 + sign;
      take();
    }
    Add(is_float ? Token::Kind::kFloat : Token::Kind::kInteger, digits);
    const char* first = digits.data();
    const char* last = first + digits.size();
    const auto result = is_float ? std::from_chars(first, last, tokens_.back().number)
                                 : std::from_chars(first, last, tokens_.back().integer);
    if (result.ec != std::errc() || result.ptr != last) {
      return SyntaxError(
          line_, Cat("the number ", CutAtCharacter(digits, 40), " does not fit into 64 bits"));
    }
    Advance(end);
    return absl::OkStatus();
  }

  absl::Status TakeString(char quote) {
    size_t end = 1;
    while (at_ + end < source_.size() && Peek(end) != quote) end += Peek(end) == '\\' ? 2 : 1;
    if (at_ + end >= source_.size()) return SyntaxError(line_, "a string has no closing quote");
    const absl::StatusOr<std::string> text = UnescapeString(Rest().substr(1, end - 1));
    if (!text.ok()) return SyntaxError(line_, std::string(text.status().message()));
    Add(Token::Kind::kString, *text);
    Advance(end + 1);
    return absl::OkStatus();
  }

  absl::Status TakeOperator(std::string& open) {
    static constexpr std::string_view kDouble[] = {"//", "**", "==", "!=", ">=", "<="};
    static constexpr std::string_view kSingle = "+-/*%~[](){}<>=.:|,;";
    for (const std::string_view op : kDouble) {
      if (Starts(op)) return AddOperator(op);
    }
    const char c = Peek();
    if (kSingle.find(c) == std::string_view::npos || c == '\0') {
      return SyntaxError(
          line_, Cat("unexpected character '", Rest().substr(0, NextCharacter(Rest(), 0)), "'"));
    }
    if (c == '(' || c == '[' || c == '{') open.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c) {
        return SyntaxError(line_, Cat("unexpected '", std::string(1, c), "'"));
      }
      open.pop_back();
    }
    return AddOperator(Rest().substr(0, 1));
  }

  absl::Status AddOperator(std::string_view op) {
    Add(Token::Kind::kOperator, std::string(op));
    Advance(op.size());
    return absl::OkStatus();
  }

  const std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // what comes next stands at the beginning of a line
  std::vector<Token> tokens_;
};

}  // namespace

absl::Status SyntaxError(int line, std::string_view message) {
  return absl::InvalidArgumentError(Cat("line ", line, ": ", message));
}

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return absl::InvalidArgumentError(
        Cat("the template has ", source.size(), " bytes; at most ", kMaxSourceBytes));
  }
  return Lexer(Normalised(source)).Run();
}

}  // namespace tidegate::jinja
