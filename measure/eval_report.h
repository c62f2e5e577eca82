// The forms in which `tidegate eval` shows its results: a table, CSV, JSON, and a folder with an
// HTML page and plots. Pure, but for WriteEvalReport().
#pragma once

#include <span>
#include <string>

#include "measure/evaluation.h"
#include "measure/report_folder.h"

namespace tidegate {

// What the results have in common.
struct EvalSubject {
  std::string model;    // file name
  std::string text;     // the same
  std::string command;  // that made them
  DeviceSpeeds device;
};

// One line of JSON, without line end.
std::string EvalJson(const EvalResult& result);

// A table for people, and below it what the results say: for every cache fraction the smallest
// perplexity at 1.4 and 2.7 times the modelled speed of streaming every weight.
std::string EvalTable(std::span<const EvalResult> results);

// One result at length.
std::string EvalText(const EvalResult& result);

// With a line of names; "" where a value was not asked for.
std::string EvalCsv(std::span<const EvalResult> results);

// Perplexity against density, memory and modelled speed, the last with the Pareto front of every
// cache fraction.
Plot DensityPlot(std::span<const EvalResult> results);
Plot MemoryPlot(std::span<const EvalResult> results);
Plot SpeedPlot(std::span<const EvalResult> results);

// All of it for people. Plots: density, memory, speed.
ReportPage EvalPage(const EvalSubject& subject, std::span<const EvalResult> results);

}  // namespace tidegate
