// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "elapse/report/axis.h"

namespace elapse {

// A picture of series over a common pair of axes, drawn as SVG: the same plot gives the same bytes.
class Plot {
 public:
  enum class Style { line, dashed, marked_line, step, markers, bars };

  struct Series {
    std::string name;
    std::vector<double> x, y;  // (points) each; what an axis cannot place leaves a gap
    Style style = Style::line;
    std::vector<double> lo = {}, hi = {};  // (points): a band, e.g. the spread over seeds; or empty
    // A series added before whose colour this one has, as the fit to it: the legend leaves it out.
    std::optional<size_t> belongs_to = {};
  };

  struct Mark {  // a vertical line
    double x;
    std::string label;
  };

  // Throws Error where an axis fixes ends it cannot show: lo >= hi, or not positive on a
  // logarithmic axis.
  Plot(std::string title, Axis x, Axis y);

  // Throws Error unless x and y, and lo and hi where given, have the same length, and for a series
  // that belongs to none.
  Plot& add(Series series);
  Plot& mark(double x, std::string label);

  const std::string& title() const { return title_; }
  const Axis& x_axis() const { return x_; }
  const Axis& y_axis() const { return y_; }
  const std::vector<Series>& series() const { return series_; }
  const std::vector<Mark>& marks() const { return marks_; }

  // A <figure> for a page that carries plot_css() and report_css(). It holds the picture twice, for
  // wide screens and for phones: text stays at reading size on both, and the page shows one.
  std::string html() const;

 private:
  std::string title_;
  Axis x_, y_;
  std::vector<Series> series_;
  std::vector<Mark> marks_;
};

// The plot as an SVG file of its own, with its title and style inside.
std::string standalone_svg(const Plot& plot);

}  // namespace elapse
