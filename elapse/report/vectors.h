// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <utility>
#include <vector>

namespace elapse {

// Vectors in the plane, in small pictures of one scale side by side: the columns of a matrix with
// two rows, say, one picture a model. Each vector has its number at its tip.
struct VectorPanels {
  struct Panel {
    std::string title;
    std::vector<std::pair<double, double>> vectors;  // (x, y)
  };
  std::string title = {};
  std::vector<Panel> panels = {};
};

// A <figure> for a page that carries plot_css() and report_css(). Throws Error for a vector that is
// not finite.
std::string vector_panels_html(const VectorPanels& panels);

}  // namespace elapse
