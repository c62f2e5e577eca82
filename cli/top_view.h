// What `tidegate top` shows of two readings of both programs' metrics: rates between them, and
// totals. Pure.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "cli/metrics_page.h"

namespace tidegate {

// What was read at one time; nothing where a program did not answer.
struct TopReading {
  double time_s = 0;  // of a steady clock
  std::optional<ReadMetrics> engine = {}, store = {};
  std::string engine_problem = {}, store_problem = {};  // why there is nothing
};

// A table of lines of at most `columns` bytes of ASCII, model names aside; each ends in a line
// feed. Where there is no `before`, or a program was started anew since, rates are "-".
std::string TopTable(const TopReading* before, const TopReading& now, size_t columns);

}  // namespace tidegate
