// Methods of strings: one function each, found by name in a table.
#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "base/text.h"
#include "template/cat.h"
#include "template/characters.h"
#include "template/methods.h"
#include "template/text_functions.h"

namespace tidegate::jinja {
namespace {

// One call: the string, what the method is called, its arguments.
struct Call {
  Runtime& runtime;
  const Text& text;
  std::string_view name;
  const Arguments& arguments;
};
using MethodResult = absl::StatusOr<Value>;

MethodResult MadeText(Runtime& runtime, absl::StatusOr<Text> text) {
  RETURN_IF_ERROR(text.status());
  return runtime.MakeString(*std::move(text));
}

MethodResult StripMethod(const Call& call) {
  const Value* characters = Argument(call.arguments, 0, "chars");
  const Side side = call.name == "lstrip"   ? Side::kLeft
                    : call.name == "rstrip" ? Side::kRight
                                            : Side::kBoth;
  if (characters == nullptr || characters->is_none()) {
    return MadeText(call.runtime, Strip(call.runtime, call.text, nullptr, side));
  }
  ASSIGN_OR_RETURN(const Text chars, TextArgument(call.runtime, call.arguments, 0, "chars", ""));
  return MadeText(call.runtime, Strip(call.runtime, call.text, &chars, side));
}

MethodResult CaseMethod(const Call& call) {
  const Case form = call.name == "upper"        ? Case::kUpper
                    : call.name == "lower"      ? Case::kLower
                    : call.name == "title"      ? Case::kTitle
                    : call.name == "capitalize" ? Case::kCapitalize
                                                : Case::kSwap;
  return MadeText(call.runtime, ChangeCase(call.runtime, call.text, form));
}

MethodResult SplitMethod(const Call& call) {
  const bool from_right = call.name == "rsplit";
  ASSIGN_OR_RETURN(const int64_t limit,
                   IntArgument(call.runtime, call.arguments, 1, "maxsplit", -1));
  const Value* given = Argument(call.arguments, 0, "sep");
  std::optional<Text> separator;
  if (given != nullptr && !given->is_none()) {
    ASSIGN_OR_RETURN(separator, TextArgument(call.runtime, call.arguments, 0, "sep", ""));
  }
  ASSIGN_OR_RETURN(std::vector<Text> pieces,
                   Split(call.runtime, call.text, separator.has_value() ? &*separator : nullptr,
                         limit, from_right));
  return ToList(call.runtime, std::move(pieces));
}

MethodResult SplitLinesMethod(const Call& call) {
  ASSIGN_OR_RETURN(
      std::vector<Text> lines,
      SplitLines(call.runtime, call.text, BoolArgument(call.arguments, 0, "keepends", false)));
  return ToList(call.runtime, std::move(lines));
}

// startswith and endswith: one string, or a tuple of them.
MethodResult EdgeMethod(const Call& call) {
  const bool at_end = call.name == "endswith";
  const Value* wanted = Argument(call.arguments, 0, "prefix");
  if (wanted == nullptr) return call.runtime.Error(Cat(call.name, " needs a string"));
  if (call.arguments.positional.size() > 1) {
    return call.runtime.Error(Cat(call.name, " with positions is not supported"));
  }
  std::vector<Value> choices = {*wanted};
  if (wanted->is_list()) choices = wanted->list().items;
  const std::string_view text = call.text.view();
  for (const Value& choice : choices) {
    RETURN_IF_ERROR(call.runtime.Charge(1));
    if (!choice.is_string()) {
      return call.runtime.Error(Cat(call.name, " needs strings, not a ", choice.KindName()));
    }
    const std::string_view edge = choice.string();
    if (at_end ? text.ends_with(edge) : text.starts_with(edge)) return Value(true);
  }
  return Value(false);
}

MethodResult ReplaceMethod(const Call& call) {
  if (call.arguments.positional.size() < 2) {
    return call.runtime.Error("replace needs what to replace and with what");
  }
  ASSIGN_OR_RETURN(const Text from, TextArgument(call.runtime, call.arguments, 0, "old", ""));
  ASSIGN_OR_RETURN(const Text to, TextArgument(call.runtime, call.arguments, 1, "new", ""));
  ASSIGN_OR_RETURN(const int64_t count, IntArgument(call.runtime, call.arguments, 2, "count", -1));
  return MadeText(call.runtime, Replace(call.runtime, call.text, from.view(), to, count));
}

// find, rfind, index, rindex, count.
MethodResult FindMethod(const Call& call) {
  ASSIGN_OR_RETURN(const Text wanted, TextArgument(call.runtime, call.arguments, 0, "sub", ""));
  RETURN_IF_ERROR(call.runtime.ChargeSearch(call.text.size(), wanted.size()));
  if (call.arguments.positional.size() != 1) {
    return call.runtime.Error(Cat(call.name, " takes one string; no positions"));
  }
  const std::string_view text = call.text.view();
  if (call.name == "count") {
    if (wanted.empty()) return Value(static_cast<int64_t>(CharacterCount(text)) + 1);
    int64_t count = 0;
    for (size_t at = 0; (at = text.find(wanted.view(), at)) != text.npos; at += wanted.size()) {
      ++count;
    }
    return Value(count);
  }
  const size_t at = call.name[0] == 'r' ? text.rfind(wanted.view()) : text.find(wanted.view());
  if (at != text.npos) return Value(static_cast<int64_t>(CharacterCount(text.substr(0, at))));
  if (call.name == "index" || call.name == "rindex") {
    return call.runtime.Error("substring not found");
  }
  return Value(int64_t{-1});
}

MethodResult JoinMethod(const Call& call) {
  const Value* values = Argument(call.arguments, 0, "iterable");
  if (values == nullptr) return call.runtime.Error("join needs a list");
  ASSIGN_OR_RETURN(const std::vector<Value> items, call.runtime.Items(*values));
  Text out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].is_string()) {
      return call.runtime.Error(Cat("join needs strings, not a ", items[i].KindName()));
    }
    if (i > 0) RETURN_IF_ERROR(call.runtime.Append(call.text, out));
    RETURN_IF_ERROR(call.runtime.Append(items[i].text(), out));
  }
  return call.runtime.MakeString(std::move(out));
}

// isdigit and its like: all characters, and at least one.
MethodResult IsMethod(const Call& call) {
  RETURN_IF_ERROR(call.runtime.Charge(1 + call.text.size() / 16));
  const std::string_view text = call.text.view();
  bool any_cased = false;
  for (size_t at = 0; at < text.size(); at = NextCharacter(text, at)) {
    const char32_t c = CodePointAt(text, at);
    any_cased = any_cased || IsUpper(c) || IsLower(c);
    const bool fits = call.name == "isspace"   ? IsSpace(c)
                      : call.name == "isalpha" ? IsAlpha(c)
                      : call.name == "isalnum" ? IsAlpha(c) || IsDigit(c)
                      : call.name == "isupper" ? !IsLower(c)
                      : call.name == "islower" ? !IsUpper(c)
                                               : IsDigit(c);
    if (!fits) return Value(false);
  }
  const bool needs_case = call.name == "isupper" || call.name == "islower";
  return Value(needs_case ? any_cased : !text.empty());
}

// ljust, rjust, center, zfill.
MethodResult PadMethod(const Call& call) {
  ASSIGN_OR_RETURN(const int64_t width, IntArgument(call.runtime, call.arguments, 0, "width", 0));
  const bool zeros = call.name == "zfill";
  ASSIGN_OR_RETURN(const Text fill,
                   TextArgument(call.runtime, call.arguments, 1, "fillchar", zeros ? "0" : " "));
  if (fill.size() != 1) return call.runtime.Error("the fill must be one ASCII character");
  const int64_t count = static_cast<int64_t>(CharacterCount(call.text.view()));
  const size_t missing = static_cast<size_t>(std::max<int64_t>(width - count, 0));
  if (missing > call.runtime.limits().string_bytes) {
    return call.runtime.CapError(Cat(call.name, " to ", width, " characters"));
  }
  size_t left = missing;
  if (call.name == "ljust") left = 0;
  if (call.name == "center") left = missing / 2 + (missing & static_cast<size_t>(width) & 1);
  Text out;
  const bool sign =
      zeros && !call.text.empty() && (call.text.view()[0] == '-' || call.text.view()[0] == '+');
  if (sign) out.Append(call.text.Sub(0, 1));
  out.Append(std::string(left, fill.view()[0]));
  out.Append(call.text.Sub(sign ? 1 : 0, call.text.size()));
  out.Append(std::string(missing - left, fill.view()[0]));
  return call.runtime.MakeString(std::move(out));
}

MethodResult RemoveMethod(const Call& call) {
  ASSIGN_OR_RETURN(const Text edge, TextArgument(call.runtime, call.arguments, 0, "prefix", ""));
  const std::string_view text = call.text.view();
  size_t begin = 0, end = text.size();
  if (call.name == "removeprefix" && text.starts_with(edge.view())) begin = edge.size();
  if (call.name == "removesuffix" && text.ends_with(edge.view())) end -= edge.size();
  return call.runtime.MakeString(call.text.Sub(begin, end));
}

MethodResult PartitionMethod(const Call& call) {
  ASSIGN_OR_RETURN(const Text cut, TextArgument(call.runtime, call.arguments, 0, "sep", ""));
  if (cut.empty()) return call.runtime.Error("partition needs a separator that is not empty");
  RETURN_IF_ERROR(call.runtime.ChargeSearch(call.text.size(), cut.size()));
  const bool from_right = call.name == "rpartition";
  const std::string_view text = call.text.view();
  const size_t at = from_right ? text.rfind(cut.view()) : text.find(cut.view());
  std::vector<Text> pieces(3);
  if (at == text.npos) {
    pieces[from_right ? 2 : 0] = call.text;
  } else {
    pieces = {call.text.Sub(0, at), cut, call.text.Sub(at + cut.size(), text.size())};
  }
  ASSIGN_OR_RETURN(const Value list, ToList(call.runtime, std::move(pieces)));
  return call.runtime.MakeList(list.list().items, List::Kind::kTuple);
}

// "{} {0} {name}": places without formats or attributes.
MethodResult FormatMethod(const Call& call) {
  Text out;
  const std::string_view text = call.text.view();
  size_t next = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t brace = std::min(text.find_first_of("{}", at), text.size());
    RETURN_IF_ERROR(call.runtime.Append(call.text.Sub(at, brace), out));
    if (brace == text.size()) break;
    if (brace + 1 < text.size() && text[brace + 1] == text[brace]) {
      RETURN_IF_ERROR(call.runtime.Append(call.text.Sub(brace, brace + 1), out));
      at = brace + 2;
      continue;
    }
    const size_t close = text[brace] == '{' ? text.find('}', brace) : text.npos;
    if (close == text.npos) return call.runtime.Error("format: a single brace");
    const std::string field(text.substr(brace + 1, close - brace - 1));
    const bool number = !field.empty() && field.size() < 9 &&
                        std::all_of(field.begin(), field.end(),
                                    [](char c) { return IsDigit(static_cast<char32_t>(c)); });
    const size_t index = field.empty() ? next++ : number ? std::stoul(field) : SIZE_MAX;
    const Value* value = Argument(call.arguments, index, field);
    if (value == nullptr) {
      return call.runtime.Error(Cat("format: no value for {", CutAtCharacter(field, 40), "}"));
    }
    ASSIGN_OR_RETURN(const Text piece, call.runtime.ToText(*value));
    RETURN_IF_ERROR(call.runtime.Append(piece, out));
    at = close + 1;
  }
  return call.runtime.MakeString(std::move(out));
}

using Method = MethodResult (*)(const Call&);
constexpr std::pair<std::string_view, Method> kMethods[] = {
    {"strip", StripMethod},
    {"lstrip", StripMethod},
    {"rstrip", StripMethod},
    {"upper", CaseMethod},
    {"lower", CaseMethod},
    {"title", CaseMethod},
    {"capitalize", CaseMethod},
    {"swapcase", CaseMethod},
    {"split", SplitMethod},
    {"rsplit", SplitMethod},
    {"splitlines", SplitLinesMethod},
    {"startswith", EdgeMethod},
    {"endswith", EdgeMethod},
    {"replace", ReplaceMethod},
    {"find", FindMethod},
    {"rfind", FindMethod},
    {"index", FindMethod},
    {"rindex", FindMethod},
    {"count", FindMethod},
    {"join", JoinMethod},
    {"isdigit", IsMethod},
    {"isdecimal", IsMethod},
    {"isnumeric", IsMethod},
    {"isspace", IsMethod},
    {"isalpha", IsMethod},
    {"isalnum", IsMethod},
    {"isupper", IsMethod},
    {"islower", IsMethod},
    {"ljust", PadMethod},
    {"rjust", PadMethod},
    {"center", PadMethod},
    {"zfill", PadMethod},
    {"removeprefix", RemoveMethod},
    {"removesuffix", RemoveMethod},
    {"partition", PartitionMethod},
    {"rpartition", PartitionMethod},
    {"format", FormatMethod},
};

const std::pair<std::string_view, Method>* FindStringMethod(std::string_view name) {
  const auto found = std::find_if(std::begin(kMethods), std::end(kMethods),
                                  [&](const auto& entry) { return entry.first == name; });
  return found == std::end(kMethods) ? nullptr : found;
}

}  // namespace

bool HasStringMethod(std::string_view name) { return FindStringMethod(name) != nullptr; }

absl::StatusOr<Value> CallStringMethod(Runtime& runtime, const Text& text, std::string_view name,
                                       const Arguments& arguments) {
  return FindStringMethod(name)->second({runtime, text, name, arguments});
}

}  // namespace tidegate::jinja
