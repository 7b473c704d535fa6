// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <vector>

#include "elapse/interpret/graph.h"

namespace elapse {

// How far a circuit's logits are from where they should be: less is better.
using Distance = std::function<double(const LastLogits& logits)>;

using SearchProgress = std::function<void(int64_t done, int64_t total)>;

// ACDC (Conmy et al., 2023). Nodes from the last to the first, and of each the edges that enter it
// from the last sender to the first: an edge is cut, for good, if the distance grows by less than
// `threshold`. Candidates are tried `together`, each as if all before it were cut, and what follows
// one that must stay is tried again, so the result is that of trying one after the other.
struct AcdcStep {
  Edge edge;
  double distance;  // with the edge cut
  bool cut;
};
struct AcdcResult {
  Circuit circuit;
  double distance;  // its
  std::vector<AcdcStep> steps;
  int64_t runs = 0;  // circuits that were run
};
AcdcResult acdc(const CircuitRunner& runner, const Distance& distance, double threshold,
                int64_t together = 8, const SearchProgress& progress = {});

// Greedy search: from `start` on, the candidate whose edges bring the circuit closest is added,
// until the distance is at most `enough`, no candidate brings it closer, or `most` were added.
struct GreedyStep {
  int64_t candidate;
  double distance;  // with it
};
struct GreedyResult {
  Circuit circuit;
  double distance;
  std::vector<GreedyStep> steps;
};
GreedyResult greedy_search(const CircuitRunner& runner, const Distance& distance, Circuit start,
                           const std::vector<std::vector<Edge>>& candidates, double enough,
                           int64_t most, const SearchProgress& progress = {});

// The smallest circuit of the `score`-largest edges that is within `enough`, found by bisection of
// their number: edges that leave or enter what no path from the embedding to the unembedding passes
// count all the same. `score`: by the edge's number in the graph.
Circuit fewest_edges(const CircuitRunner& runner, const Distance& distance,
                     const std::vector<double>& score, double enough);

}  // namespace elapse
