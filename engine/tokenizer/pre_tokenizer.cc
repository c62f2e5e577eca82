#include "engine/tokenizer/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/utf8.h"

namespace tidegate {
namespace {

using store::v1::SplitStep;

constexpr int kMaxSteps = 16;                 // real vocabularies have up to 6
constexpr size_t kMaxPatternBytes = 8 << 10;  // the longest known one has 900
// Backtracking of one match from one place: a run of white space is taken back once, character by
// character, by several alternatives. Short pieces have little to go back over, so that a slow
// pattern of a file is noticed early.
constexpr uint64_t kMatchLimit = 20'000;
constexpr uint64_t kMatchLimitPerByte = 32;
constexpr uint64_t kMaxMatchLimit = 100'000'000;
constexpr uint32_t kHeapLimitKib = 32 << 10;

struct CodeFree {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct MatchFree {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct ContextFree {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
using Code = std::unique_ptr<pcre2_code, CodeFree>;
using MatchData = std::unique_ptr<pcre2_match_data, MatchFree>;
using MatchContext = std::unique_ptr<pcre2_match_context, ContextFree>;

absl::StatusOr<Code> Compile(const std::string& pattern) {
  const std::string shown = Printable(pattern, 60);
  if (pattern.empty() || pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: the pattern \"", shown, "\" has ",
                                                   pattern.size(), " bytes; patterns have 1 to ",
                                                   kMaxPatternBytes));
  }
  int error = 0;
  PCRE2_SIZE offset = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                          PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                          nullptr));
  if (code == nullptr) {
    std::array<PCRE2_UCHAR, 160> reason{};
    pcre2_get_error_message(error, reason.data(), reason.size());
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer: the pattern \"", shown, "\" is no regular expression: ",
                     reinterpret_cast<const char*>(reason.data()), " at byte ", offset));
  }
  // Without executable memory the interpreter matches the same, only slower.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return code;
}

struct Range {
  size_t begin = 0, end = 0;
  bool match = false;
};

// Whether `next` belongs to the piece that `before` is.
bool Joins(SplitStep::Cut cut, const Range& before, const Range& next) {
  switch (cut) {
    case SplitStep::CUT_MERGED_WITH_PREVIOUS:
      return !before.match && next.match;
    case SplitStep::CUT_MERGED_WITH_NEXT:
      return before.match && !next.match;
    case SplitStep::CUT_CONTIGUOUS:
      return before.match == next.match;
    default:
      return false;
  }
}

}  // namespace

struct PreTokenizer::Step {
  Code code;
  SplitStep::Cut cut;
  bool invert;
};

// One call of Split(): its state for PCRE2, which is not shared between threads.
class PreTokenizer::Pass {
 public:
  Pass(const std::vector<Step>& steps, absl::FunctionRef<void(std::string_view)> put)
      : steps_(steps), put_(put), context_(pcre2_match_context_create(nullptr)) {
    CHECK(context_ != nullptr);  // out of memory
    pcre2_set_heap_limit(context_.get(), kHeapLimitKib);
    for (const Step& step : steps) {
      matches_.emplace_back(pcre2_match_data_create_from_pattern(step.code.get(), nullptr));
      CHECK(matches_.back() != nullptr);
    }
  }

  // Cuts `piece`, which is UTF-8, by the steps from number `index` on.
  void Cut(size_t index, std::string_view piece) {
    if (index == steps_.size()) return put_(piece);
    const Step& step = steps_[index];
    SetLimit(piece.size());
    Range pending;
    const auto flush = [&] {
      if (pending.begin == pending.end) return;
      if (step.cut == SplitStep::CUT_REMOVED && pending.match) return;
      Cut(index + 1, piece.substr(pending.begin, pending.end - pending.begin));
      SetLimit(piece.size());
    };
    const auto add = [&](size_t begin, size_t end, bool match) {
      if (begin == end) return;
      const Range next{begin, end, match != step.invert};
      if (pending.begin < pending.end && Joins(step.cut, pending, next)) {
        pending.end = end;
        pending.match = next.match;
      } else {
        flush();
        pending = next;
      }
    };
    size_t gap = 0;
    for (size_t at = 0; at < piece.size();) {
      const Range found = Find(index, piece, at);
      if (!found.match) break;
      if (found.begin == found.end) {  // An empty match cuts nothing.
        at = found.end;
        if (at < piece.size()) at += NextUtf8(piece.substr(at)).bytes;
        continue;
      }
      add(gap, found.begin, false);
      add(found.begin, found.end, true);
      gap = at = found.end;
    }
    add(gap, piece.size(), false);
    flush();
  }

 private:
  void SetLimit(size_t bytes) {
    const uint64_t limit = std::min(kMatchLimit + kMatchLimitPerByte * bytes, kMaxMatchLimit);
    pcre2_set_match_limit(context_.get(), static_cast<uint32_t>(limit));
  }

  // The first match from `at` on; Range::match is false if there is none, or none within the
  // limits.
  Range Find(size_t index, std::string_view piece, size_t at) {
    const auto match = [&](uint32_t options) {
      return pcre2_match(steps_[index].code.get(), reinterpret_cast<PCRE2_SPTR>(piece.data()),
                         piece.size(), at, PCRE2_NO_UTF_CHECK | options, matches_[index].get(),
                         context_.get());
    };
    int result = match(0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(PCRE2_NO_JIT);
    if (result < 0) return {};
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(matches_[index].get());
    if (span[0] < at || span[1] < span[0]) return {};  // \K within an assertion can do this
    return {span[0], span[1], true};
  }

  const std::vector<Step>& steps_;
  absl::FunctionRef<void(std::string_view)> put_;
  MatchContext context_;
  std::vector<MatchData> matches_;  // one per step
};

PreTokenizer::PreTokenizer() = default;
PreTokenizer::~PreTokenizer() = default;

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::Create(
    const store::v1::Tokenizer& data) {
  if (data.split_steps_size() > kMaxSteps) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: ", data.split_steps_size(),
                                                   " patterns; at most ", kMaxSteps, " are read"));
  }
  std::unique_ptr<PreTokenizer> result(new PreTokenizer);
  for (const SplitStep& step : data.split_steps()) {
    if (step.cut() <= SplitStep::CUT_UNSPECIFIED || step.cut() > SplitStep::CUT_CONTIGUOUS) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer: unknown way to cut at a pattern: ", step.cut()));
    }
    ASSIGN_OR_RETURN(Code code, Compile(step.pattern()));
    result->steps_.push_back({std::move(code), step.cut(), step.invert()});
  }
  return result;
}

void PreTokenizer::Split(std::string_view text,
                         absl::FunctionRef<void(std::string_view)> put) const {
  Pass pass(steps_, put);
  size_t begin = 0;  // of a stretch of UTF-8
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(text.substr(at));
    if (step.kind != Utf8Kind::kCharacter) {
      if (at > begin) pass.Cut(0, text.substr(begin, at - begin));
      put(text.substr(at, step.bytes));
      begin = at + step.bytes;
    }
    at += step.bytes;
  }
  if (begin < text.size()) pass.Cut(0, text.substr(begin));
}

}  // namespace tidegate
