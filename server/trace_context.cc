#include "server/trace_context.h"

#include <algorithm>

namespace tidegate {
namespace {

constexpr size_t kMaxTracestateBytes = 512;
constexpr size_t kTraceparentBytes = 55;  // of version 0: 00-<32>-<16>-<2>

int LowerHexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

std::optional<std::string> BytesOfHex(std::string_view hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    const int high = LowerHexDigit(hex[i]), low = LowerHexDigit(hex[i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    bytes += static_cast<char>(high * 16 + low);
  }
  return bytes;
}

bool AllZero(const std::string& bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](char c) { return c == 0; });
}

}  // namespace

std::optional<TraceContext> ParseTraceContext(std::string_view traceparent,
                                              std::string_view tracestate) {
  const std::string_view text = traceparent;
  if (text.size() < kTraceparentBytes || text[2] != '-' || text[35] != '-' || text[52] != '-') {
    return std::nullopt;
  }
  const auto version = BytesOfHex(text.substr(0, 2));
  auto trace_id = BytesOfHex(text.substr(3, 32)), parent_id = BytesOfHex(text.substr(36, 16));
  const auto flags = BytesOfHex(text.substr(53, 2));
  if (!version || !trace_id || !parent_id || !flags || *version == "\xff") return std::nullopt;
  // Later versions may have more behind a dash.
  const bool longer = text.size() > kTraceparentBytes;
  if (longer && (AllZero(*version) || text[kTraceparentBytes] != '-')) return std::nullopt;
  if (AllZero(*trace_id) || AllZero(*parent_id)) return std::nullopt;
  TraceContext context = {.trace_id = *std::move(trace_id),
                          .parent_id = *std::move(parent_id),
                          .sampled = ((*flags)[0] & 1) != 0,
                          .state = {}};
  const bool printable = std::all_of(tracestate.begin(), tracestate.end(),
                                     [](char c) { return c >= 0x20 && c < 0x7f; });
  if (printable && tracestate.size() <= kMaxTracestateBytes) context.state = tracestate;
  return context;
}

}  // namespace tidegate
