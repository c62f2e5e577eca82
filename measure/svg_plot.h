// Line and scatter plots as SVG text, for reports that need nothing but a browser. Pure.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace tidegate {

struct PlotSeries {
  std::string name = {};                               // in the legend
  std::vector<std::pair<double, double>> points = {};  // x, y; joined in this order
  bool line = true;                                    // false: points only
  bool marks = true;  // false: the line alone, for curves of many points
};

struct Plot {
  std::string title = {}, x_label = {}, y_label = {};
  std::vector<PlotSeries> series = {};
  bool log_x = false, log_y = false;  // points that are not positive are left out
  bool y_from_zero = false;           // not with log_y
};

// A series for each name, in the order of their first row, with a point for each of its rows.
template <typename Rows, typename Name, typename X, typename Y>
std::vector<PlotSeries> SeriesOf(const Rows& rows, Name name, X x, Y y) {
  std::vector<PlotSeries> series;
  std::map<std::string, size_t> index;
  for (const auto& row : rows) {
    const auto [at, added] = index.emplace(name(row), series.size());
    if (added) series.push_back({.name = at->first});
    series[at->second].points.emplace_back(x(row), y(row));
  }
  return series;
}

// One <svg> element, 720 by 420 pixels, with a legend on its right. Points that are not finite are
// left out. Texts are escaped.
std::string RenderSvg(const Plot& plot);

// & < > " as entities.
std::string EscapeXml(const std::string& text);

// About `count` round numbers that span [low, high]: 1, 2 or 5 times a power of ten apart.
// REQUIRES: low < high.
std::vector<double> RoundTicks(double low, double high, int count);

}  // namespace tidegate
