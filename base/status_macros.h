// Early return on error for functions that return absl::Status or absl::StatusOr.
// The packaged Abseil (20220623) does not have these yet. Any thread.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define TG_CONCAT_INNER(a, b) a##b
#define TG_CONCAT(a, b) TG_CONCAT_INNER(a, b)

// RETURN_IF_ERROR(expr): returns the status of `expr` from the enclosing function unless it is OK.
#define RETURN_IF_ERROR(expr)                                               \
  do {                                                                      \
    if (absl::Status tg_status = (expr); !tg_status.ok()) return tg_status; \
  } while (false)

// ASSIGN_OR_RETURN(auto value, expr): `value` of a StatusOr, or return its status.
#define ASSIGN_OR_RETURN(lhs, expr) ASSIGN_OR_RETURN_INNER(TG_CONCAT(tg_or_, __LINE__), lhs, expr)
#define ASSIGN_OR_RETURN_INNER(tmp, lhs, expr) \
  auto tmp = (expr);                           \
  if (!tmp.ok()) return tmp.status();          \
  lhs = std::move(tmp).value()

namespace tidegate {

// The same error with `context` in front, so that a message names what was being done.
absl::Status Annotate(const absl::Status& status, std::string_view context);

}  // namespace tidegate
