// The forms in which `tidegate load` shows its results: text, JSON, and a page with plots. Pure;
// thread-safe.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "cli/load_meter.h"
#include "measure/report_folder.h"

namespace tidegate {

// One run: what was asked for, and what was measured.
struct MeasuredLoad {
  uint32_t streams = 1;             // open at once at most
  std::optional<double> rate = {};  // requests per second; unset: closed loop
  double cpu_seconds = 0;           // that this program used
  LoadResult result = {};
};

// What the runs have in common.
struct LoadSubject {
  std::string model = {};     // name, architecture and encoding
  std::string server = {};    // address
  std::string workload = {};  // a sentence about prompts and lengths
  std::string command = {};   // that made them
  uint64_t seed = 0;
  bool goals = false;  // whether good requests were told apart
};

// One run at length.
std::string LoadText(const LoadSubject& subject, const MeasuredLoad& load);

// A table of several, one line each.
std::string LoadTable(const LoadSubject& subject, std::span<const MeasuredLoad> loads);

// One line without line end. Figures that vLLM's `bench serve` has too have its names; latencies
// are milliseconds.
std::string LoadJson(const LoadSubject& subject, const MeasuredLoad& load);

// All of it for people. Plots: ttft and itl (shares of events), tokens and streams (over time);
// where there are several runs, speed and latency too.
ReportPage LoadPage(const LoadSubject& subject, std::span<const MeasuredLoad> loads);

}  // namespace tidegate
