#include "measure/svg_plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tidegate::svg_plot_test {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

size_t Count(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(SvgPlotTest, TicksAreRound) {
  EXPECT_THAT(RoundTicks(0, 10, 5), ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_THAT(RoundTicks(0.13, 0.47, 4),
              ElementsAre(DoubleNear(0.2, 1e-9), DoubleNear(0.3, 1e-9), DoubleNear(0.4, 1e-9)));
  EXPECT_THAT(RoundTicks(-1, 1, 2), ElementsAre(-1, 0, 1));
}

TEST(SvgPlotTest, EveryPointIsThereOnceWithItsValues) {
  const std::string svg =
      RenderSvg({.title = "a & b", .series = {{.name = "x < y", .points = {{1, 2}, {3, 4.5}}}}});
  EXPECT_THAT(svg, HasSubstr("a &amp; b"));
  EXPECT_THAT(svg, HasSubstr("x &lt; y: 3, 4.5"));
  EXPECT_EQ(Count(svg, "<title>"), 2u);
  EXPECT_EQ(Count(svg, "<polyline"), 1u);
  EXPECT_EQ(Count(svg, "<svg"), Count(svg, "</svg>"));
}

TEST(SvgPlotTest, PointsThatCannotBeDrawnAreLeftOut) {
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  const std::string svg =
      RenderSvg({.series = {{.name = "s", .points = {{1, nan}, {infinity, 1}, {-1, 1}, {2, 1}}}},
                 .log_x = true});
  EXPECT_EQ(Count(svg, "<title>"), 1u);
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
}

TEST(SvgPlotTest, CurvesHaveNoMarksAndMayBeginAtZero) {
  const std::string svg =
      RenderSvg({.series = {{.name = "s", .points = {{1, 80}, {2, 100}}, .marks = false}},
                 .y_from_zero = true});
  EXPECT_EQ(Count(svg, "<title>"), 0u);
  EXPECT_EQ(Count(svg, "<polyline"), 1u);
  EXPECT_THAT(svg, HasSubstr(">0<"));
  EXPECT_THAT(svg, Not(HasSubstr(">-0<")));
}

TEST(SvgPlotTest, NothingAndOnePointHaveAxesToo) {
  EXPECT_THAT(RenderSvg({}), HasSubstr("<rect"));
  const std::string svg = RenderSvg({.series = {{.name = "s", .points = {{7, 7}}}}});
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

}  // namespace tidegate::svg_plot_test
