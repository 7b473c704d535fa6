// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/vectors.h"

#include <gtest/gtest.h>

#include <cmath>

#include "elapse/core/error.h"
#include "tests/report/well_formed.h"

namespace elapse {
namespace {

TEST(VectorPanels, HaveOneScale) {
  const VectorPanels panels = {.title = "<W>",
                               .panels = {{"a & b", {{2, 0}, {0, -1}}}, {"c", {{0, 0}}}}};
  const std::string html = vector_panels_html(panels);
  EXPECT_EQ(xml_fault(html), "");
  EXPECT_EQ(count_of(html, "<svg"), 2u);
  EXPECT_EQ(count_of(html, "<text"), 2u);  // the vector 0 has no number
  EXPECT_NE(html.find("x2=\"54\" y2=\"0\""), std::string::npos);
  EXPECT_NE(html.find("x2=\"0\" y2=\"27\""), std::string::npos);  // down is down
  EXPECT_EQ(html, vector_panels_html(panels));
}

TEST(VectorPanels, OfNothingArePicturesToo) {
  EXPECT_EQ(xml_fault(vector_panels_html({})), "");
  EXPECT_EQ(xml_fault(vector_panels_html({.title = "t", .panels = {{"none", {}}}})), "");
}

TEST(VectorPanels, RefuseWhatIsNotFinite) {
  EXPECT_THROW(vector_panels_html({.title = "t", .panels = {{"p", {{NAN, 0}}}}}), Error);
}

}  // namespace
}  // namespace elapse
