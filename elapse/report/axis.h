// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace elapse {

enum class Scale { linear, log2, log10 };

struct Axis {
  std::string label;
  Scale scale = Scale::linear;
  std::optional<double> lo = {}, hi = {};  // fixed ends; the data's where absent
};

// Whether a picture can place `value`: finite, of a sane magnitude, positive on logarithmic axes.
bool plottable(Scale scale, double value);

// Where `value` lies along the axis before it is fitted to the picture: itself or its logarithm.
double position_of(Scale scale, double value);
double value_of(Scale scale, double position);

// An interval of positions; empty until something is included.
struct Range {
  double lo = std::numeric_limits<double>::infinity();
  double hi = -std::numeric_limits<double>::infinity();

  void include(double position);
  bool empty() const { return lo > hi; }
};

// What the axis shows: `data` widened by `margin` of its length at both ends (never across zero on
// a linear axis), where the axis does not fix the end. Never of zero length, whatever the data.
Range visible_range(const Axis& axis, Range data, double margin);

struct Tick {
  double position;
  std::string label;
  std::string exponent;  // raised after the label: {"2", "14"}; empty for plain numbers
};

// At most max_count + 1 ticks, at round values inside `range`, which has a length. Linear axes step
// by 1, 2 or 5 times a power of ten. Logarithmic ones show powers of their base; where these are
// too few, 1-2-5 multiples of powers of ten, or what a linear axis would show.
std::vector<Tick> ticks(Scale scale, Range range, int max_count);

}  // namespace elapse
