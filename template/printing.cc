// Runtime's str(), repr() and tojson.
#include <charconv>
#include <cmath>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "template/cat.h"
#include "template/characters.h"
#include "template/runtime.h"

namespace tidegate::jinja {
namespace {

bool IsPrintable(char32_t c) {
  return c >= 0x20 && c != 0x7f && !(c >= 0x80 && c <= 0xa0) && c != 0xad &&
         !(IsSpace(c) && c != ' ');
}

// The inside of a Python string literal.
void AppendEscaped(const Text& text, char quote, Text& out) {
  for (size_t at = 0, next; at < text.size(); at = next) {
    next = NextCharacter(text.view(), at);
    const char32_t c = CodePointAt(text.view(), at);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out.Append("\\");
      out.Append(text.Sub(at, next));
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out.Append(c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
    } else if (IsPrintable(c)) {
      out.Append(text.Sub(at, next));
    } else if (c < 0x100) {
      out.Append(absl::StrFormat("\\x%02x", static_cast<uint32_t>(c)));
    } else {
      out.Append(absl::StrFormat("\\u%04x", static_cast<uint32_t>(c)));
    }
  }
}

void AppendRepr(const Text& text, Text& out) {
  const bool has_single = text.view().find('\'') != std::string_view::npos;
  const bool has_double = text.view().find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  out.Append(std::string_view(&quote, 1));
  AppendEscaped(text, quote, out);
  out.Append(std::string_view(&quote, 1));
}

std::string ScalarText(const Value& value) {
  if (value.is_undefined()) return "";
  if (value.is_none()) return "None";
  if (value.is_bool()) return value.as_bool() ? "True" : "False";
  if (value.is_int()) return Cat(value.as_int());
  if (value.is_float()) return FloatRepr(value.as_float());
  if (value.is_callable()) return Cat("<function ", value.callable().name, ">");
  return Cat("<", value.KindName(), ">");
}

std::string_view JsonEscape(char32_t c) {
  switch (c) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    default:
      return "";
  }
}

// Runs of characters that stay as they are go in one piece.
void AppendJsonString(const Text& text, bool ascii, Text& out) {
  out.Append("\"");
  size_t kept = 0;
  const auto flush = [&](size_t end) {
    if (end > kept) out.Append(text.Sub(kept, end));
  };
  for (size_t at = 0, next; at < text.size(); at = next) {
    next = NextCharacter(text.view(), at);
    const char32_t c = CodePointAt(text.view(), at);
    const std::string_view escape = JsonEscape(c);
    if (escape.empty() && c >= 0x20 && (!ascii || c < 0x7f)) continue;
    flush(at);
    kept = next;
    if (!escape.empty()) {
      out.Append(escape);
    } else if (c >= 0x10000) {
      const uint32_t v = static_cast<uint32_t>(c) - 0x10000;
      out.Append(absl::StrFormat("\\u%04x\\u%04x", 0xd800 + (v >> 10), 0xdc00 + (v & 0x3ff)));
    } else {
      out.Append(absl::StrFormat("\\u%04x", static_cast<uint32_t>(c)));
    }
  }
  flush(text.size());
  out.Append("\"");
}

std::string JsonScalar(const Value& value) {
  if (value.is_none()) return "null";
  if (value.is_bool()) return value.as_bool() ? "true" : "false";
  if (value.is_int()) return Cat(value.as_int());
  const double number = value.as_float();
  if (std::isnan(number)) return "NaN";
  if (std::isinf(number)) return number > 0 ? "Infinity" : "-Infinity";
  return FloatRepr(number);
}

// One tojson: the style and where the output stands.
class JsonWriter {
 public:
  JsonWriter(Runtime& runtime, const Runtime::JsonStyle& style, Text& out)
      : runtime_(runtime), style_(style), out_(out) {}

  absl::Status Write(const Value& value, int level) {
    RETURN_IF_ERROR(runtime_.Charge(1));
    if (value.is_string()) return WriteString(value.text());
    if (value.is_none() || value.is_number()) return runtime_.Append(JsonScalar(value), out_);
    if (value.is_dict()) return WriteDict(value.dict(), level);
    if (value.is_list() &&
        (value.list().kind == List::Kind::kList || value.list().kind == List::Kind::kTuple)) {
      return WriteList(value.list(), level);
    }
    if (value.is_undefined()) return runtime_.Error(Cat("tojson: ", value.UndefinedText()));
    return runtime_.Error(Cat("tojson cannot write a ", value.KindName()));
  }

 private:
  absl::Status WriteString(const Text& text) {
    Text quoted;
    RETURN_IF_ERROR(runtime_.Charge(text.cost() / 64));
    AppendJsonString(text, style_.ascii, quoted);
    return runtime_.Append(quoted, out_);
  }

  absl::Status WriteKey(const Value& key) {
    if (key.is_string()) return WriteString(key.text());
    return WriteString(Text(JsonScalar(key)));
  }

  absl::Status NewLine(int level) {
    if (style_.indent < 0) return absl::OkStatus();
    const size_t spaces = static_cast<size_t>(style_.indent) * static_cast<size_t>(level);
    return runtime_.Append(Cat("\n", std::string(spaces, ' ')), out_);
  }

  absl::Status WriteList(const List& list, int level) {
    if (list.items.empty()) return runtime_.Append("[]", out_);
    RETURN_IF_ERROR(runtime_.Append("[", out_));
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) RETURN_IF_ERROR(runtime_.Append(style_.item_separator, out_));
      RETURN_IF_ERROR(NewLine(level + 1));
      RETURN_IF_ERROR(Write(list.items[i], level + 1));
    }
    RETURN_IF_ERROR(NewLine(level));
    return runtime_.Append("]", out_);
  }

  absl::Status WriteDict(const Dict& dict, int level) {
    if (dict.entries.empty()) return runtime_.Append("{}", out_);
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    RETURN_IF_ERROR(runtime_.Charge(entries.size()));
    if (style_.sort_keys) {
      RETURN_IF_ERROR(runtime_.Charge(entries.size() * 20));
      std::stable_sort(entries.begin(), entries.end(), [](const auto* a, const auto* b) {
        return a->first.is_string() && b->first.is_string() &&
               a->first.string() < b->first.string();
      });
    }
    RETURN_IF_ERROR(runtime_.Append("{", out_));
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) RETURN_IF_ERROR(runtime_.Append(style_.item_separator, out_));
      RETURN_IF_ERROR(NewLine(level + 1));
      RETURN_IF_ERROR(WriteKey(entries[i]->first));
      RETURN_IF_ERROR(runtime_.Append(style_.key_separator, out_));
      RETURN_IF_ERROR(Write(entries[i]->second, level + 1));
    }
    RETURN_IF_ERROR(NewLine(level));
    return runtime_.Append("}", out_);
  }

  Runtime& runtime_;
  const Runtime::JsonStyle& style_;
  Text& out_;
};

}  // namespace

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[40];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string scientific(buffer, end.ptr);
  const size_t e = scientific.find('e');
  const int exponent = std::atoi(scientific.c_str() + e + 1);
  if (exponent < -4 || exponent >= 16) return scientific;
  const auto fixed =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::fixed);
  std::string text(buffer, fixed.ptr);
  if (text.find('.') == std::string::npos) text += ".0";
  return text;
}

absl::StatusOr<Text> Runtime::ToText(const Value& value) {
  if (value.is_string()) return value.text();
  Text out;
  RETURN_IF_ERROR(AppendRepr(value, out));
  return out;
}

absl::Status Runtime::AppendRepr(const Value& value, Text& out) {
  RETURN_IF_ERROR(Charge(1));
  if (value.is_string()) {
    Text quoted;
    RETURN_IF_ERROR(Charge(value.text().cost() / 16));
    jinja::AppendRepr(value.text(), quoted);
    return Append(quoted, out);
  }
  if (value.is_list()) {
    const List& list = value.list();
    if (list.kind == List::Kind::kGenerator || list.kind == List::Kind::kView) {
      return Error(Cat("a ", value.KindName(), " has no text; put |list behind it"));
    }
    const bool tuple = list.kind == List::Kind::kTuple;
    RETURN_IF_ERROR(Append(tuple ? "(" : "[", out));
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) RETURN_IF_ERROR(Append(", ", out));
      RETURN_IF_ERROR(AppendRepr(list.items[i], out));
    }
    if (tuple && list.items.size() == 1) RETURN_IF_ERROR(Append(",", out));
    return Append(tuple ? ")" : "]", out);
  }
  if (!value.is_dict()) {
    const bool nested = !out.empty() && value.is_undefined();
    return Append(nested ? "Undefined" : ScalarText(value), out);
  }
  RETURN_IF_ERROR(Append("{", out));
  for (size_t i = 0; i < value.dict().entries.size(); ++i) {
    const auto& [key, item] = value.dict().entries[i];
    if (i > 0) RETURN_IF_ERROR(Append(", ", out));
    RETURN_IF_ERROR(AppendRepr(key, out));
    RETURN_IF_ERROR(Append(": ", out));
    RETURN_IF_ERROR(AppendRepr(item, out));
  }
  return Append("}", out);
}

absl::StatusOr<Text> Runtime::ToJson(const Value& value, const JsonStyle& style) {
  Text out;
  RETURN_IF_ERROR(JsonWriter(*this, style, out).Write(value, 0));
  return out;
}

}  // namespace tidegate::jinja
