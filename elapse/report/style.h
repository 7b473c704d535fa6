// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string_view>

namespace elapse {

std::string_view plot_css();    // web/plot.css: colours and strokes of plots
std::string_view report_css();  // web/report.css: the page around them

}  // namespace elapse
