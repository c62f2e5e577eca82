#include "template/text_functions.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "template/cat.h"
#include "template/characters.h"

namespace tidegate::jinja {
namespace {

// Pieces of one split; what is left stays together. Far beyond what the other caps let through.
constexpr int64_t kMaxPieces = 1 << 20;

bool HasCharacter(std::string_view characters, std::string_view c) {
  for (size_t at = 0, next; at < characters.size(); at = next) {
    next = NextCharacter(characters, at);
    if (characters.substr(at, next - at) == c) return true;
  }
  return false;
}

// Maps every character; `change` gets the code point and the one before it (0 at the beginning).
template <typename Change>
absl::StatusOr<Text> MapCharacters(Runtime& runtime, const Text& text, Change change) {
  RETURN_IF_ERROR(runtime.Charge(1 + text.size() / 16));
  Text out;
  char32_t before = 0;
  const auto& spans = text.data_spans();
  auto span = spans.begin();
  std::string changed;
  for (size_t at = 0; at < text.size(); at = NextCharacter(text.view(), at)) {
    while (span != spans.end() && span->end <= at) ++span;
    const bool data = span != spans.end() && span->begin <= at;
    const char32_t c = CodePointAt(text.view(), at);
    changed.clear();
    AppendCodePoint(change(c, before), changed);
    out.Append(changed, data ? Origin::kData : Origin::kTemplate);
    before = c;
  }
  return out;
}

// Cuts at blanks, from the left.
std::vector<Text> SplitBlanks(const Text& text, int64_t limit) {
  std::vector<Text> pieces;
  const std::string_view view = text.view();
  size_t at = 0;
  const auto blank = [&](size_t i) { return IsSpace(CodePointAt(view, i)); };
  for (;;) {
    while (at < view.size() && blank(at)) at = NextCharacter(view, at);
    if (at == view.size()) return pieces;
    size_t end = at;
    const bool last = pieces.size() == static_cast<size_t>(limit);
    if (last) end = view.size();
    while (!last && end < view.size() && !blank(end)) end = NextCharacter(view, end);
    pieces.push_back(text.Sub(at, end));
    if (last) return pieces;
    at = end;
  }
}

std::vector<Text> SplitBlanksFromRight(const Text& text, int64_t limit) {
  std::vector<Text> pieces;
  const std::string_view view = text.view();
  size_t end = view.size();
  const auto blank_before = [&](size_t i) {
    return IsSpace(CodePointAt(view, PreviousCharacter(view, i)));
  };
  for (;;) {
    while (end > 0 && blank_before(end)) end = PreviousCharacter(view, end);
    if (end == 0) break;
    const bool last = pieces.size() == static_cast<size_t>(limit);
    size_t begin = last ? 0 : end;
    while (begin > 0 && !blank_before(begin)) begin = PreviousCharacter(view, begin);
    pieces.push_back(text.Sub(begin, end));
    if (last) break;
    end = begin;
  }
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

}  // namespace

const Value* Argument(const Arguments& arguments, size_t index, std::string_view name) {
  if (index < arguments.positional.size()) return &arguments.positional[index];
  for (const auto& [key, value] : arguments.named) {
    if (key == name) return &value;
  }
  return nullptr;
}

absl::StatusOr<int64_t> IntArgument(Runtime& runtime, const Arguments& arguments, size_t index,
                                    std::string_view name, int64_t otherwise) {
  const Value* value = Argument(arguments, index, name);
  if (value == nullptr) return otherwise;
  if (value->is_int() || value->is_bool()) return value->as_int();
  return runtime.Error(Cat(name, " needs an integer, not a ", value->KindName()));
}

bool BoolArgument(const Arguments& arguments, size_t index, std::string_view name, bool otherwise) {
  const Value* value = Argument(arguments, index, name);
  return value == nullptr ? otherwise : value->Truth();
}

absl::StatusOr<Text> TextArgument(Runtime& runtime, const Arguments& arguments, size_t index,
                                  std::string_view name, std::string_view otherwise) {
  const Value* value = Argument(arguments, index, name);
  if (value == nullptr) return Text(std::string(otherwise));
  if (value->is_string()) return value->text();
  return runtime.Error(Cat(name, " needs a string, not a ", value->KindName()));
}

absl::StatusOr<Text> Strip(Runtime& runtime, const Text& text, const Text* characters, Side side) {
  const std::string_view view = text.view();
  const size_t cost = characters == nullptr ? 1 : characters->size() + 1;
  size_t begin = 0, end = view.size(), looked_at = 0;
  const auto goes = [&](size_t at, size_t next) {
    ++looked_at;
    return characters == nullptr ? IsSpace(CodePointAt(view, at))
                                 : HasCharacter(characters->view(), view.substr(at, next - at));
  };
  if (side != Side::kRight) {
    while (begin < end && goes(begin, NextCharacter(view, begin)))
      begin = NextCharacter(view, begin);
  }
  if (side != Side::kLeft) {
    while (end > begin && goes(PreviousCharacter(view, end), end))
      end = PreviousCharacter(view, end);
  }
  RETURN_IF_ERROR(runtime.Charge(1 + (looked_at * cost + end - begin) / 64));
  return text.Sub(begin, end);
}

absl::StatusOr<Text> ChangeCase(Runtime& runtime, const Text& text, Case form) {
  return MapCharacters(runtime, text, [form](char32_t c, char32_t before) {
    switch (form) {
      case Case::kUpper:
        return ToUpper(c);
      case Case::kLower:
        return ToLower(c);
      case Case::kSwap:
        return IsUpper(c) ? ToLower(c) : ToUpper(c);
      case Case::kCapitalize:
        return before == 0 ? ToUpper(c) : ToLower(c);
      case Case::kTitle:
        break;
    }
    return IsAlpha(before) ? ToLower(c) : ToUpper(c);
  });
}

absl::StatusOr<Text> WordTitle(Runtime& runtime, const Text& text) {
  return MapCharacters(runtime, text, [](char32_t c, char32_t before) {
    const bool starts = before == 0 || IsSpace(before) || before == '-' || before == '(' ||
                        before == '{' || before == '[' || before == '<';
    return starts ? ToUpper(c) : ToLower(c);
  });
}

absl::StatusOr<Text> Replace(Runtime& runtime, const Text& text, std::string_view from,
                             const Text& to, int64_t count) {
  RETURN_IF_ERROR(runtime.ChargeSearch(text.size(), from.size()));
  const std::string_view view = text.view();
  Text out;
  size_t kept = 0;
  const auto put = [&](size_t at) -> absl::Status {
    RETURN_IF_ERROR(runtime.Append(text.Sub(kept, at), out));
    return runtime.Append(to, out);
  };
  if (from.empty()) {  // between all characters, and around them
    for (size_t at = 0; count != 0; at = NextCharacter(view, at), --count) {
      RETURN_IF_ERROR(put(at));
      kept = at;
      if (at == view.size()) break;
    }
  } else {
    for (size_t at = 0; count != 0 && (at = view.find(from, at)) != std::string_view::npos;
         at += from.size(), --count) {
      RETURN_IF_ERROR(put(at));
      kept = at + from.size();
    }
  }
  RETURN_IF_ERROR(runtime.Append(text.Sub(kept, view.size()), out));
  return out;
}

absl::StatusOr<std::vector<Text>> Split(Runtime& runtime, const Text& text, const Text* separator,
                                        int64_t limit, bool from_right) {
  limit = limit < 0 ? kMaxPieces : std::min(limit, kMaxPieces);
  RETURN_IF_ERROR(runtime.ChargeSearch(text.size(), separator == nullptr ? 1 : separator->size()));
  if (separator == nullptr) {
    return from_right ? SplitBlanksFromRight(text, limit) : SplitBlanks(text, limit);
  }
  if (separator->empty()) return runtime.Error("split needs a separator that is not empty");
  const std::string_view view = text.view(), cut = separator->view();
  std::vector<Text> pieces;
  const auto full = [&] { return pieces.size() == static_cast<size_t>(limit); };
  if (!from_right) {
    size_t begin = 0;
    for (size_t at; !full() && (at = view.find(cut, begin)) != std::string_view::npos;) {
      pieces.push_back(text.Sub(begin, at));
      begin = at + cut.size();
    }
    pieces.push_back(text.Sub(begin, view.size()));
    return pieces;
  }
  size_t end = view.size();
  while (!full()) {
    const size_t at = view.substr(0, end).rfind(cut);
    if (at == std::string_view::npos) break;
    pieces.push_back(text.Sub(at + cut.size(), end));
    end = at;
  }
  pieces.push_back(text.Sub(0, end));
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

absl::StatusOr<std::vector<Text>> SplitLines(Runtime& runtime, const Text& text, bool keep_ends) {
  RETURN_IF_ERROR(runtime.Charge(1 + text.size() / 16));
  const std::string_view view = text.view();
  std::vector<Text> lines;
  size_t begin = 0;
  for (size_t at = 0, next; at < view.size() && lines.size() < size_t{kMaxPieces}; at = next) {
    next = NextCharacter(view, at);
    if (!IsLineBreak(CodePointAt(view, at))) continue;
    if (view[at] == '\r' && next < view.size() && view[next] == '\n') ++next;
    lines.push_back(text.Sub(begin, keep_ends ? next : at));
    begin = next;
  }
  if (begin < view.size()) lines.push_back(text.Sub(begin, view.size()));
  return lines;
}

absl::StatusOr<Value> ToList(Runtime& runtime, std::vector<Text> texts) {
  std::vector<Value> items;
  items.reserve(texts.size());
  RETURN_IF_ERROR(runtime.Charge(texts.size()));
  for (Text& text : texts) {
    ASSIGN_OR_RETURN(Value item, runtime.MakeString(std::move(text)));
    items.push_back(std::move(item));
  }
  return runtime.MakeList(std::move(items));
}

}  // namespace tidegate::jinja
