// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/heat_map.h"

#include <gtest/gtest.h>

#include <cmath>

#include "elapse/core/error.h"
#include "tests/report/well_formed.h"

namespace elapse {
namespace {

HeatMap some_map(std::vector<double> values) {
  return {.title = "Patching <resid_pre> & more",
          .row_heading = "layer",
          .column_heading = "token",
          .rows = {"0", "1"},
          .columns = {" the", "</b><script>alert(1)</script>", "\n\xFF"},
          .values = std::move(values)};
}

TEST(HeatMap, IsWellFormedWhateverTheTokens) {
  const std::string html = heat_map_html(some_map({0, 1, 2, 3, NAN, 5}));
  EXPECT_EQ(xml_fault(html), "");
  EXPECT_EQ(count_of(html, "<script"), 0u);
  EXPECT_EQ(count_of(html, "tabindex"), 5u);
  EXPECT_NE(html.find("layer 1, token ·the: 3.000"), std::string::npos);
  EXPECT_EQ(html, heat_map_html(some_map({0, 1, 2, 3, NAN, 5})));
}

TEST(HeatMap, FoldsAndHasNotes) {
  HeatMap map = some_map({0, 1, 2, 3, NAN, 5});
  map.folded = true;
  map.notes = {"a", "<i>", "c", "d", "e", "\x01"};
  const std::string html = heat_map_html(map);
  EXPECT_EQ(xml_fault(html), "");
  EXPECT_NE(html.find("<summary>Patching"), std::string::npos);
  EXPECT_NE(html.find(": 1.000; &lt;i&gt;</b>"), std::string::npos);
  map.notes.pop_back();
  EXPECT_THROW(heat_map_html(map), Error);
}

TEST(HeatMap, HasWhiteAtZeroWhereThereAreBothSigns) {
  const std::string html = heat_map_html(some_map({-2, 0, 1, 0, 0, 0}));
  EXPECT_NE(html.find("background:#ffffff;color:#111\"><b>layer 0, token &lt;/b"),
            std::string::npos);
  EXPECT_NE(html.find("background:#053061;color:#fff\"><b>layer 0, token ·the: -2.000"),
            std::string::npos);
  EXPECT_NE(html.find("<span>2.000</span></div>"), std::string::npos);
}

TEST(HeatMap, OfOneValueOrNoneIsAMapToo) {
  EXPECT_EQ(xml_fault(heat_map_html(some_map({7, 7, 7, 7, 7, 7}))), "");
  EXPECT_EQ(xml_fault(heat_map_html(some_map({NAN, NAN, NAN, NAN, NAN, INFINITY}))), "");
  EXPECT_EQ(xml_fault(heat_map_html({.title = "none"})), "");
}

TEST(HeatMap, RefusesWhatDoesNotMatch) {
  EXPECT_THROW(heat_map_html(some_map({1, 2})), Error);
  HeatMap large = {.title = "large",
                   .rows = std::vector<std::string>(400, "r"),
                   .columns = std::vector<std::string>(400, "c"),
                   .values = std::vector<double>(160'000, 0.0)};
  EXPECT_THROW(heat_map_html(large), Error);
}

TEST(ColouredTokens, AreTheTextInItsOrder) {
  const std::string html = coloured_tokens_html("dt", {"a", " <b>", "c"}, {1, -1, 0.5}, 1);
  EXPECT_EQ(xml_fault(html), "");
  EXPECT_LT(html.find(">a<b>0 a: 1.0"), html.find(">·&lt;b&gt;<b>1 ·&lt;b&gt;: -1.0"));
  EXPECT_THROW(coloured_tokens_html("dt", {"a"}, {}), Error);
}

}  // namespace
}  // namespace elapse
