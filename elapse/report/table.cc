// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/table.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "elapse/core/error.h"
#include "elapse/report/markup.h"

namespace elapse {
namespace {

constexpr int kColumnGap = 2;

struct CellFormatter {
  int decimals;

  std::string operator()(const std::string& text) const { return printable(text); }
  std::string operator()(int64_t number) const { return fmt::format("{}", number); }
  std::string operator()(double number) const {
    return std::isfinite(number) ? fmt::format("{:.{}f}", number, decimals) : "–";
  }
};

std::string spaces(int count) { return std::string(static_cast<size_t>(count), ' '); }

std::string padded(const std::string& text, int width, Table::Align align) {
  const int room = width - display_width(text);
  switch (align) {
    case Table::Align::left:
      return text + spaces(room);
    case Table::Align::right:
      return spaces(room) + text;
    case Table::Align::center:
      break;
  }
  return spaces(room / 2) + text + spaces(room - room / 2);
}

void trim_right(std::string& line) { line.erase(line.find_last_not_of(' ') + 1); }

const char* name_of(Table::Align align) {
  switch (align) {
    case Table::Align::left:
      return "left";
    case Table::Align::right:
      return "right";
    case Table::Align::center:
      break;
  }
  return "center";
}

}  // namespace

Table::Table(std::vector<Column> columns, std::string caption)
    : columns_(std::move(columns)), caption_(std::move(caption)) {
  for (Column& column : columns_) column.heading = printable(column.heading);
}

Table& Table::add_row(std::vector<Cell> cells) {
  ELAPSE_CHECK(cells.size() == columns_.size(), "table '{}': expected {} cells in row {}, found {}",
               caption_, columns_.size(), rows_.size() + 1, cells.size());
  Line line;
  for (size_t i = 0; i < cells.size(); ++i) {
    line.push_back(std::visit(CellFormatter{columns_[i].decimals}, cells[i]));
  }
  rows_.push_back(std::move(line));
  return *this;
}

Table::Line Table::headings() const {
  Line line;
  for (const Column& column : columns_) line.push_back(column.heading);
  return line;
}

std::vector<int> Table::widths() const {
  std::vector<int> widths;
  for (size_t i = 0; i < columns_.size(); ++i) {
    int width = display_width(columns_[i].heading);
    for (const Line& row : rows_) width = std::max(width, display_width(row[i]));
    widths.push_back(width);
  }
  return widths;
}

std::string Table::text_line(const Line& cells, const std::vector<int>& widths) const {
  std::string line;
  for (size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) line += spaces(kColumnGap);
    line += padded(cells[i], widths[i], columns_[i].align);
  }
  trim_right(line);
  return line + "\n";
}

std::string Table::text() const {
  const std::vector<int> columns = widths();
  Line rule;
  for (int width : columns) {
    rule.emplace_back();
    for (int i = 0; i < width; ++i) rule.back() += "─";
  }
  std::string out = caption_.empty() ? "" : printable(caption_) + "\n";
  out += text_line(headings(), columns) + text_line(rule, columns);
  for (const Line& row : rows_) out += text_line(row, columns);
  return out;
}

std::string Table::html_line(const Line& cells, const char* tag) const {
  std::string out = "<tr>";
  for (size_t i = 0; i < cells.size(); ++i) {
    out += fmt::format("<{0} class=\"{1}\">{2}</{0}>", tag, name_of(columns_[i].align),
                       escape_markup(cells[i]));
  }
  return out + "</tr>\n";
}

std::string Table::html() const {
  std::string out = "<div class=\"table\" tabindex=\"0\"><table>\n";
  if (!caption_.empty()) out += "<caption>" + escape_markup(caption_) + "</caption>\n";
  out += "<thead>\n" + html_line(headings(), "th") + "</thead>\n<tbody>\n";
  for (const Line& row : rows_) out += html_line(row, "td");
  return out + "</tbody>\n</table></div>\n";
}

}  // namespace elapse
