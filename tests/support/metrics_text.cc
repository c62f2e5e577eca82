#include "tests/support/metrics_text.h"

#include <cstdlib>
#include <map>
#include <set>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tidegate {
namespace {

struct Series {
  std::string name;
  std::map<std::string, std::string> labels;
  std::string rest;  // behind the labels: " 1.5"
};

// name{label="value",...} value. Escaped quotes inside values are stepped over.
Series ParseSeries(const std::string& line) {
  Series series;
  const size_t name_end = line.find_first_of("{ ");
  series.name = line.substr(0, name_end);
  if (name_end == std::string::npos) return series;
  size_t at = name_end;
  if (line[at] == '{') {
    ++at;
    while (at < line.size() && line[at] != '}') {
      const size_t equals = line.find("=\"", at);
      if (equals == std::string::npos) return series;
      size_t end = equals + 2;
      while (end < line.size() && line[end] != '"') end += line[end] == '\\' ? 2 : 1;
      series.labels[line.substr(at, equals - at)] = line.substr(equals + 2, end - equals - 2);
      at = end + 1;
      if (at < line.size() && line[at] == ',') ++at;
    }
    ++at;
  }
  if (at < line.size()) series.rest = line.substr(at);
  return series;
}

// The family that a series belongs to: histograms and summaries add suffixes to their name.
std::string FamilyOf(const std::string& name, const std::map<std::string, std::string>& types) {
  if (types.count(name) > 0) return name;
  for (const std::string suffix : {"_bucket", "_sum", "_count"}) {
    if (name.size() <= suffix.size()) continue;
    const std::string stem = name.substr(0, name.size() - suffix.size());
    if (name.compare(stem.size(), suffix.size(), suffix) == 0 && types.count(stem) > 0) return stem;
  }
  return name;
}

}  // namespace

std::optional<double> SampleValue(const std::string& page, const std::string& series) {
  const Series wanted = ParseSeries(series);
  std::istringstream lines(page);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line[0] == '#') continue;
    const Series found = ParseSeries(line);
    if (found.name == wanted.name && found.labels == wanted.labels) {
      return std::strtod(found.rest.c_str(), nullptr);
    }
  }
  return std::nullopt;
}

std::vector<std::string> MetricsShape(const std::string& page) {
  std::map<std::string, std::string> types;
  std::set<std::string> shape;
  std::istringstream lines(page);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("# TYPE ", 0) == 0) {
      std::istringstream words(line.substr(7));
      std::string name, type;
      words >> name >> type;
      types[name] = type;
    }
    if (line.empty() || line[0] == '#') continue;
    const Series series = ParseSeries(line);
    const std::string family = FamilyOf(series.name, types);
    std::vector<std::string> labels;
    for (const auto& [label, value] : series.labels) {
      if (label != "le" && label != "quantile") labels.push_back(label);
    }
    const std::string type = types.count(family) > 0 ? types[family] : "untyped";
    shape.insert(
        absl::StrCat(family, " ", type, labels.empty() ? "" : " ", absl::StrJoin(labels, ",")));
  }
  return {shape.begin(), shape.end()};
}

}  // namespace tidegate
