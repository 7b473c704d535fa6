// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <vector>

#include "elapse/interpret/circuit_search.h"

namespace elapse {

// How good a circuit of nodes is (Wang et al., 2022, section 4): the embedding and the unembedding
// always belong to it; a block that does not is knocked out, what it writes being that of the
// runner's other run: of a corrupted prompt, or a mean. `F` makes a number of a run's logits, such
// as the mean logit difference.
using NodeSet = std::vector<int64_t>;  // blocks' nodes, 1 to n_blocks
using Score = std::function<double(const LastLogits& logits)>;

// All edges out of the blocks in `nodes`, and out of the embedding.
Circuit circuit_of(int64_t n_blocks, const NodeSet& nodes);

// Greedy search by blocks, from none on: nodes found, in the order they were added, in the steps'
// candidates plus one.
GreedyResult greedy_layers(const CircuitRunner& runner, const Distance& distance, double enough,
                           const SearchProgress& progress = {});

// A circuit is complete if it and the model suffer alike, whatever part K of it is knocked out too:
// the largest |F(C \ K) - F(M \ K)| that was found.
struct Completeness {
  NodeSet removed;                // K
  double circuit = 0, model = 0;  // F(C \ K), F(M \ K)

  double gap() const;
};
// Among K = nothing, `random_sets` drawn with `seed`, and the greedy search, which adds the node
// that widens the gap most until none does.
Completeness completeness(const CircuitRunner& runner, const Score& F, const NodeSet& circuit,
                          int64_t random_sets, uint64_t seed);

// A circuit is minimal if each node matters to what is left of it after some K is knocked out: for
// each, the largest |F(C \ (K and v)) - F(C \ K)| that was found, by the same searches.
struct Minimality {
  int64_t node;
  NodeSet removed;  // K
  double change;
};
std::vector<Minimality> minimality(const CircuitRunner& runner, const Score& F,
                                   const NodeSet& circuit, int64_t random_sets, uint64_t seed);

}  // namespace elapse
