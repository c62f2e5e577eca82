// Reads the Prometheus text format as far as tests need it.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace tidegate {

// The value of one series, written as in the page with labels in any order:
// tidegate_requests_total{model="m",code="OK"}. Missing: nullopt. Several matches: the first.
std::optional<double> SampleValue(const std::string& page, const std::string& series);

// What must not change by accident: one line "name type label,label" per family with its label
// names (without le and quantile), sorted. A family whose series differ in their labels gives a
// line for each. Series behind no # TYPE line have the type "untyped".
std::vector<std::string> MetricsShape(const std::string& page);

}  // namespace tidegate
