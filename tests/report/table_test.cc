// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/table.h"

#include <gtest/gtest.h>

#include <cmath>

#include "elapse/core/error.h"
#include "tests/report/well_formed.h"

namespace elapse {
namespace {

using Align = Table::Align;

Table results() {
  Table table({{"model", Align::left}, {"2⁸", Align::right, 2}, {"steps"}, {"ok", Align::center}},
              "Accuracy");
  table.add_row({"ours", 1.0, int64_t{12000}, "✓"});
  table.add_row({"長い <b>", NAN, int64_t{7}, "✗"});
  return table;
}

TEST(Table, AlignsText) {
  EXPECT_EQ(results().text(),
            "Accuracy\n"
            "model       2⁸  steps  ok\n"
            "────────  ────  ─────  ──\n"
            "ours      1.00  12000  ✓\n"
            "長い <b>     –      7  ✗\n");
}

TEST(Table, WritesHtml) {
  const std::string html = results().html();
  EXPECT_EQ(xml_fault(html), "");
  EXPECT_NE(html.find("<td class=\"left\">長い &lt;b&gt;</td><td class=\"right\">–</td>"),
            std::string::npos);
  EXPECT_NE(html.find("<caption>Accuracy</caption>"), std::string::npos);
  EXPECT_EQ(count_of(html, "<tr>"), 3u);
}

TEST(Table, IsCompleteWithoutRows) {
  const Table table({{"a"}, {"bc"}});
  EXPECT_EQ(table.text(), "a  bc\n─  ──\n");
  EXPECT_EQ(xml_fault(table.html()), "");
}

TEST(Table, KeepsEveryRowOnOneLine) {
  Table table({{"token", Align::left}});
  table.add_row({"\n\x1B[2J\xFF"});
  EXPECT_EQ(count_of(table.text(), "\n"), 3u);
  EXPECT_EQ(table.text().find('\x1B'), std::string::npos);
}

TEST(Table, RefusesRowsOfTheWrongLength) {
  Table table = results();
  try {
    table.add_row({"ours", 1.0});
    FAIL() << "a short row was accepted";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "table 'Accuracy': expected 4 cells in row 3, found 2");
  }
}

}  // namespace
}  // namespace elapse
