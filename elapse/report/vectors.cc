// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/vectors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "elapse/core/error.h"
#include "elapse/report/markup.h"
#include "elapse/report/plot_series.h"

namespace elapse {
namespace {

constexpr double kHalf = 70;       // of a picture's side
constexpr double kReach = 54;      // of the longest vector
constexpr double kLabelGap = 9;    // from a tip to its number
constexpr double kLabelled = 0.1;  // of the reach: shorter vectors have no number
constexpr double kTextDrop = 3.5;  // from a number's middle to its baseline

double longest(const VectorPanels& panels) {
  double length = 0;
  for (const VectorPanels::Panel& panel : panels.panels) {
    for (const auto& [x, y] : panel.vectors) {
      ELAPSE_CHECK(std::isfinite(x) && std::isfinite(y), "vectors \"{}\": ({}, {}) is not finite",
                   panel.title, x, y);
      length = std::max(length, std::hypot(x, y));
    }
  }
  return length > 0 ? length : 1;
}

std::string vector_markup(size_t index, double x, double y) {
  const double length = std::hypot(x, y);
  std::string out = fmt::format(
      "<g class=\"series {}\"><line class=\"line\" x1=\"0\" y1=\"0\" x2=\"{}\" y2=\"{}\"/>"
      "<circle cx=\"{}\" cy=\"{}\" r=\"3\"/></g>\n",
      series_class(index), px(x), px(-y), px(x), px(-y));
  if (length < kLabelled * kReach) return out;
  const double share = (length + kLabelGap) / length;
  return out +
         fmt::format("<text class=\"tick\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                     px(share * x), px(-share * y + kTextDrop), index);
}

std::string panel_markup(const VectorPanels::Panel& panel, double scale) {
  std::string out = fmt::format(
      "<div>\n<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" viewBox=\"{0} {0} {1} {1}\" "
      "font-size=\"10\" role=\"img\" aria-label=\"{2}\">\n"
      "<line class=\"grid\" x1=\"{0}\" y1=\"0\" x2=\"{3}\" y2=\"0\"/>"
      "<line class=\"grid\" x1=\"0\" y1=\"{0}\" x2=\"0\" y2=\"{3}\"/>\n",
      px(-kHalf), px(2 * kHalf), escape_markup(panel.title), px(kHalf));
  for (size_t i = panel.vectors.size(); i-- > 0;) {  // the first lies on top
    out += vector_markup(i, scale * panel.vectors[i].first, scale * panel.vectors[i].second);
  }
  return out + "</svg>\n<span>" + escape_markup(panel.title) + "</span>\n</div>\n";
}

}  // namespace

std::string vector_panels_html(const VectorPanels& panels) {
  const double scale = kReach / longest(panels);
  std::string out = "<figure class=\"vectors\">\n<figcaption>" + escape_markup(panels.title) +
                    "</figcaption>\n<div class=\"panels\">\n";
  for (const VectorPanels::Panel& panel : panels.panels) out += panel_markup(panel, scale);
  return out + "</div>\n</figure>\n";
}

}  // namespace elapse
