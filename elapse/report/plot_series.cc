// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/plot_series.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "elapse/report/markup.h"
#include "elapse/report/thin.h"

namespace elapse {
namespace {

using Style = Plot::Style;
using Series = Plot::Series;
using Points = std::vector<Point>;

constexpr size_t kColours = 8;
constexpr double kMarkerRadius = 3.5;
constexpr size_t kMaxTooltips = 256;  // a series of more points has no tooltips
constexpr double kNoisy = 8;       // heights a line climbs and falls, above which it is drawn thin
constexpr double kBarShare = 0.8;  // of the distance between two groups of bars

Points project(const Frame& frame, const std::vector<double>& x, const std::vector<double>& y) {
  Points points;
  points.reserve(x.size());
  for (size_t i = 0; i < x.size(); ++i) points.push_back({frame.x(x[i]), frame.y(y[i])});
  return points;
}

// The stretches between gaps.
std::vector<Points> unbroken(const Points& points) {
  std::vector<Points> runs;
  bool open = false;
  for (const Point& p : points) {
    if (!p.is_gap() && !open) runs.emplace_back();
    open = !p.is_gap();
    if (open) runs.back().push_back(p);
  }
  return runs;
}

std::string joined(const Points& points) {
  std::string out;
  for (const Point& p : points) out += fmt::format(" {},{}", px(p.x), px(p.y));
  return out;
}

std::string step_path(const Points& run) {
  std::string out = fmt::format("M{},{}", px(run[0].x), px(run[0].y));
  for (size_t i = 1; i < run.size(); ++i) out += fmt::format("H{}V{}", px(run[i].x), px(run[i].y));
  return out;
}

double travel(const Points& run) {
  double sum = 0;
  for (size_t i = 1; i < run.size(); ++i) sum += std::abs(run[i].y - run[i - 1].y);
  return sum;
}

std::string path_element(const char* classes, const std::string& path) {
  return path.empty() ? "" : fmt::format("<path class=\"{}\" d=\"{}\"/>\n", classes, path);
}

// A point between two gaps shows as a dot: a stroke of no length with round ends.
std::string line(const Series& series, const Points& points, const Frame& frame) {
  std::string path, dots;
  double climbed = 0;
  for (const Points& run : unbroken(points)) {
    climbed += travel(run);
    if (run.size() == 1) dots += "M" + joined(run) + "h0";
    else path += series.style == Style::step ? step_path(run) : "M" + joined(run);
  }
  const bool noisy = climbed > kNoisy * (frame.bottom - frame.top);
  const char* classes = series.style == Style::dashed ? "line dashed" : "line";
  return path_element(noisy ? "line noisy" : classes, path) + path_element("line dot", dots);
}

std::string band(const Series& series, const Frame& frame, size_t max_points) {
  Points lo = project(frame, series.x, series.lo), hi = project(frame, series.x, series.hi);
  for (size_t i = 0; i < lo.size(); ++i) {
    if (lo[i].is_gap() || hi[i].is_gap()) lo[i].y = hi[i].y = NAN;
  }
  const auto below = unbroken(thin(std::move(lo), max_points));
  const auto above = unbroken(thin(std::move(hi), max_points));
  std::string path;
  for (size_t i = 0; i < below.size(); ++i) {  // both have their gaps at the same places
    const Points back(above[i].rbegin(), above[i].rend());
    path += "M" + joined(below[i]) + joined(back) + "Z";
  }
  return path_element("band", path);
}

std::string markers(const Points& points, size_t index) {
  std::string out;
  for (const Point& p : points) {
    if (!p.is_gap()) out += marker(index, p.x, p.y);
  }
  return out;
}

std::string bars(const Plot& plot, size_t index, const Frame& frame, const Points& points) {
  const auto is_bars = [](const Series& s) { return s.style == Style::bars; };
  const auto begin = plot.series().begin();
  const auto count = std::count_if(begin, plot.series().end(), is_bars);
  const auto rank = std::count_if(begin, begin + static_cast<std::ptrdiff_t>(index), is_bars);
  const double group = kBarShare * frame.bar_distance;
  const double width = group / static_cast<double>(count);
  const double shift = width * static_cast<double>(rank) - group / 2;
  std::string out;
  for (const Point& p : points) {
    if (p.is_gap()) continue;
    const double top = std::min(p.y, frame.y.origin());
    out += fmt::format("<rect class=\"bar\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/>\n",
                       px(p.x + shift), px(top), px(std::max(width, 0.5)),
                       px(std::abs(p.y - frame.y.origin())));
  }
  return out;
}

std::string number(double value) { return fmt::format("{:.6g}", value); }

std::string tooltip_text(const Plot& plot, const Series& series, size_t i) {
  std::string text = series.name.empty() ? "" : series.name + "\n";
  text += plot.x_axis().label + " " + number(series.x[i]) + "\n";
  text += plot.y_axis().label + " " + number(series.y[i]);
  if (!series.lo.empty()) text += " (" + number(series.lo[i]) + " to " + number(series.hi[i]) + ")";
  return text;
}

// Invisible discs wide enough to be hit.
std::string tooltips(const Plot& plot, const Series& series, const Points& points) {
  std::string out;
  if (points.size() > kMaxTooltips) return out;
  for (size_t i = 0; i < points.size(); ++i) {
    if (points[i].is_gap()) continue;
    out += fmt::format(
        "<circle class=\"hit\" cx=\"{}\" cy=\"{}\" r=\"8\"><title>{}</title></circle>\n",
        px(points[i].x), px(points[i].y), escape_markup(tooltip_text(plot, series, i)));
  }
  return out;
}

}  // namespace

std::string px(double length) { return fmt::format("{:g}", std::round(length * 10) / 10 + 0.0); }

std::string series_class(size_t index) { return fmt::format("s{}", index % kColours); }

std::string marker(size_t index, double x, double y) {
  const double r = kMarkerRadius;
  switch (index % 4) {
    case 0:
      return fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"{}\"/>\n", px(x), px(y), px(r));
    case 1:
      return fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/>\n", px(x - r),
                         px(y - r), px(2 * r), px(2 * r));
    case 2:
      return fmt::format("<path d=\"M{},{}h{}l{},{}z\"/>\n", px(x - 1.2 * r), px(y + r),
                         px(2.4 * r), px(-1.2 * r), px(-2.1 * r));
    default:
      return fmt::format("<path d=\"M{},{}l{},{} {},{} {},{}z\"/>\n", px(x), px(y - 1.3 * r),
                         px(1.3 * r), px(1.3 * r), px(-1.3 * r), px(1.3 * r), px(-1.3 * r),
                         px(-1.3 * r));
  }
}

std::string series_markup(const Plot& plot, size_t index, const Frame& frame, size_t max_points) {
  const Series& series = plot.series()[index];
  const Points all = project(frame, series.x, series.y);
  const Points points = thin(all, max_points);
  std::string out = series.lo.empty() ? "" : band(series, frame, max_points);
  switch (series.style) {
    case Style::bars:
      out += bars(plot, index, frame, points);
      break;
    case Style::markers:
      out += markers(points, index);
      break;
    case Style::marked_line:
      out += line(series, points, frame) + markers(points, index);
      break;
    default:
      out += line(series, points, frame);
  }
  return out + tooltips(plot, series, all);
}

}  // namespace elapse
