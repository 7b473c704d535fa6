// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/plot_frame.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "elapse/report/markup.h"

namespace elapse {
namespace {

constexpr double kFarOutside = 1e5;       // renderers keep coordinates as floats
constexpr double kCharacterWidth = 0.55;  // of the font size: a mean over running text
constexpr double kLineHeight = 1.5;       // of the font size
constexpr double kTitleShare = 0.9;       // of the width: titles are set in a wider weight
constexpr double kLegendGap = 18;         // between entries
constexpr double kTickSpacing = 14;       // at least this much between labels on the x axis
constexpr double kYTickDistance = 45;
constexpr int kMostTicks = 16;
constexpr int kFewTicks = 5;
constexpr double kYMargin = 0.05;    // of the data's height
constexpr double kLabelLift = 0.75;  // line heights from the area up to the lowest heading
constexpr double kLoneBars = 8;      // a single group of bars takes this part of the width

// The renderer's fonts are unknown here: widths are estimates.
struct TextMeasure {
  double font_size;

  double operator()(const std::string& text) const {
    return kCharacterWidth * font_size * display_width(text);
  }
  double operator()(const Tick& tick) const { return (*this)(tick.label + tick.exponent); }
};

double widest(const std::vector<Tick>& ticks, TextMeasure measure) {
  double width = 0;
  for (const Tick& tick : ticks) width = std::max(width, measure(tick));
  return width;
}

void include_all(Range& range, Scale scale, const std::vector<double>& values) {
  for (double v : values) {
    if (plottable(scale, v)) range.include(position_of(scale, v));
  }
}

// Where groups of bars stand, ascending.
std::vector<double> bar_positions(const Plot& plot) {
  const Scale scale = plot.x_axis().scale;
  std::set<double> positions;
  for (const Plot::Series& s : plot.series()) {
    if (s.style != Plot::Style::bars) continue;
    for (double x : s.x) {
      if (plottable(scale, x)) positions.insert(position_of(scale, x));
    }
  }
  return {positions.begin(), positions.end()};
}

// The smallest distance of neighbours; 0 if there are none.
double distance_between(const std::vector<double>& positions) {
  double distance = positions.size() < 2 ? 0 : positions.back() - positions.front();
  for (size_t i = 1; i < positions.size(); ++i) {
    distance = std::min(distance, positions[i] - positions[i - 1]);
  }
  return distance;
}

// Bars at the ends stand whole.
Range x_range(const Plot& plot, double bar_distance) {
  const Axis& axis = plot.x_axis();
  Range data;
  for (const Plot::Series& s : plot.series()) include_all(data, axis.scale, s.x);
  for (const Plot::Mark& m : plot.marks()) include_all(data, axis.scale, {m.x});
  if (!data.empty()) data = {data.lo - bar_distance / 2, data.hi + bar_distance / 2};
  return visible_range(axis, data, 0.0);
}

Range y_range(const Plot& plot) {
  const Axis& axis = plot.y_axis();
  Range data;
  for (const Plot::Series& s : plot.series()) {
    for (const auto* values : {&s.y, &s.lo, &s.hi}) include_all(data, axis.scale, *values);
    if (s.style == Plot::Style::bars) include_all(data, axis.scale, {0.0});
  }
  return visible_range(axis, data, kYMargin);
}

bool side_by_side(const std::vector<Tick>& ticks, double width, TextMeasure measure) {
  return (widest(ticks, measure) + kTickSpacing) * static_cast<double>(ticks.size()) <= width;
}

// As many ticks as have room.
std::vector<Tick> ticks_that_fit(Scale scale, Range range, double width, TextMeasure measure) {
  for (int count = kMostTicks; count > 1; --count) {
    std::vector<Tick> out = ticks(scale, range, count);
    if (side_by_side(out, width, measure)) return out;
  }
  return ticks(scale, range, 1);
}

// Groups of bars, which are named by their own places.
std::vector<Tick> bar_ticks(Scale scale, const std::vector<double>& positions) {
  std::vector<Tick> out;
  for (double p : positions) out.push_back({p, fmt::format("{:.6g}", value_of(scale, p)), ""});
  return out;
}

std::vector<std::string> wrapped(const std::string& text, double width, TextMeasure measure) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    if (!lines.empty() && measure(lines.back() + " " + word) <= width) lines.back() += " " + word;
    else lines.push_back(word);
    begin = end + 1;
  }
  return lines;
}

// Rows of a heading, from the lowest up: what is taken in each.
using Rows = std::vector<std::vector<Range>>;

// The lowest row with room for `place`, which it then takes.
size_t take_row(Rows& rows, Range place) {
  const auto is_free = [place](const std::vector<Range>& row) {
    return std::none_of(row.begin(), row.end(),
                        [place](Range r) { return r.lo < place.hi && place.lo < r.hi; });
  };
  auto row = std::find_if(rows.begin(), rows.end(), is_free);
  if (row == rows.end()) row = rows.emplace(rows.end());
  row->push_back(place);
  return static_cast<size_t>(row - rows.begin());
}

// Fills a frame: first what the width decides, then from top to bottom.
class FrameBuilder {
 public:
  FrameBuilder(const Plot& plot, const PlotLayout& layout)
      : plot_(plot), layout_(layout), measure_{layout.font_size} {
    frame_.width = layout.width;
    frame_.line_height = kLineHeight * layout.font_size;
  }

  Frame build() {
    lay_out_width();
    lay_out_title();
    lay_out_legend();
    lay_out_heading();
    lay_out_height();
    return std::move(frame_);
  }

 private:
  void lay_out_width();
  void lay_out_title();
  void lay_out_legend();
  void lay_out_heading();
  void lay_out_height();
  std::vector<Frame::MarkLabel> visible_marks() const;

  const Plot& plot_;
  const PlotLayout& layout_;
  TextMeasure measure_;
  Frame frame_;
  Range y_shown_;
  double y_ = 0;  // the height taken so far
};

void FrameBuilder::lay_out_width() {
  const Scale scale = plot_.x_axis().scale;
  const std::vector<double> bars = bar_positions(plot_);
  const double distance = distance_between(bars);
  const Range x_shown = x_range(plot_, distance);
  y_shown_ = y_range(plot_);
  const int y_ticks = static_cast<int>(layout_.plot_height / kYTickDistance);
  frame_.y_ticks = ticks(plot_.y_axis().scale, y_shown_, y_ticks);
  frame_.left = widest(frame_.y_ticks, measure_) + kTickGap;
  const double last_label = widest(ticks(scale, x_shown, kFewTicks), measure_);
  frame_.right = layout_.width - std::max(frame_.line_height, last_label / 2);
  const double width = frame_.right - frame_.left;
  frame_.x = Projection(scale, x_shown, frame_.left, frame_.right);
  frame_.x_ticks = bar_ticks(scale, bars);
  if (bars.empty() || !side_by_side(frame_.x_ticks, width, measure_))
    frame_.x_ticks = ticks_that_fit(scale, x_shown, width, measure_);
  frame_.bar_distance =
      distance > 0 ? width * distance / (x_shown.hi - x_shown.lo) : width / kLoneBars;
}

void FrameBuilder::lay_out_title() {
  if (!layout_.standalone) return;
  frame_.title_lines = wrapped(plot_.title(), kTitleShare * layout_.width, measure_);
  y_ = frame_.line_height * static_cast<double>(frame_.title_lines.size());
}

// Entries flow like words.
void FrameBuilder::lay_out_legend() {
  if (plot_.series().size() < 2) return;
  double x = 0;
  y_ += layout_.font_size;
  for (size_t i = 0; i < plot_.series().size(); ++i) {
    if (plot_.series()[i].belongs_to) continue;
    const double length = kSwatchWidth + kTickGap + measure_(plot_.series()[i].name);
    if (x > 0 && x + length > layout_.width) x = 0, y_ += frame_.line_height;
    frame_.legend.push_back({i, x, y_});
    x += length + kLegendGap;
  }
  y_ += frame_.line_height / 2;
}

// Labels point to the middle. In the order returned, the line of a mark whose label must move up
// passes beside the labels below it.
std::vector<Frame::MarkLabel> FrameBuilder::visible_marks() const {
  std::vector<Frame::MarkLabel> marks;
  const double middle = (frame_.left + frame_.right) / 2;
  for (size_t i = 0; i < plot_.marks().size(); ++i) {
    const double x = frame_.x(plot_.marks()[i].x);
    if (x >= frame_.left && x <= frame_.right) marks.push_back({i, x, 0, x < middle});
  }
  std::stable_sort(marks.begin(), marks.end(), [middle](const auto& a, const auto& b) {
    return std::abs(a.x - middle) < std::abs(b.x - middle);
  });
  return marks;
}

void FrameBuilder::lay_out_heading() {
  Rows rows;
  take_row(rows, {0, measure_(plot_.y_axis().label)});
  frame_.mark_labels = visible_marks();
  for (Frame::MarkLabel& m : frame_.mark_labels) {
    const double length = measure_(plot_.marks()[m.mark].label) + kMarkGap;
    const Range place = m.to_right ? Range{m.x, m.x + length} : Range{m.x - length, m.x};
    m.y = -frame_.line_height * static_cast<double>(take_row(rows, place));
  }
  y_ += frame_.line_height * static_cast<double>(rows.size());
  frame_.label_y = y_;
  for (Frame::MarkLabel& m : frame_.mark_labels) m.y += y_;
}

void FrameBuilder::lay_out_height() {
  frame_.top = y_ + kLabelLift * frame_.line_height;
  frame_.bottom = frame_.top + layout_.plot_height;
  frame_.y = Projection(plot_.y_axis().scale, y_shown_, frame_.bottom, frame_.top);
  const double below = plot_.x_axis().label.empty() ? 1.5 : 2.7;
  frame_.height = frame_.bottom + below * frame_.line_height;
}

}  // namespace

double Projection::place(double position) const {
  const double fraction = (position - range_.lo) / (range_.hi - range_.lo);
  return std::clamp(from_ + fraction * (to_ - from_), -kFarOutside, kFarOutside);
}

double Projection::operator()(double value) const {
  return plottable(scale_, value) ? place(position_of(scale_, value)) : NAN;
}

double Projection::origin() const {
  if (scale_ != Scale::linear) return from_;
  return place(std::clamp(0.0, range_.lo, range_.hi));
}

Frame frame_of(const Plot& plot, const PlotLayout& layout) {
  return FrameBuilder(plot, layout).build();
}

}  // namespace elapse
