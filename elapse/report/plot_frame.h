// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/report/axis.h"
#include "elapse/report/plot.h"
#include "elapse/report/plot_svg.h"

namespace elapse {

inline constexpr double kSwatchWidth = 22;  // of a series' sample in the legend
inline constexpr double kTickGap = 8;       // between a tick's label and its axis, sample and name
inline constexpr double kMarkGap = 5;       // between a vertical mark and its label

// Values of an axis -> coordinates of the picture.
class Projection {
 public:
  Projection() = default;
  Projection(Scale scale, Range range, double from, double to)
      : scale_(scale), range_(range), from_(from), to_(to) {}

  double place(double position) const;
  double operator()(double value) const;  // NaN where the axis cannot place it
  double origin() const;                  // of bars: zero or what is nearest to it in sight

 private:
  Scale scale_ = Scale::linear;
  Range range_{0, 1};
  double from_ = 0, to_ = 1;
};

// Where everything in the picture stands, in units of the viewBox. From top to bottom: title,
// legend, a heading with the y axis's label and those of the marks, the area between the axes, the
// x axis's ticks and label.
struct Frame {
  struct LegendItem {
    size_t series;
    double x, y;  // left end and baseline
  };
  struct MarkLabel {
    size_t mark;
    double x, y;  // of the mark, and the label's baseline
    bool to_right;
  };

  double width = 0, height = 0;
  double line_height = 0;
  double label_y = 0;                               // baseline of the y axis's label
  double left = 0, right = 0, top = 0, bottom = 0;  // the area between the axes
  double bar_distance = 0;                          // between neighbouring groups of bars
  std::vector<std::string> title_lines;
  std::vector<LegendItem> legend;
  std::vector<MarkLabel> mark_labels;
  std::vector<Tick> x_ticks, y_ticks;
  Projection x, y;
};

Frame frame_of(const Plot& plot, const PlotLayout& layout);

}  // namespace elapse
