// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace elapse {

// A table of numbers shown by colour: rows of layers by columns of tokens, say. A cell shows its
// row, column and value when it is pointed at, and keeps showing them when it is clicked or tabbed
// to; without any script. The same map gives the same bytes.
struct HeatMap {
  static constexpr int64_t kMostCells = 100'000;  // what a browser lays out without ado

  std::string title = {};
  std::string row_heading = {}, column_heading = {};  // "layer", "token"
  std::vector<std::string> rows = {}, columns = {};  // their names, top to bottom and left to right
  std::vector<double> values = {};                   // (rows, columns); NaN: an empty cell
  std::vector<std::string> notes = {};  // (rows, columns), shown beside the value; or none at all
  // Colours run from the least value to the largest; where any is negative, from blue by white to
  // orange with white at 0 (as colour-blind readers can tell apart).
  int decimals = 3;
  bool folded = false;  // shown when its title is clicked: for pages of many maps
};

// A <figure> for a page that carries report_css(). Throws Error where values and names do not
// match, and beyond kMostCells.
std::string heat_map_html(const HeatMap& map);

// Text coloured token by token: one row of a heat map, in reading order.
std::string coloured_tokens_html(const std::string& title, const std::vector<std::string>& tokens,
                                 const std::vector<double>& values, int decimals = 3);

}  // namespace elapse
