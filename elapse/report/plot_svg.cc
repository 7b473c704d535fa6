// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/plot_svg.h"

#include <fmt/format.h>

#include "elapse/report/markup.h"
#include "elapse/report/plot_frame.h"
#include "elapse/report/plot_series.h"
#include "elapse/report/thin.h"

namespace elapse {
namespace {

constexpr double kOverhang = 6;  // beyond the axes, so that markers on them stay whole
constexpr double kPadding = 16;  // around a picture that stands alone

struct TextPlace {
  double x, y;
  const char* anchor;  // start, middle, end
};

std::string text(TextPlace at, const char* classes, const std::string& content) {
  return fmt::format("<text class=\"{}\" x=\"{}\" y=\"{}\" text-anchor=\"{}\">{}</text>\n", classes,
                     px(at.x), px(at.y), at.anchor, content);
}

std::string segment(const char* classes, Point a, Point b) {
  return fmt::format("<line class=\"{}\" x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"/>\n", classes,
                     px(a.x), px(a.y), px(b.x), px(b.y));
}

std::string tick_markup(const Tick& tick) {
  if (tick.exponent.empty()) return escape_markup(tick.label);
  return fmt::format("{}<tspan class=\"exponent\" dy=\"-.5em\">{}</tspan>", tick.label,
                     tick.exponent);
}

std::string title(const Frame& frame) {
  std::string out;
  double y = 0;
  for (const std::string& l : frame.title_lines) {
    y += frame.line_height;
    out += text({0, y - frame.line_height / 4, "start"}, "title", escape_markup(l));
  }
  return out;
}

std::string swatch(const Plot& plot, const Frame::LegendItem& item, double middle) {
  const Plot::Style style = plot.series()[item.series].style;
  if (style == Plot::Style::bars) {
    return fmt::format("<rect class=\"bar\" x=\"{}\" y=\"{}\" width=\"12\" height=\"10\"/>\n",
                       px(item.x + 5), px(middle - 5));
  }
  const bool dashed = style == Plot::Style::dashed;
  const bool marked = style == Plot::Style::markers || style == Plot::Style::marked_line;
  std::string out;
  if (style != Plot::Style::markers) {
    out +=
        segment(dashed ? "line dashed" : "line", {item.x, middle}, {item.x + kSwatchWidth, middle});
  }
  return marked ? out + marker(item.series, item.x + kSwatchWidth / 2, middle) : out;
}

std::string legend(const Plot& plot, const Frame& frame) {
  std::string out;
  for (const Frame::LegendItem& item : frame.legend) {
    out += fmt::format("<g class=\"series {}\">\n", series_class(item.series));
    out += swatch(plot, item, item.y - frame.line_height / 5) + "</g>\n";
    out += text({item.x + kSwatchWidth + kTickGap, item.y, "start"}, "name",
                escape_markup(plot.series()[item.series].name));
  }
  return out;
}

std::string axes(const Plot& plot, const Frame& f) {
  std::string out;
  for (const Tick& tick : f.y_ticks) {
    const double y = f.y.place(tick.position);
    out += segment("grid", {f.left, y}, {f.right, y});
    out += text({f.left - kTickGap, y + f.line_height / 4, "end"}, "tick", tick_markup(tick));
  }
  for (const Tick& tick : f.x_ticks) {
    const double x = f.x.place(tick.position);
    out += segment("axis", {x, f.bottom}, {x, f.bottom + 4});
    out += text({x, f.bottom + f.line_height, "middle"}, "tick", tick_markup(tick));
  }
  out += segment("axis", {f.left, f.bottom}, {f.right, f.bottom});
  out += text({0, f.label_y, "start"}, "label", escape_markup(plot.y_axis().label));
  return out + text({(f.left + f.right) / 2, f.bottom + 2.3 * f.line_height, "middle"}, "label",
                    escape_markup(plot.x_axis().label));
}

// A nested <svg> of the same coordinates: it clips to the area without an id, which would have to
// differ between the pictures of a page.
std::string all_series(const Plot& plot, const Frame& f, size_t max_points) {
  const std::string x = px(f.left - kOverhang), y = px(f.top - kOverhang);
  const std::string width = px(f.right - f.left + 2 * kOverhang);
  const std::string height = px(f.bottom - f.top + 2 * kOverhang);
  std::string out = fmt::format(
      "<svg x=\"{0}\" y=\"{1}\" width=\"{2}\" height=\"{3}\" viewBox=\"{0} {1} {2} {3}\">\n", x, y,
      width, height);
  for (size_t i = plot.series().size(); i-- > 0;) {  // the first series lies on top
    out += fmt::format("<g class=\"series {}\">\n",
                       series_class(plot.series()[i].belongs_to.value_or(i)));
    out += series_markup(plot, i, f, max_points) + "</g>\n";
  }
  return out + "</svg>\n";
}

std::string marks(const Plot& plot, const Frame& f) {
  std::string out;
  for (const Frame::MarkLabel& m : f.mark_labels) {
    const double gap = m.to_right ? kMarkGap : -kMarkGap;
    out += segment("mark", {m.x, m.y - f.line_height / 2}, {m.x, f.bottom});
    out += text({m.x + gap, m.y, m.to_right ? "start" : "end"}, "mark-label",
                escape_markup(plot.marks()[m.mark].label));
  }
  return out;
}

}  // namespace

std::string plot_svg(const Plot& plot, const PlotLayout& layout, const std::string& head) {
  const Frame frame = frame_of(plot, layout);
  const double padding = layout.standalone ? kPadding : 0;
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot {0}\" viewBox=\"{1} {1} {2} {3}\" "
      "font-size=\"{4}\" role=\"img\" aria-label=\"{5}\">\n",
      layout.name, px(-padding), px(frame.width + 2 * padding), px(frame.height + 2 * padding),
      px(layout.font_size), escape_markup(plot.title()));
  out += head + title(frame) + legend(plot, frame) + axes(plot, frame);
  return out + marks(plot, frame) + all_series(plot, frame, layout.max_points) + "</svg>\n";
}

}  // namespace elapse
