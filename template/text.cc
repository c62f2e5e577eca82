#include "template/text.h"

#include <algorithm>
#include <utility>

namespace tidegate::jinja {

Text::Text(std::string bytes, Origin origin) : bytes_(std::move(bytes)) {
  if (origin == Origin::kData) AddSpan(0, bytes_.size());
}

void Text::AddSpan(size_t begin, size_t end) {
  if (begin >= end) return;
  if (!spans_.empty() && spans_.back().end == begin) {
    spans_.back().end = end;
  } else {
    spans_.push_back({begin, end});
  }
}

Text Text::Sub(size_t begin, size_t end) const {
  Text out(bytes_.substr(begin, end - begin));
  auto span = std::upper_bound(spans_.begin(), spans_.end(), begin,
                               [](size_t at, const Span& s) { return at < s.end; });
  for (; span != spans_.end() && span->begin < end; ++span) {
    out.AddSpan(std::max(span->begin, begin) - begin, std::min(span->end, end) - begin);
  }
  return out;
}

void Text::Append(const Text& other) {
  const size_t base = bytes_.size();
  bytes_ += other.bytes_;
  for (const Span& span : other.spans_) AddSpan(base + span.begin, base + span.end);
}

void Text::Append(std::string_view bytes, Origin origin) {
  const size_t base = bytes_.size();
  bytes_ += bytes;
  if (origin == Origin::kData) AddSpan(base, bytes_.size());
}

}  // namespace tidegate::jinja
