// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/plot.h"

#include <utility>

#include "elapse/core/error.h"
#include "elapse/report/markup.h"
#include "elapse/report/plot_svg.h"
#include "elapse/report/style.h"

namespace elapse {
namespace {

constexpr PlotLayout kWide{"wide", 760, 320, 13, 2000, false};
constexpr PlotLayout kNarrow{"narrow", 360, 240, 12, 800, false};
constexpr PlotLayout kStandalone{"standalone", 760, 320, 13, 2000, true};

void check_end(const std::string& title, const Axis& axis, const std::optional<double>& end) {
  ELAPSE_CHECK(!end || plottable(axis.scale, *end),
               "plot '{}': the axis '{}' cannot end at {}, expected a finite number{}", title,
               axis.label, *end, axis.scale == Scale::linear ? "" : " above 0");
}

void check_axis(const std::string& title, const Axis& axis) {
  check_end(title, axis, axis.lo);
  check_end(title, axis, axis.hi);
  ELAPSE_CHECK(!axis.lo || !axis.hi || *axis.lo < *axis.hi,
               "plot '{}': expected the axis '{}' to ascend, found {} to {}", title, axis.label,
               *axis.lo, *axis.hi);
}

void check_length(const std::string& name, const char* field, size_t found, size_t expected) {
  ELAPSE_CHECK(found == expected, "plot series '{}': expected as many {} as x, {}, found {}", name,
               field, expected, found);
}

}  // namespace

Plot::Plot(std::string title, Axis x, Axis y)
    : title_(std::move(title)), x_(std::move(x)), y_(std::move(y)) {
  check_axis(title_, x_);
  check_axis(title_, y_);
}

Plot& Plot::add(Series series) {
  const size_t points = series.x.size();
  check_length(series.name, "y", series.y.size(), points);
  if (!series.lo.empty() || !series.hi.empty()) {
    check_length(series.name, "lo", series.lo.size(), points);
    check_length(series.name, "hi", series.hi.size(), points);
  }
  ELAPSE_CHECK(!series.belongs_to || *series.belongs_to < series_.size(),
               "series \"{}\": expected one that belongs to 0 to {}, found {}", series.name,
               std::ssize(series_) - 1, *series.belongs_to);
  series_.push_back(std::move(series));
  return *this;
}

Plot& Plot::mark(double x, std::string label) {
  marks_.push_back({x, std::move(label)});
  return *this;
}

std::string Plot::html() const {
  std::string out = "<figure>\n";
  if (!title_.empty()) out += "<figcaption>" + escape_markup(title_) + "</figcaption>\n";
  return out + plot_svg(*this, kWide) + plot_svg(*this, kNarrow) + "</figure>\n";
}

std::string standalone_svg(const Plot& plot) {
  const std::string style = fmt::format("<style>\n{}</style>\n", plot_css());
  return plot_svg(plot, kStandalone, style);
}

}  // namespace elapse
