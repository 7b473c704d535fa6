// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "elapse/report/heat_map.h"
#include "elapse/report/plot.h"
#include "elapse/report/table.h"
#include "elapse/report/vectors.h"

namespace elapse {

// A page that stands alone: one HTML file with its style and pictures inside, which opens offline,
// runs no script and asks for nothing. Blocks appear in the order they are added.
class Report {
 public:
  using Facts = std::vector<std::pair<std::string, std::string>>;  // name and value

  Report(std::string title, std::string summary);  // the summary is one sentence

  Report& section(std::string_view heading);  // later blocks stand under it
  Report& paragraph(std::string_view text);
  Report& table(const Table& table);
  Report& plot(const Plot& plot);
  Report& heat_map(const HeatMap& map);
  Report& vectors(const VectorPanels& panels);
  // See coloured_tokens_html.
  Report& coloured_tokens(const std::string& title, const std::vector<std::string>& tokens,
                          const std::vector<double>& values, int decimals = 3);
  Report& preformatted(std::string_view text);
  Report& facts(const Facts& facts);

  std::string html() const;

 private:
  Report& append(std::string_view markup);

  std::string title_;
  std::string summary_;
  std::string body_;  // markup of the blocks so far
};

}  // namespace elapse
