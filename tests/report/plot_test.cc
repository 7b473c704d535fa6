// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/plot.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "elapse/core/error.h"
#include "elapse/core/random.h"
#include "tests/report/well_formed.h"

namespace elapse {
namespace {

using Style = Plot::Style;
using Values = std::vector<double>;

constexpr Style kStyles[] = {Style::line, Style::dashed,  Style::marked_line,
                             Style::step, Style::markers, Style::bars};

Plot plot_of(Values x, Values y, Style style = Style::line) {
  Plot plot("t", {"x"}, {"y"});
  plot.add({"series", std::move(x), std::move(y), style});
  return plot;
}

// The picture has no coordinate that is not a number.
void expect_drawn(const std::string& svg) {
  EXPECT_EQ(xml_fault(svg), "");
  for (const char* part : {"\"nan", "\"inf", "\"-nan", "\"-inf", " nan", ",nan", " inf", ",inf"}) {
    EXPECT_EQ(svg.find(part), std::string::npos) << part;
  }
}

TEST(Plot, DrawsAnyStyleOfOddData) {
  const Values odd = {1e300, -1e300, NAN, 0, INFINITY, 5e-324, -INFINITY, 1e308, 2};
  for (Scale scale : {Scale::linear, Scale::log2, Scale::log10}) {
    for (Style style : kStyles) {
      for (const Values& y :
           {Values{}, Values{4}, Values{NAN}, Values(9, 3.0), Values(9, NAN), odd}) {
        Values x;
        for (size_t i = 0; i < y.size(); ++i) x.push_back(static_cast<double>(i));
        Plot plot("t", {"x", scale}, {"y", scale});
        plot.add({"a", x, y, style}).add({"b", y, x, style, y, y}).mark(3, "m").mark(NAN, "n");
        expect_drawn(plot.html());
      }
    }
  }
}

TEST(Plot, DrawsWithoutSeries) { expect_drawn(Plot("", {}, {}).html()); }

TEST(Plot, BreaksLinesAtGaps) {
  const std::string whole = standalone_svg(plot_of({0, 1, 2, 3, 4}, {1, 2, 3, 2, 1}));
  const std::string broken = standalone_svg(plot_of({0, 1, 2, 3, 4}, {1, 2, NAN, 2, 1}));
  EXPECT_EQ(count_of(whole, "M "), 1u);
  EXPECT_EQ(count_of(broken, "M "), 2u);
}

TEST(Plot, ShowsPointsBetweenGaps) {
  EXPECT_EQ(count_of(standalone_svg(plot_of({0, 1, 2}, {NAN, 2, NAN})), "\"line dot\""), 1u);
}

TEST(Plot, ThinsLongSeriesOnly) {
  Random random(1);
  Values x, y;
  for (int i = 0; i < 200000; ++i) x.push_back(i), y.push_back(random.normal());
  EXPECT_LT(plot_of(x, y).html().size(), 60000u);
  EXPECT_LT(plot_of(x, y, Style::markers).html().size(), 400000u);
  x.resize(2000), y.resize(2000);
  EXPECT_EQ(count_of(standalone_svg(plot_of(x, y, Style::markers)), "<circle"), 2000u);
}

TEST(Plot, EqualPlotsAreEqualBytes) {
  Random random(1);
  Values x, y;
  for (int i = 0; i < 5000; ++i) x.push_back(i), y.push_back(random.normal());
  EXPECT_EQ(plot_of(x, y).html(), plot_of(x, y).html());
  y[2500] += 9;
  EXPECT_NE(plot_of(x, y).html(), plot_of(x, Values(5000, 0.0)).html());
}

TEST(Plot, EscapesItsNames) {
  const std::string name = "</title><script>\"&'\x01\xFF";
  Plot plot(name, {name}, {name});
  plot.add({name, {1, 2}, {3, 4}}).add({name, {1, 2}, {4, 3}}).mark(1.5, name);
  for (const std::string& markup : {plot.html(), standalone_svg(plot)}) {
    expect_drawn(markup);
    EXPECT_EQ(markup.find("<script"), std::string::npos);
  }
}

TEST(Plot, TellsValuesInTooltips) {
  const std::string svg = standalone_svg(plot_of({256, 1048576}, {1, 0.998}));
  EXPECT_NE(svg.find("<title>series\nx 1.04858e+06\ny 0.998</title>"), std::string::npos);
}

TEST(Plot, NamesSeriesWhereThereAreSeveral) {
  Plot plot("t", {}, {});
  plot.add({"first", {0, 1}, {0, 1}});
  EXPECT_EQ(count_of(standalone_svg(plot), "class=\"name\""), 0u);
  plot.add({"second", {0, 1}, {1, 0}, Style::bars});
  EXPECT_EQ(count_of(standalone_svg(plot), "class=\"name\""), 2u);
}

TEST(Plot, WhatBelongsToASeriesHasItsColourAndNoName) {
  Plot plot("", {}, {});
  plot.add({"one", {0, 1}, {0, 1}}).add({"two", {0, 1}, {1, 0}});
  plot.add({.name = "fit", .x = {0, 1}, .y = {1, 1}, .belongs_to = 1});
  const std::string html = plot.html();
  EXPECT_EQ(html.find("\"series s2\""), html.npos);
  EXPECT_EQ(html.find("fit</text>"), html.npos);
  EXPECT_NE(html.find("two</text>"), html.npos);
  EXPECT_THROW(plot.add({.name = "fit", .x = {0}, .y = {1}, .belongs_to = 3}), Error);
}

TEST(Plot, MarksOutsideTheAxisAreLeftOut) {
  Plot plot("t", {.label = "x", .lo = 0.0, .hi = 10.0}, {});
  plot.mark(5, "inside").mark(11, "outside");
  EXPECT_EQ(count_of(standalone_svg(plot), "class=\"mark\""), 1u);
}

TEST(Plot, LabelsOfMarksDoNotOverlap) {
  Plot plot("t", {.label = "x", .lo = 0.0, .hi = 100.0}, {.label = "y"});
  plot.mark(20, "a long label").mark(21, "another one").mark(70, "far away");
  const std::string svg = standalone_svg(plot);
  std::vector<std::string> heights;
  for (const char* label : {"a long label", "another one", "far away"}) {
    const size_t y = svg.rfind(" y=", svg.find(label));
    heights.push_back(svg.substr(y, svg.find(' ', y + 1) - y));
  }
  EXPECT_NE(heights[0], heights[1]);
  EXPECT_EQ(heights[1], heights[2]);
}

TEST(Plot, BarsStandOnZeroSideBySide) {
  Plot plot("t", {}, {.label = "", .lo = -1.0, .hi = 1.0});
  plot.add({"a", {0, 1}, {1, -1}, Style::bars}).add({"b", {0, 1}, {0.5, 0.5}, Style::bars});
  const std::string svg = standalone_svg(plot);
  EXPECT_EQ(count_of(svg, "height=\"160\""), 2u);  // half of the area each, up and down
  EXPECT_EQ(count_of(svg, "height=\"80\""), 2u);
}

TEST(Plot, StandaloneCarriesTitleAndStyle) {
  const std::string svg = standalone_svg(plot_of({0, 1}, {0, 1}));
  EXPECT_TRUE(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
  EXPECT_NE(svg.find("prefers-color-scheme"), std::string::npos);
  EXPECT_EQ(count_of(svg, "class=\"title\""), 1u);
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(Plot, RefusesSeriesOfUnequalLengths) {
  EXPECT_EQ(message_of([] {
              plot_of({1, 2}, {1});
            }),
            "plot series 'series': expected as many y as x, 2, found 1");
  Plot plot("t", {}, {});
  EXPECT_EQ(message_of([&] {
              plot.add({"s", {1}, {1}, Style::line, {1}, {}});
            }),
            "plot series 's': expected as many hi as x, 1, found 0");
}

TEST(Plot, RefusesAxesThatCannotBe) {
  EXPECT_EQ(message_of([] {
              Plot("t", {"x", Scale::log2, 0.0}, {});
            }),
            "plot 't': the axis 'x' cannot end at 0, expected a finite number above 0");
  EXPECT_EQ(message_of([] {
              Plot("t", {}, {"y", Scale::linear, 1.0, 1.0});
            }),
            "plot 't': expected the axis 'y' to ascend, found 1 to 1");
  EXPECT_NE(message_of([] { Plot("t", {"x", Scale::linear, NAN}, {}); }), "no error");
}

}  // namespace
}  // namespace elapse
