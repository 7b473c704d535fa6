// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/circuit_quality.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "elapse/core/random.h"

namespace elapse {
namespace {

NodeSet without(const NodeSet& from, const NodeSet& removed) {
  NodeSet left;
  for (const int64_t node : from) {
    if (std::find(removed.begin(), removed.end(), node) == removed.end()) left.push_back(node);
  }
  return left;
}

NodeSet with(NodeSet set, int64_t node) {
  set.push_back(node);
  return set;
}

// F of the circuits of these node sets.
std::vector<double> scores(const CircuitRunner& runner, const Score& F,
                           const std::vector<NodeSet>& sets) {
  const int64_t n_blocks = std::ssize(runner.own_outputs()) - 1;
  std::vector<Circuit> circuits;
  for (const NodeSet& set : sets) circuits.push_back(circuit_of(n_blocks, set));
  std::vector<double> found;
  for (const LastLogits& logits : runner.run(circuits)) found.push_back(F(logits));
  return found;
}

std::vector<NodeSet> random_subsets(const NodeSet& of, int64_t count, uint64_t seed) {
  Random random(seed);
  std::vector<NodeSet> sets(static_cast<size_t>(count));
  for (NodeSet& set : sets) {
    for (const int64_t node : of) {
      if (random.below(2) == 1) set.push_back(node);
    }
  }
  return sets;
}

// The removed set for which measure() is largest: among those given and, greedily, supersets of
// the empty one within `of`. measure() takes many sets at once.
template <class Measure>
NodeSet search(const NodeSet& of, const std::vector<NodeSet>& given, Measure&& measure) {
  std::vector<NodeSet> tried = given;
  tried.push_back({});
  const std::vector<double> found = measure(tried);
  const auto most = std::max_element(found.begin(), found.end());
  NodeSet best = tried[static_cast<size_t>(most - found.begin())], greedy;
  double value = *most, of_greedy = found.back();
  while (greedy.size() < of.size()) {
    std::vector<NodeSet> next;
    for (const int64_t node : without(of, greedy)) next.push_back(with(greedy, node));
    const std::vector<double> measured = measure(next);
    const auto top = std::max_element(measured.begin(), measured.end());
    if (*top <= of_greedy) break;
    greedy = next[static_cast<size_t>(top - measured.begin())];
    of_greedy = *top;
  }
  return of_greedy > value ? greedy : best;
}

}  // namespace

Circuit circuit_of(int64_t n_blocks, const NodeSet& nodes) {
  Circuit circuit(n_blocks, false);
  circuit.set_from(0, true);
  for (const int64_t node : nodes) {
    ELAPSE_CHECK(node >= 1 && node <= n_blocks, "node {} is no block's: expected 1 to {}", node,
                 n_blocks);
    circuit.set_from(node, true);
  }
  return circuit;
}

GreedyResult greedy_layers(const CircuitRunner& runner, const Distance& distance, double enough,
                           const SearchProgress& progress) {
  const int64_t n_blocks = std::ssize(runner.own_outputs()) - 1;
  std::vector<std::vector<Edge>> blocks(static_cast<size_t>(n_blocks));
  for (int64_t node = 1; node <= n_blocks; ++node) {
    for (int64_t to = node + 1; to < n_blocks + 2; ++to) {
      blocks[static_cast<size_t>(node - 1)].push_back({node, to});
    }
  }
  return greedy_search(runner, distance, circuit_of(n_blocks, {}), blocks, enough, n_blocks,
                       progress);
}

double Completeness::gap() const { return std::abs(circuit - model); }

Completeness completeness(const CircuitRunner& runner, const Score& F, const NodeSet& circuit,
                          int64_t random_sets, uint64_t seed) {
  NodeSet model(runner.own_outputs().size() - 1);
  std::iota(model.begin(), model.end(), 1);
  const auto both = [&](const std::vector<NodeSet>& removed) {
    std::vector<NodeSet> sets;
    for (const NodeSet& K : removed) {
      sets.push_back(without(circuit, K));
      sets.push_back(without(model, K));
    }
    return scores(runner, F, sets);
  };
  const NodeSet removed =
      search(circuit, random_subsets(circuit, random_sets, seed), [&](const auto& tried) {
        const std::vector<double> f = both(tried);
        std::vector<double> gaps;
        for (size_t i = 0; i < f.size(); i += 2) gaps.push_back(std::abs(f[i] - f[i + 1]));
        return gaps;
      });
  const std::vector<double> f = both({removed});
  return {removed, f[0], f[1]};
}

std::vector<Minimality> minimality(const CircuitRunner& runner, const Score& F,
                                   const NodeSet& circuit, int64_t random_sets, uint64_t seed) {
  std::vector<Minimality> list;
  for (const int64_t node : circuit) {
    const NodeSet rest = without(circuit, {node});
    const auto changes = [&](const std::vector<NodeSet>& removed) {
      std::vector<NodeSet> sets;
      for (const NodeSet& K : removed) {
        sets.push_back(without(circuit, K));
        sets.push_back(without(rest, K));
      }
      const std::vector<double> f = scores(runner, F, sets);
      std::vector<double> found;
      for (size_t i = 0; i < f.size(); i += 2) found.push_back(std::abs(f[i] - f[i + 1]));
      return found;
    };
    const NodeSet removed = search(rest, random_subsets(rest, random_sets, seed), changes);
    list.push_back({node, removed, changes({removed}).front()});
  }
  return list;
}

}  // namespace elapse
