#include "base/config_file.h"

#include <algorithm>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace tidegate {
namespace {

constexpr char kForm[] = "write name = value";

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\r'; }

// Takes what stands at the start of a line, piece by piece.
class Line {
 public:
  explicit Line(std::string_view text) : rest_(text) {}

  void SkipSpace() {
    while (!rest_.empty() && IsSpace(rest_.front())) rest_.remove_prefix(1);
  }
  // True at the end and before a comment.
  bool AtEnd() {
    SkipSpace();
    return rest_.empty() || rest_.front() == '#';
  }
  bool Take(char c) {
    SkipSpace();
    if (rest_.empty() || rest_.front() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }
  bool Sees(char c) {
    SkipSpace();
    return !rest_.empty() && rest_.front() == c;
  }
  std::string_view rest() const { return rest_; }

  // Everything before `stop`, without the spaces around it; `stop` stays.
  std::string_view TakeBefore(char stop) {
    SkipSpace();
    std::string_view taken = rest_.substr(0, rest_.find(stop));
    rest_.remove_prefix(taken.size());
    while (!taken.empty() && IsSpace(taken.back())) taken.remove_suffix(1);
    return taken;
  }

  // "text", 'text', or bare text up to a comment or, in a list, to its next comma or end.
  absl::StatusOr<std::string> TakeValue(bool in_list) {
    SkipSpace();
    for (const char quote : {'"', '\''}) {
      if (!Take(quote)) continue;
      const size_t end = rest_.find(quote);
      if (end == std::string_view::npos) {
        return absl::InvalidArgumentError(
            absl::StrCat("a text without its closing ", std::string(1, quote)));
      }
      std::string value(rest_.substr(0, end));
      rest_.remove_prefix(end + 1);
      return value;
    }
    size_t end = 0;
    while (end < rest_.size() && !(in_list && (rest_[end] == ',' || rest_[end] == ']')) &&
           !(rest_[end] == '#' && (end == 0 || IsSpace(rest_[end - 1])))) {
      ++end;
    }
    std::string_view value = rest_.substr(0, end);
    rest_.remove_prefix(end);
    while (!value.empty() && IsSpace(value.back())) value.remove_suffix(1);
    return std::string(value);
  }

 private:
  std::string_view rest_;
};

absl::StatusOr<std::vector<std::string>> TakeValues(Line& line) {
  std::vector<std::string> values;
  if (!line.Take('[')) {
    ASSIGN_OR_RETURN(values.emplace_back(), line.TakeValue(/*in_list=*/false));
    return values;
  }
  while (!line.Take(']')) {
    if (!values.empty() && !line.Take(',')) {
      return absl::InvalidArgumentError("a list without its closing ]");
    }
    if (line.Take(']')) break;  // after a comma
    ASSIGN_OR_RETURN(values.emplace_back(), line.TakeValue(/*in_list=*/true));
    if (line.AtEnd()) return absl::InvalidArgumentError("a list without its closing ]");
  }
  return values;
}

absl::StatusOr<ConfigEntry> ParseLine(std::string_view text) {
  if (text.find('\0') != std::string_view::npos) {
    return absl::InvalidArgumentError("holds a NUL byte; this is no text file");
  }
  Line line(text);
  if (line.Sees('[')) {
    return absl::InvalidArgumentError(
        absl::StrCat("section ", Quoted(line.rest()), " is not known: there are no sections"));
  }
  ConfigEntry entry;
  entry.name = std::string(line.TakeBefore('='));
  if (!line.Take('=') || entry.name.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(text), ": ", kForm));
  }
  ASSIGN_OR_RETURN(entry.values, TakeValues(line));
  if (line.AtEnd()) return entry;
  return absl::InvalidArgumentError(absl::StrCat(Quoted(line.rest()), " behind the value"));
}

}  // namespace

absl::StatusOr<std::vector<ConfigEntry>> ParseConfig(std::string_view text) {
  std::vector<ConfigEntry> entries;
  std::map<std::string, int> seen;
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (Line start(line); start.AtEnd() || start.Sees(';')) continue;
    absl::StatusOr<ConfigEntry> entry = ParseLine(line);
    const std::string where = absl::StrCat("line ", number);
    if (!entry.ok()) return Annotate(entry.status(), where);
    entry->line = number;
    const auto [first, added] = seen.emplace(entry->name, number);
    if (!added) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": ", Quoted(entry->name),
                                                     " stands in line ", first->second,
                                                     " already; lists are [a, b]"));
    }
    entries.push_back(*std::move(entry));
  }
  return entries;
}

size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> before, last, row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    before = last;
    last = row;
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
  }
  return row[b.size()];
}

std::string NearestName(std::string_view name, const std::vector<std::string>& known) {
  constexpr size_t kLongestName = 64;  // longer ones are no misspelling
  if (name.size() > kLongestName) return "";
  std::string plain(name);
  for (char& c : plain) c = c == '_' ? '-' : absl::ascii_tolower(static_cast<unsigned char>(c));
  std::string nearest;
  size_t least = std::max<size_t>(2, plain.size() / 3) + 1;
  for (const std::string& candidate : known) {
    const size_t distance = EditDistance(plain, candidate);
    if (distance >= least) continue;
    least = distance;
    nearest = candidate;
  }
  return nearest;
}

}  // namespace tidegate
