// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace elapse {

// A table of results: headings with alignment, rows of text and numbers. Published results and
// ours are rows of the same table.
class Table {
 public:
  enum class Align { left, right, center };
  struct Column {
    std::string heading;
    Align align = Align::right;
    int decimals = 3;  // of the column's floating-point cells
  };
  // A number that is not finite prints as a dash: not measured, not published.
  using Cell = std::variant<std::string, double, int64_t>;

  explicit Table(std::vector<Column> columns, std::string caption = {});

  // Throws Error unless there is one cell per column.
  Table& add_row(std::vector<Cell> cells);

  std::string text() const;  // aligned UTF-8 for a terminal, each line ended by a newline
  std::string html() const;  // in a box of its own that scrolls sideways

 private:
  using Line = std::vector<std::string>;

  Line headings() const;
  std::vector<int> widths() const;
  std::string text_line(const Line& cells, const std::vector<int>& widths) const;
  std::string html_line(const Line& cells, const char* tag) const;

  std::vector<Column> columns_;
  std::string caption_;
  std::vector<Line> rows_;  // formatted when they come
};

}  // namespace elapse
