// SPDX-License-Identifier: Apache-2.0
#include "elapse/report/report.h"

#include <fmt/format.h>

#include "elapse/report/markup.h"
#include "elapse/report/style.h"

namespace elapse {
namespace {

// The policy makes "asks for nothing" the browser's business as well.
constexpr std::string_view kHead = R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
<meta name="color-scheme" content="light dark" />
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'" />
)";

std::string element(std::string_view tag, std::string_view text) {
  return fmt::format("<{0}>{1}</{0}>\n", tag, escape_markup(text));
}

}  // namespace

Report::Report(std::string title, std::string summary)
    : title_(std::move(title)), summary_(std::move(summary)) {}

Report& Report::append(std::string_view markup) {
  body_ += markup;
  return *this;
}

Report& Report::section(std::string_view heading) { return append(element("h2", heading)); }

Report& Report::paragraph(std::string_view text) { return append(element("p", text)); }

Report& Report::table(const Table& table) { return append(table.html()); }

Report& Report::plot(const Plot& plot) { return append(plot.html()); }

Report& Report::heat_map(const HeatMap& map) { return append(heat_map_html(map)); }

Report& Report::vectors(const VectorPanels& panels) { return append(vector_panels_html(panels)); }

Report& Report::coloured_tokens(const std::string& title, const std::vector<std::string>& tokens,
                                const std::vector<double>& values, int decimals) {
  return append(coloured_tokens_html(title, tokens, values, decimals));
}

Report& Report::preformatted(std::string_view text) { return append(element("pre", text)); }

Report& Report::facts(const Facts& facts) {
  append("<dl>\n");
  for (const auto& [name, value] : facts) {
    append("<div>" + element("dt", name) + element("dd", value) + "</div>\n");
  }
  return append("</dl>\n");
}

std::string Report::html() const {
  std::string out(kHead);
  out += element("title", title_);
  out += fmt::format("<style>\n{}{}</style>\n</head>\n", plot_css(), report_css());
  out += "<body>\n<header>\n" + element("h1", title_) + element("p", summary_) + "</header>\n";
  out += "<main>\n" + body_ + "</main>\n</body>\n</html>\n";
  return out;
}

}  // namespace elapse
