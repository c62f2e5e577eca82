// The forms in which `tidegate simulate` shows its results. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "measure/report_folder.h"

namespace tidegate {

// One modelled machine and policy.
struct SimulatedRow {
  uint64_t dram_bytes = 0;
  double flash_bytes_per_second = 0;
  std::string policy;  // "dense" or of the replay
  double hit_rate = 0;
  double flash_bytes_per_token = 0;
  double tokens_per_second = 0;
  double times_dense = 1;
};

std::string SimulatedTable(std::span<const SimulatedRow> rows);
std::string SimulatedCsv(std::span<const SimulatedRow> rows);

// Without title, about and command. Plots: tokens per second against DRAM and against the speed of
// flash, and the gain over dense for every machine.
ReportPage SimulatedPage(std::span<const SimulatedRow> rows);

}  // namespace tidegate
