// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <string>

#include "elapse/report/plot.h"

namespace elapse {

// The size a plot is drawn for; lengths are units of the viewBox, pixels at full size.
struct PlotLayout {
  const char* name;  // class of the <svg>
  double width;
  double plot_height;  // of the area between the axes
  double font_size;
  size_t max_points;  // drawn per series
  bool standalone;    // title and margins inside
};

// One <svg> element. `head` is markup to put first in it, e.g. a <style>.
std::string plot_svg(const Plot& plot, const PlotLayout& layout, const std::string& head = {});

}  // namespace elapse
