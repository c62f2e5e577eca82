// W3C trace context: which trace a request belongs to, as its caller says in the header or metadata
// `traceparent`. What is not of the right form counts as absent.
// Source: W3C Trace Context, level 1, section 3.2. Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tidegate {

inline constexpr char kTraceparentKey[] = "traceparent";
inline constexpr char kTracestateKey[] = "tracestate";

struct TraceContext {
  std::string trace_id;   // 16 bytes, not all zero
  std::string parent_id;  // 8 bytes of the caller's span, not all zero
  bool sampled = false;   // the caller records the trace
  std::string state;      // `tracestate` as it came; "" where it is too long or no ASCII
};

std::optional<TraceContext> ParseTraceContext(std::string_view traceparent,
                                              std::string_view tracestate = "");

}  // namespace tidegate
