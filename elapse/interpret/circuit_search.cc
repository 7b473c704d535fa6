// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/circuit_search.h"

#include <algorithm>
#include <numeric>

namespace elapse {
namespace {

void tell(const SearchProgress& progress, int64_t done, int64_t total) {
  if (progress) progress(done, total);
}

double distance_of(const CircuitRunner& runner, const Distance& distance, const Circuit& circuit) {
  return distance(runner.run({circuit}).front());
}

}  // namespace

AcdcResult acdc(const CircuitRunner& runner, const Distance& distance, double threshold,
                int64_t together, const SearchProgress& progress) {
  ELAPSE_CHECK(together >= 1, "ACDC: expected at least one edge at a time, found {}", together);
  const int64_t n_blocks = std::ssize(runner.own_outputs()) - 1;
  AcdcResult result{Circuit(n_blocks), distance(runner.plain()), {}};
  const ResidualGraph graph(n_blocks);
  std::vector<Edge> order;
  for (int64_t to = graph.unembed(); to > 0; --to) {
    for (int64_t from = to - 1; from >= 0; --from) order.push_back({from, to});
  }
  for (size_t next = 0; next < order.size();) {
    const size_t end = std::min(order.size(), next + static_cast<size_t>(together));
    std::vector<Circuit> tried;
    for (size_t i = next; i < end; ++i) {
      tried.push_back(tried.empty() ? result.circuit : tried.back());
      tried.back().set(order[i], false);
    }
    const std::vector<LastLogits> logits = runner.run(tried);
    result.runs += std::ssize(tried);
    for (size_t i = 0; i < tried.size(); ++i) {
      const double found = distance(logits[i]);
      const bool cut = found - result.distance < threshold;
      result.steps.push_back({order[next], found, cut});
      ++next;
      if (!cut) break;
      result.circuit = tried[i];
      result.distance = found;
    }
    tell(progress, static_cast<int64_t>(next), std::ssize(order));
  }
  return result;
}

GreedyResult greedy_search(const CircuitRunner& runner, const Distance& distance, Circuit start,
                           const std::vector<std::vector<Edge>>& candidates, double enough,
                           int64_t most, const SearchProgress& progress) {
  GreedyResult result{start, distance_of(runner, distance, start), {}};
  std::vector<bool> taken(candidates.size(), false);
  while (result.distance > enough && std::ssize(result.steps) < most) {
    std::vector<Circuit> tried;
    std::vector<int64_t> which;
    for (size_t i = 0; i < candidates.size(); ++i) {
      if (taken[i]) continue;
      tried.push_back(result.circuit);
      for (const Edge edge : candidates[i]) tried.back().set(edge, true);
      which.push_back(static_cast<int64_t>(i));
    }
    const std::vector<LastLogits> logits = runner.run(tried);
    std::vector<double> found;
    for (const LastLogits& l : logits) found.push_back(distance(l));
    const auto best = std::min_element(found.begin(), found.end());
    if (best == found.end() || *best >= result.distance) break;
    const auto i = static_cast<size_t>(best - found.begin());
    taken[static_cast<size_t>(which[i])] = true;
    result.circuit = tried[i];
    result.distance = *best;
    result.steps.push_back({which[i], *best});
    tell(progress, std::ssize(result.steps), most);
  }
  return result;
}

Circuit fewest_edges(const CircuitRunner& runner, const Distance& distance,
                     const std::vector<double>& score, double enough) {
  const int64_t n_blocks = std::ssize(runner.own_outputs()) - 1;
  const ResidualGraph graph(n_blocks);
  ELAPSE_CHECK(std::ssize(score) == graph.edges(),
               "expected a score for each of {} edges, found {}", graph.edges(), score.size());
  std::vector<int64_t> order(score.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return score[static_cast<size_t>(a)] > score[static_cast<size_t>(b)];
  });
  const auto of_size = [&](int64_t size) {
    Circuit circuit(n_blocks, false);
    for (int64_t i = 0; i < size; ++i) circuit.set(graph.edge(order[static_cast<size_t>(i)]), true);
    return circuit;
  };
  int64_t too_few = -1, sufficient = graph.edges();
  while (sufficient - too_few > 1) {
    const int64_t middle = too_few + (sufficient - too_few) / 2;
    const bool within = distance_of(runner, distance, of_size(middle)) <= enough;
    (within ? sufficient : too_few) = middle;
  }
  return of_size(sufficient);
}

}  // namespace elapse
