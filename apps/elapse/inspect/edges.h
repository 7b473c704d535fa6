// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "apps/elapse/inspect/inspection.h"

namespace elapse {

// A number for each edge of the residual graph.
struct EdgeNumbers {
  std::string method, title;
  std::string task, what;      // sentences
  std::vector<double> values;  // by ResidualGraph::index
};

// The largest as a table, all as a heat map of senders by receivers.
// Senders by receivers; `values` (edges), NaN: an empty cell.
HeatMap edge_map(const ResidualGraph& graph, const std::string& title,
                 const std::vector<double>& values, int decimals);

void show_edges(const InspectOptions& options, const Inspection& inspection,
                const EdgeNumbers& numbers);

// "layers.3 -> unembed" in a table with its numbers, for the `most` largest by size.
Table largest_edges(const ResidualGraph& graph, const std::vector<double>& values, int64_t most);

}  // namespace elapse
