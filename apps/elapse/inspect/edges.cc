// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/inspect/edges.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace elapse {

Table largest_edges(const ResidualGraph& graph, const std::vector<double>& values, int64_t most) {
  std::vector<int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return std::abs(values[static_cast<size_t>(a)]) > std::abs(values[static_cast<size_t>(b)]);
  });
  Table table({{"edge", Table::Align::left}, {"change", Table::Align::right, 5}});
  for (int64_t i = 0; i < std::min<int64_t>(most, std::ssize(order)); ++i) {
    const int64_t edge = order[static_cast<size_t>(i)];
    table.add_row({graph.name(graph.edge(edge)), values[static_cast<size_t>(edge)]});
  }
  return table;
}

HeatMap edge_map(const ResidualGraph& graph, const std::string& title,
                 const std::vector<double>& values, int decimals) {
  const int64_t n = graph.unembed();
  HeatMap map = {
      .title = title, .row_heading = "from", .column_heading = "to", .decimals = decimals};
  map.values.assign(static_cast<size_t>(n * n), std::numeric_limits<double>::quiet_NaN());
  for (int64_t i = 0; i < n; ++i) {
    map.rows.push_back(graph.name(i));
    map.columns.push_back(graph.name(i + 1));
  }
  for (int64_t i = 0; i < graph.edges(); ++i) {
    const Edge edge = graph.edge(i);
    map.values[static_cast<size_t>(edge.from * n + edge.to - 1)] = values[static_cast<size_t>(i)];
  }
  return map;
}

void show_edges(const InspectOptions& options, const Inspection& inspection,
                const EdgeNumbers& numbers) {
  const ResidualGraph graph = inspection.graph();
  JsonWriter json;
  json.begin_object().field("method", numbers.method).key("edges").begin_array();
  for (int64_t i = 0; i < graph.edges(); ++i) {
    const Edge edge = graph.edge(i);
    const double value = numbers.values[static_cast<size_t>(i)];
    json.begin_object()
        .field("from", graph.name(edge.from))
        .field("to", graph.name(edge.to))
        .field("change", value)
        .end_object();
  }
  json.end_array();
  const Table table = largest_edges(graph, numbers.values, 20);
  Report report(numbers.title, numbers.what);
  report.paragraph(numbers.task)
      .heat_map(edge_map(graph, "Change of the mean logit difference", numbers.values, 5))
      .table(table);
  finish(options, fmt::format("{}\n{}\n\n{}", numbers.task, numbers.what, table.text()), report,
         json);
}

}  // namespace elapse
