#include "measure/svg_plot.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "base/text.h"

namespace tidegate {
namespace {

constexpr double kWidth = 720, kHeight = 420;
constexpr double kLeft = 70, kRight = 510, kTop = 40, kBottom = 360;  // of the axes
// Okabe and Ito's colours, which people with colour-vision deficiencies tell apart.
constexpr const char* kColours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                    "#e69f00", "#56b4e9", "#000000", "#8c8c00"};

// One direction: values to pixels.
class Axis {
 public:
  Axis(double from, double to, bool log) : from_(from), to_(to), log_(log) {}

  bool Takes(double value) const { return std::isfinite(value) && (!log_ || value > 0); }
  void Include(double value) {
    low_ = std::min(low_, Scaled(value));
    high_ = std::max(high_, Scaled(value));
  }
  // After the last Include(): room at both ends.
  void Close() {
    if (low_ > high_) low_ = 0, high_ = 1;
    if (high_ - low_ < 1e-9 * std::max(1.0, std::fabs(high_))) low_ -= 0.5, high_ += 0.5;
    const double room = 0.05 * (high_ - low_);
    low_ -= room;
    high_ += room;
  }
  double Pixel(double value) const {
    return from_ + (Scaled(value) - low_) / (high_ - low_) * (to_ - from_);
  }
  std::vector<double> Ticks() const {
    std::vector<double> ticks;
    if (!log_) return RoundTicks(low_, high_, 6);
    // Decades are too far apart for most plots: 1, 2 and 5 of each.
    for (int e = static_cast<int>(std::floor(low_)); e <= high_; ++e) {
      for (const double m : {1.0, 2.0, 5.0}) {
        const double tick = m * std::pow(10, e);
        if (Scaled(tick) >= low_ && Scaled(tick) <= high_) ticks.push_back(tick);
      }
    }
    return ticks.size() >= 2 ? ticks : RoundTicks(std::pow(10, low_), std::pow(10, high_), 5);
  }

 private:
  double Scaled(double value) const { return log_ ? std::log10(value) : value; }

  double from_, to_;
  bool log_;
  double low_ = std::numeric_limits<double>::infinity();
  double high_ = -std::numeric_limits<double>::infinity();
};

void AppendText(std::string* out, double x, double y, const char* anchor, const std::string& text,
                const char* more = "") {
  absl::StrAppendFormat(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>%s</text>\n", x, y,
                        anchor, more, EscapeXml(text));
}

void AppendLine(std::string* out, double x1, double y1, double x2, double y2, const char* colour) {
  absl::StrAppendFormat(out,
                        "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n",
                        x1, y1, x2, y2, colour);
}

void AppendAxes(std::string* out, const Plot& plot, const Axis& x, const Axis& y) {
  for (const double tick : x.Ticks()) {
    AppendLine(out, x.Pixel(tick), kTop, x.Pixel(tick), kBottom, "#e4e4e4");
    AppendText(out, x.Pixel(tick), kBottom + 18, "middle", absl::StrFormat("%.6g", tick));
  }
  for (const double tick : y.Ticks()) {
    AppendLine(out, kLeft, y.Pixel(tick), kRight, y.Pixel(tick), "#e4e4e4");
    AppendText(out, kLeft - 8, y.Pixel(tick) + 4, "end", absl::StrFormat("%.6g", tick));
  }
  absl::StrAppendFormat(out,
                        "<rect x=\"%.0f\" y=\"%.0f\" width=\"%.0f\" height=\"%.0f\" fill=\"none\" "
                        "stroke=\"#808080\"/>\n",
                        kLeft, kTop, kRight - kLeft, kBottom - kTop);
  const double middle = (kTop + kBottom) / 2;
  AppendText(out, (kLeft + kRight) / 2, 24, "middle", plot.title, " font-weight=\"bold\"");
  AppendText(out, (kLeft + kRight) / 2, kHeight - 16, "middle", plot.x_label);
  AppendText(out, 18, middle, "middle", plot.y_label,
             absl::StrFormat(" transform=\"rotate(-90 18 %.0f)\"", middle).c_str());
}

void AppendSeries(std::string* out, const PlotSeries& series, size_t index, const Axis& x,
                  const Axis& y) {
  const char* colour = kColours[index % std::size(kColours)];
  const double legend = kTop + 10 + 18 * static_cast<double>(index);
  std::string path, marks;
  for (const auto& [px, py] : series.points) {
    if (!x.Takes(px) || !y.Takes(py)) continue;
    absl::StrAppendFormat(&path, "%s%.1f,%.1f", path.empty() ? "" : " ", x.Pixel(px), y.Pixel(py));
    if (!series.marks) continue;
    absl::StrAppendFormat(
        &marks,
        "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"%s\"><title>%s: %.6g, %.6g</title>"
        "</circle>\n",
        x.Pixel(px), y.Pixel(py), colour, EscapeXml(series.name), px, py);
  }
  if (series.line) {
    absl::StrAppendFormat(
        out, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.8\"/>\n", path,
        colour);
  }
  out->append(marks);
  absl::StrAppendFormat(out, "<circle cx=\"%.0f\" cy=\"%.0f\" r=\"4\" fill=\"%s\"/>\n", kRight + 18,
                        legend, colour);
  AppendText(out, kRight + 28, legend + 4, "start", series.name);
}

}  // namespace

std::string EscapeXml(const std::string& text) {
  // XML has no way to write most control characters, and none to write bytes that are no UTF-8.
  return absl::StrReplaceAll(
      PrintableLines(text, std::string::npos),
      {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}, {"'", "&#39;"}});
}

std::vector<double> RoundTicks(double low, double high, int count) {
  const double raw = (high - low) / count;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  const double lead = raw / power;
  const double step = power * (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 5 ? 5 : 10);
  std::vector<double> ticks;
  for (double i = std::ceil(low / step); i * step <= high; ++i)
    ticks.push_back(i * step + 0.0);  // -0 becomes 0
  return ticks;
}

std::string RenderSvg(const Plot& plot) {
  Axis x(kLeft, kRight, plot.log_x), y(kBottom, kTop, plot.log_y);
  for (const PlotSeries& series : plot.series) {
    for (const auto& [px, py] : series.points) {
      if (!x.Takes(px) || !y.Takes(py)) continue;
      x.Include(px);
      y.Include(py);
    }
  }
  if (plot.y_from_zero) y.Include(0);
  x.Close();
  y.Close();
  std::string out = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" "
      "height=\"%.0f\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n",
      kWidth, kHeight, kWidth, kHeight);
  AppendAxes(&out, plot, x, y);
  for (size_t i = 0; i < plot.series.size(); ++i) AppendSeries(&out, plot.series[i], i, x, y);
  out.append("</svg>\n");
  return out;
}

}  // namespace tidegate
