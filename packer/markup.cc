#include "packer/markup.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace tidegate {
namespace {

constexpr size_t kMaxMarkupBytes = 128;  // real names stay below 64

constexpr std::string_view kTurnEnds[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|endofturn|>",
    "[|endofturn|]",
    "<turn|>",
    "<end_of_utterance>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<\xef\xbd\x9c"
    "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
    "<|eom_id|>",
    "<EOT>",
    "<|EOT|>",
    "<|eot|>",
    "<|return|>",
    "<|call|>",
    "<|END_OF_TURN_TOKEN|>",
};

constexpr std::string_view kDocumentEnds[] = {"</s>", "<eos>", "[EOS]"};

// Without bars, and yet nothing but turns of a conversation.
constexpr std::string_view kTurnNames[] = {
    "<start_of_turn>", "<end_of_turn>",   "<end_of_utterance>", "[INST]",
    "[/INST]",         "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
};

// The second with U+FF5C, as DeepSeek writes it.
constexpr std::pair<std::string_view, std::string_view> kFrames[] = {
    {"<|", "|>"}, {"<\xef\xbd\x9c", "\xef\xbd\x9c>"}, {"[|", "|]"}, {"<|", ">"}, {"<", "|>"}};

constexpr std::string_view kRoles[] = {"user",        "assistant", "system",   "tool",
                                       "observation", "developer", "function", "ipython"};

template <typename List>
bool Contains(const List& list, std::string_view text) {
  return std::find(std::begin(list), std::end(list), text) != std::end(list);
}

bool IsLetter(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return absl::ascii_isalpha(byte) || byte >= 0x80 || c == '_';
}

bool IsLetterOrDigit(char c) {
  return IsLetter(c) || absl::ascii_isdigit(static_cast<unsigned char>(c));
}

bool IsNameCharacter(char c) { return IsLetterOrDigit(c) || c == '-' || c == '.' || c == ':'; }

// What is between the two, "" if `text` is not framed by them.
std::string_view Within(std::string_view begin, std::string_view text, std::string_view end) {
  if (text.size() <= begin.size() + end.size() || text.substr(0, begin.size()) != begin ||
      text.substr(text.size() - end.size()) != end) {
    return {};
  }
  return text.substr(begin.size(), text.size() - begin.size() - end.size());
}

// "im_start", "tool/call", not "' + role + '".
bool IsSpecialName(std::string_view name) {
  const auto allowed = [](char c) {
    return IsNameCharacter(c) || c == '/' || c == '+' || c == '=' || c == '#' || c == '*';
  };
  return std::any_of(name.begin(), name.end(), IsLetterOrDigit) &&
         std::all_of(name.begin(), name.end(), allowed);
}

// The name in "<x>", "</x>", "[x]", "<<x>>"; "" if `text` is no such thing.
std::string_view TagName(std::string_view text) {
  std::string_view name = Within("<<", text, ">>");
  if (name.empty()) name = Within("<", text, ">");
  if (name.empty()) name = Within("[", text, "]");
  if (!name.empty() && name.front() == '/') name.remove_prefix(1);
  const bool is_name = !name.empty() && IsLetter(name.front()) &&
                       std::all_of(name.begin(), name.end(), IsNameCharacter);
  return is_name ? name : std::string_view();
}

}  // namespace

Markup MarkupOf(std::string_view text) {
  if (text.size() > kMaxMarkupBytes) return Markup::kNone;
  if (Contains(kTurnNames, text)) return Markup::kSpecial;
  for (const auto& [begin, end] : kFrames) {
    if (IsSpecialName(Within(begin, text, end))) return Markup::kSpecial;
  }
  return TagName(text).empty() ? Markup::kNone : Markup::kTag;
}

bool EndsTurn(std::string_view text) { return Contains(kTurnEnds, text); }

bool EndsDocument(std::string_view text) { return Contains(kDocumentEnds, text); }

std::string CounterpartOf(std::string_view tag) {
  const size_t open = tag.substr(0, 2) == "<<" ? 2 : 1;
  const std::string begin(tag.substr(0, open)), rest(tag.substr(open));
  return rest.front() == '/' ? begin + rest.substr(1) : absl::StrCat(begin, "/", rest);
}

TemplateMarkup::TemplateMarkup(std::string_view templates) {
  for (size_t at = templates.find_first_of("<["); at != std::string_view::npos;
       at = templates.find_first_of("<[", at + 1)) {
    const char closes = templates[at] == '<' ? '>' : ']';
    const std::string_view rest = templates.substr(at, kMaxMarkupBytes);
    // The first bracket that closes, and the second in "<<x>>".
    size_t end = rest.find(closes);
    for (int i = 0; i < 2 && end != std::string_view::npos; ++i, end = rest.find(closes, end + 1)) {
      const std::string_view text = rest.substr(0, end + 1);
      if (MarkupOf(text) != Markup::kNone) texts_.emplace(text.data(), text.size());
    }
    for (const std::string_view open : {kFrames[0].first, kFrames[1].first}) {
      if (rest.substr(0, open.size()) != open) continue;
      const std::string_view next = rest.substr(open.size());
      composes_ = composes_ || next.substr(0, 1) == "'" || next.substr(0, 1) == "\"" ||
                  next.substr(0, 2) == "{{";
    }
  }
}

bool TemplateMarkup::Writes(std::string_view text) const {
  if (texts_.contains(absl::string_view(text.data(), text.size()))) return true;
  if (!composes_) return false;
  for (const auto& [begin, end] : {kFrames[0], kFrames[1]}) {
    const std::string_view name = Within(begin, text, end);
    const std::string role = absl::AsciiStrToLower(absl::string_view(name.data(), name.size()));
    if (Contains(kRoles, role)) return true;
  }
  return false;
}

}  // namespace tidegate
