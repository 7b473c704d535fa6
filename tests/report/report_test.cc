// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/report.h"

#include <gtest/gtest.h>

#include "tests/report/well_formed.h"

namespace elapse {
namespace {

const std::string kHostile = "<script>alert('&')</script>\"\x02\xC3";

Report hostile_report() {
  Plot plot(kHostile, {kHostile}, {kHostile});
  plot.add({kHostile, {1, 2, 3}, {1, 2, 3}, Plot::Style::marked_line});
  Table table({{kHostile}}, kHostile);
  table.add_row({kHostile});
  Report report(kHostile, kHostile);
  report.section(kHostile).paragraph(kHostile).table(table).plot(plot);
  return report.preformatted(kHostile).facts({{kHostile, kHostile}});
}

TEST(XmlFault, FindsFaults) {
  EXPECT_EQ(xml_fault("<a x=\"1\"><b/>&lt;</a>"), "");
  for (const char* bad :
       {"<a>", "<a></b>", "<a x=1></a>", "a & b", "<a x=\"&\"/>", "<a", "</a>", "a > b", "<a", "a<",
        "<a b=\"1></a>", "<a x=\"1\"y=\"2\"/>", "<a>\x01</a>"}) {
    EXPECT_NE(xml_fault(bad), "") << bad;
  }
}

TEST(Report, IsWellFormedWhateverItsText) { EXPECT_EQ(xml_fault(hostile_report().html()), ""); }

TEST(Report, RunsAndRequestsNothing) {
  const std::string html = hostile_report().html();
  for (const char* part : {"<script", "<link", "<img", "src=", "href=", "url(", "@import"}) {
    EXPECT_EQ(html.find(part), std::string::npos) << part;
  }
  EXPECT_EQ(count_of(html, "http"), count_of(html, "xmlns=\"http") + count_of(html, "http-equiv"));
}

TEST(Report, KeepsTheOrderOfBlocks) {
  Report report("Title", "Summary.");
  report.section("First").paragraph("one").section("Second").preformatted("two\n").facts(
      {{"k", "v"}});
  const std::string html = report.html();
  size_t last = 0;
  for (const char* part :
       {"<title>Title</title>", "<h1>Title</h1>", "<p>Summary.</p>", "<h2>First</h2>", "<p>one</p>",
        "<h2>Second</h2>", "<pre>two\n</pre>", "<dt>k</dt>", "<dd>v</dd>"}) {
    const size_t at = html.find(part);
    ASSERT_NE(at, std::string::npos) << part;
    EXPECT_GT(at, last) << part;
    last = at;
  }
}

}  // namespace
}  // namespace elapse
