// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "elapse/core/error.h"
#include "elapse/report/markup.h"

namespace elapse {
namespace {

struct Colour {
  double red, green, blue;  // 0 to 255
};

// Paper white to dark blue, and dark blue by white to dark orange: both even in lightness.
constexpr std::array kSequential = {Colour{247, 251, 255}, Colour{158, 202, 225},
                                    Colour{66, 146, 198}, Colour{8, 48, 107}};
constexpr std::array kDiverging = {
    Colour{5, 48, 97},     Colour{67, 147, 195}, Colour{209, 229, 240}, Colour{255, 255, 255},
    Colour{253, 219, 199}, Colour{230, 145, 56}, Colour{127, 59, 8}};

template <size_t kCount>
Colour along(const std::array<Colour, kCount>& stops, double share) {
  const double place = std::clamp(share, 0.0, 1.0) * static_cast<double>(kCount - 1);
  const auto below = std::min(kCount - 2, static_cast<size_t>(place));
  const double part = place - static_cast<double>(below);
  const Colour &a = stops[below], &b = stops[below + 1];
  return {a.red + part * (b.red - a.red), a.green + part * (b.green - a.green),
          a.blue + part * (b.blue - a.blue)};
}

// How values become colours.
class Scale {
 public:
  explicit Scale(const std::vector<double>& values) {
    for (const double v : values) {
      if (!std::isfinite(v)) continue;
      least_ = std::min(least_, v);
      most_ = std::max(most_, v);
    }
    if (least_ > most_) least_ = most_ = 0;
    diverges_ = least_ < 0;
    if (diverges_) {
      most_ = std::max(most_, -least_);
      least_ = -most_;
    }
  }

  double least() const { return least_; }
  double most() const { return most_; }

  // The style of a cell: its colour, and an ink that is read on it.
  std::string style(double value) const {
    if (!std::isfinite(value)) return {};
    const double range = most_ - least_;
    const double share = range > 0 ? (value - least_) / range : 0.5;
    const Colour c = diverges_ ? along(kDiverging, share) : along(kSequential, share);
    const double lightness = 0.299 * c.red + 0.587 * c.green + 0.114 * c.blue;
    return fmt::format(" style=\"background:#{:02x}{:02x}{:02x};color:{}\"",
                       static_cast<int>(std::lround(c.red)), static_cast<int>(std::lround(c.green)),
                       static_cast<int>(std::lround(c.blue)), lightness > 140 ? "#111" : "#fff");
  }

 private:
  double least_ = INFINITY, most_ = -INFINITY;
  bool diverges_ = false;
};

// A token as one sees it: spaces and ends of lines are shown.
std::string visible(const std::string& text) {
  std::string shown;
  for (const char c : text) {
    if (c == '\n') shown += "↵";
    else if (c == '\t') shown += "⇥";
    else if (c == ' ') shown += "·";
    else shown += c;
  }
  return escape_markup(printable(shown.empty() ? "∅" : shown));
}

std::string number(double value, int decimals) {
  return std::isfinite(value) ? fmt::format("{:.{}f}", value, decimals) : "–";
}

std::string legend(const Scale& scale, int decimals) {
  std::string bar = "<div class=\"legend\"><span>" + number(scale.least(), decimals) + "</span>";
  constexpr int kSteps = 24;
  for (int i = 0; i < kSteps; ++i) {
    const double share = static_cast<double>(i) / (kSteps - 1);
    bar += "<i" + scale.style(scale.least() + share * (scale.most() - scale.least())) + "></i>";
  }
  return bar + "<span>" + number(scale.most(), decimals) + "</span></div>\n";
}

}  // namespace

std::string heat_map_html(const HeatMap& map) {
  const size_t rows = map.rows.size(), columns = map.columns.size();
  ELAPSE_CHECK(map.values.size() == rows * columns,
               "heat map \"{}\": expected {} x {} values, found {}", map.title, rows, columns,
               map.values.size());
  ELAPSE_CHECK(map.notes.empty() || map.notes.size() == map.values.size(),
               "heat map \"{}\": expected a note for each of {} values, found {}", map.title,
               map.values.size(), map.notes.size());
  ELAPSE_CHECK(map.values.size() <= static_cast<size_t>(HeatMap::kMostCells),
               "heat map \"{}\": {} cells are more than a page should have, {}", map.title,
               map.values.size(), HeatMap::kMostCells);
  const Scale scale(map.values);
  const std::string title = escape_markup(map.title);
  std::string html = map.folded
                         ? "<details>\n<summary>" + title + "</summary>\n<figure class=\"heat\">\n"
                         : "<figure class=\"heat\">\n<figcaption>" + title + "</figcaption>\n";
  html += legend(scale, map.decimals) + "<div class=\"scroll\"><table>\n<thead><tr><th>" +
          escape_markup(map.row_heading) + " \\ " + escape_markup(map.column_heading) + "</th>";
  std::vector<std::string> row_names, column_names;
  for (const std::string& name : map.rows) row_names.push_back(visible(name));
  for (const std::string& name : map.columns) column_names.push_back(visible(name));
  for (const std::string& name : column_names) html += "<th><span>" + name + "</span></th>";
  html += "</tr></thead>\n<tbody>\n";
  for (size_t r = 0; r < rows; ++r) {
    html += "<tr><th>" + row_names[r] + "</th>";
    for (size_t c = 0; c < columns; ++c) {
      const double value = map.values[r * columns + c];
      if (!std::isfinite(value)) {
        html += "<td></td>";
        continue;
      }
      const std::string note =
          map.notes.empty() ? "" : "; " + escape_markup(printable(map.notes[r * columns + c]));
      html += fmt::format("<td tabindex=\"0\"{}><b>{} {}, {} {}: {}{}</b></td>", scale.style(value),
                          escape_markup(map.row_heading), row_names[r],
                          escape_markup(map.column_heading), column_names[c],
                          number(value, map.decimals), note);
    }
    html += "</tr>\n";
  }
  html += "</tbody>\n</table></div>\n</figure>\n";
  return map.folded ? html + "</details>\n" : html;
}

std::string coloured_tokens_html(const std::string& title, const std::vector<std::string>& tokens,
                                 const std::vector<double>& values, int decimals) {
  ELAPSE_CHECK(tokens.size() == values.size(), "\"{}\": expected {} values, found {}", title,
               tokens.size(), values.size());
  const Scale scale(values);
  std::string html = "<figure class=\"heat tokens\">\n<figcaption>" + escape_markup(title) +
                     "</figcaption>\n" + legend(scale, decimals) + "<p>";
  for (size_t i = 0; i < tokens.size(); ++i) {
    html += fmt::format("<span tabindex=\"0\"{}>{}<b>{} {}: {}</b></span>", scale.style(values[i]),
                        visible(tokens[i]), i, visible(tokens[i]), number(values[i], decimals));
  }
  return html + "</p>\n</figure>\n";
}

}  // namespace elapse
