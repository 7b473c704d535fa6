// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <string>

#include "elapse/report/plot.h"
#include "elapse/report/plot_frame.h"

namespace elapse {

std::string px(double length);  // a coordinate, to a tenth of a unit

// Class of a series' group: its colour and dash in web/plot.css.
std::string series_class(size_t index);
std::string marker(size_t index, double x, double y);

// The marks of one series, without the group around them.
std::string series_markup(const Plot& plot, size_t index, const Frame& frame, size_t max_points);

}  // namespace elapse
