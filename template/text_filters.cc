// Filters whose work is on one string or one number.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "template/cat.h"
#include "template/characters.h"
#include "template/filters.h"
#include "template/operators.h"
#include "template/text_functions.h"

namespace tidegate::jinja {
namespace {

using TextResult = absl::StatusOr<Value>;

TextResult Made(Runtime& runtime, absl::StatusOr<Text> text) {
  RETURN_IF_ERROR(text.status());
  return runtime.MakeString(*std::move(text));
}

TextResult StringFilter(const FilterCall& call) {
  if (call.input.is_string()) return call.input;
  return Made(call.runtime, call.runtime.ToText(call.input));
}

TextResult SafeFilter(const FilterCall& call) { return StringFilter(call); }

TextResult TrimFilter(const FilterCall& call) {
  ASSIGN_OR_RETURN(const Text text, call.runtime.ToText(call.input));
  const Value* characters = Argument(call.arguments, 0, "chars");
  if (characters == nullptr || characters->is_none()) {
    return Made(call.runtime, Strip(call.runtime, text, nullptr, Side::kBoth));
  }
  ASSIGN_OR_RETURN(const Text chars, TextArgument(call.runtime, call.arguments, 0, "chars", ""));
  return Made(call.runtime, Strip(call.runtime, text, &chars, Side::kBoth));
}

TextResult CaseFilter(const FilterCall& call) {
  ASSIGN_OR_RETURN(const Text text, call.runtime.ToText(call.input));
  if (call.name == "title") return Made(call.runtime, WordTitle(call.runtime, text));
  const Case form = call.name == "upper"   ? Case::kUpper
                    : call.name == "lower" ? Case::kLower
                                           : Case::kCapitalize;
  return Made(call.runtime, ChangeCase(call.runtime, text, form));
}

TextResult ReplaceFilter(const FilterCall& call) {
  const Value* old_value = Argument(call.arguments, 0, "old");
  const Value* new_value = Argument(call.arguments, 1, "new");
  if (old_value == nullptr || new_value == nullptr) {
    return call.runtime.Error("replace needs what to replace and with what");
  }
  ASSIGN_OR_RETURN(const Text text, call.runtime.ToText(call.input));
  ASSIGN_OR_RETURN(const Text from, call.runtime.ToText(*old_value));
  ASSIGN_OR_RETURN(const Text to, call.runtime.ToText(*new_value));
  const Value* given = Argument(call.arguments, 2, "count");
  int64_t count = -1;
  if (given != nullptr && !given->is_none()) {
    ASSIGN_OR_RETURN(count, IntArgument(call.runtime, call.arguments, 2, "count", -1));
  }
  return Made(call.runtime, Replace(call.runtime, text, from.view(), to, count));
}

TextResult IndentFilter(const FilterCall& call) {
  ASSIGN_OR_RETURN(Text text, call.runtime.ToText(call.input));
  const Value* width = Argument(call.arguments, 0, "width");
  Text indention(std::string(4, ' '));
  if (width != nullptr && width->is_string()) {
    indention = width->text();
  } else if (width != nullptr) {
    ASSIGN_OR_RETURN(const int64_t spaces,
                     IntArgument(call.runtime, call.arguments, 0, "width", 4));
    if (spaces > 1000) return call.runtime.CapError("indent by more than 1000");
    indention = Text(std::string(static_cast<size_t>(std::max<int64_t>(spaces, 0)), ' '));
  }
  const bool first = BoolArgument(call.arguments, 1, "first", false);
  const bool blank = BoolArgument(call.arguments, 2, "blank", false);
  text.Append("\n");  // so that a line break at the end is kept
  ASSIGN_OR_RETURN(const std::vector<Text> lines, SplitLines(call.runtime, text, false));
  Text out;
  if (first) out.Append(indention);
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.Append("\n");
    if (i > 0 && (blank || !lines[i].empty())) RETURN_IF_ERROR(call.runtime.Append(indention, out));
    RETURN_IF_ERROR(call.runtime.Append(lines[i], out));
  }
  return call.runtime.MakeString(std::move(out));
}

absl::StatusOr<Runtime::JsonStyle> JsonStyleOf(const FilterCall& call) {
  Runtime::JsonStyle style;
  style.ascii = BoolArgument(call.arguments, 0, "ensure_ascii", false);
  style.sort_keys = BoolArgument(call.arguments, 3, "sort_keys", false);
  const Value* indent = Argument(call.arguments, 1, "indent");
  if (indent != nullptr && !indent->is_none()) {
    ASSIGN_OR_RETURN(const int64_t spaces,
                     IntArgument(call.runtime, call.arguments, 1, "indent", 0));
    if (spaces < 0 || spaces > 100) return call.runtime.Error("tojson: indent is outside [0, 100]");
    style.indent = static_cast<int>(spaces);
    style.item_separator.assign(1, ',');
  }
  const Value* separators = Argument(call.arguments, 2, "separators");
  if (separators != nullptr && !separators->is_none()) {
    const auto& items = separators->is_list() ? separators->list().items : std::vector<Value>();
    if (items.size() != 2 || !items[0].is_string() || !items[1].is_string()) {
      return call.runtime.Error("tojson: separators needs two strings");
    }
    style.item_separator = items[0].text().bytes();
    style.key_separator = items[1].text().bytes();
  }
  return style;
}

TextResult JsonFilter(const FilterCall& call) {
  ASSIGN_OR_RETURN(const Runtime::JsonStyle style, JsonStyleOf(call));
  return Made(call.runtime, call.runtime.ToJson(call.input, style));
}

TextResult EscapeFilter(const FilterCall& call) {
  ASSIGN_OR_RETURN(Text text, call.runtime.ToText(call.input));
  static constexpr std::pair<std::string_view, std::string_view> kEntities[] = {
      {"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"'", "&#39;"}, {"\"", "&#34;"}};
  for (const auto& [character, entity] : kEntities) {
    ASSIGN_OR_RETURN(text, Replace(call.runtime, text, character, Text(std::string(entity)), -1));
  }
  return call.runtime.MakeString(std::move(text));
}

TextResult FormatFilter(const FilterCall& call) {
  ASSIGN_OR_RETURN(const Text text, call.runtime.ToText(call.input));
  return FormatPercent(call.runtime, text, call.arguments.positional);
}

// A number from a string as Python's float() reads it; blanks around it are allowed.
bool ParseFloat(std::string_view text, double& value) {
  return absl::SimpleAtod({text.data(), text.size()}, &value);
}

constexpr double kIntLimit = 9223372036854774784.0;  // the largest double below 2^63

TextResult IntFilter(const FilterCall& call) {
  const Value& input = call.input;
  if (input.is_undefined()) return call.runtime.Error(input.UndefinedText());
  const Value* given = Argument(call.arguments, 0, "default");
  const Value otherwise = given != nullptr ? *given : Value(int64_t{0});
  ASSIGN_OR_RETURN(const int64_t base, IntArgument(call.runtime, call.arguments, 1, "base", 10));
  if (input.is_int() || input.is_bool()) return Value(input.as_int());
  double number = 0;
  if (input.is_string()) {
    ASSIGN_OR_RETURN(const Text text, Strip(call.runtime, input.text(), nullptr, Side::kBoth));
    std::string digits = text.bytes();
    if (!digits.empty() && digits[0] == '+') digits.erase(0, 1);
    int64_t value = 0;
    const char* end = digits.data() + digits.size();
    if (base < 2 || base > 36) return otherwise;
    const auto parsed = std::from_chars(digits.data(), end, value, static_cast<int>(base));
    if (parsed.ec == std::errc() && parsed.ptr == end) return Value(value);
    if (!ParseFloat(text.view(), number)) return otherwise;
  } else if (input.is_float()) {
    number = input.as_float();
  } else {
    return otherwise;
  }
  if (!(std::abs(number) <= kIntLimit)) return otherwise;
  return Value(static_cast<int64_t>(number));
}

TextResult FloatFilter(const FilterCall& call) {
  if (call.input.is_undefined()) return call.runtime.Error(call.input.UndefinedText());
  const Value* given = Argument(call.arguments, 0, "default");
  double number = 0;
  if (call.input.is_number()) return Value(call.input.as_float());
  if (call.input.is_string() && ParseFloat(call.input.string(), number)) return Value(number);
  return given != nullptr ? *given : Value(0.0);
}

TextResult RoundFilter(const FilterCall& call) {
  if (!call.input.is_number()) {
    return call.runtime.Error(Cat("round needs a number, not a ", call.input.KindName()));
  }
  ASSIGN_OR_RETURN(const int64_t digits,
                   IntArgument(call.runtime, call.arguments, 0, "precision", 0));
  ASSIGN_OR_RETURN(const Text method,
                   TextArgument(call.runtime, call.arguments, 1, "method", "common"));
  if (digits < 0 || digits > 15) return call.runtime.Error("round: precision is outside [0, 15]");
  const bool whole = call.input.is_int() || call.input.is_bool();
  if (method.view() == "common" && whole) return Value(call.input.as_int());
  const double value = call.input.as_float();
  if (method.view() == "common") {
    double rounded = 0;  // by way of decimals, ties as they are in binary
    const bool ok =
        absl::SimpleAtod(absl::StrFormat("%.*f", static_cast<int>(digits), value), &rounded);
    return Value(ok ? rounded : value);
  }
  if (method.view() != "ceil" && method.view() != "floor") {
    return call.runtime.Error("round: method must be common, ceil or floor");
  }
  const double scale = std::pow(10.0, static_cast<double>(digits));
  return Value((method.view() == "ceil" ? std::ceil(value * scale) : std::floor(value * scale)) /
               scale);
}

TextResult AbsFilter(const FilterCall& call) {
  if (call.input.is_float()) return Value(std::abs(call.input.as_float()));
  if (!call.input.is_number()) {
    return call.runtime.Error(Cat("abs needs a number, not a ", call.input.KindName()));
  }
  if (call.input.as_int() >= 0) return Value(call.input.as_int());
  return Negative(call.runtime, call.input);
}

TextResult DefaultFilter(const FilterCall& call) {
  const bool also_false = BoolArgument(call.arguments, 1, "boolean", false);
  if (!call.input.is_undefined() && (!also_false || call.input.Truth())) return call.input;
  const Value* otherwise = Argument(call.arguments, 0, "default_value");
  return otherwise != nullptr ? *otherwise : Value(Text());
}

TextResult CenterFilter(const FilterCall& call) {
  ASSIGN_OR_RETURN(const int64_t width, IntArgument(call.runtime, call.arguments, 0, "width", 80));
  ASSIGN_OR_RETURN(const Text text, call.runtime.ToText(call.input));
  const int64_t missing = width - static_cast<int64_t>(CharacterCount(text.view()));
  if (missing <= 0) return call.runtime.MakeString(text);
  if (missing > 10000) return call.runtime.CapError("center in more than 10000 characters");
  const size_t left = static_cast<size_t>(missing / 2 + (missing & width & 1));
  Text out(std::string(left, ' '));
  out.Append(text);
  out.Append(std::string(static_cast<size_t>(missing) - left, ' '));
  return call.runtime.MakeString(std::move(out));
}

constexpr std::pair<std::string_view, FilterFunction> kTextFilters[] = {
    {"string", StringFilter},   {"safe", SafeFilter},       {"trim", TrimFilter},
    {"upper", CaseFilter},      {"lower", CaseFilter},      {"title", CaseFilter},
    {"capitalize", CaseFilter}, {"replace", ReplaceFilter}, {"indent", IndentFilter},
    {"tojson", JsonFilter},     {"escape", EscapeFilter},   {"e", EscapeFilter},
    {"format", FormatFilter},   {"int", IntFilter},         {"float", FloatFilter},
    {"round", RoundFilter},     {"abs", AbsFilter},         {"default", DefaultFilter},
    {"d", DefaultFilter},       {"center", CenterFilter},
};

}  // namespace

FilterFunction FindTextFilter(std::string_view name) {
  const auto found = std::find_if(std::begin(kTextFilters), std::end(kTextFilters),
                                  [&](const auto& entry) { return entry.first == name; });
  return found == std::end(kTextFilters) ? nullptr : found->second;
}

}  // namespace tidegate::jinja
