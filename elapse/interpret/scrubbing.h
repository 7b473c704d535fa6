// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "elapse/interpret/graph.h"
#include "elapse/interpret/metrics.h"

namespace elapse {

// Causal scrubbing (Chan et al., 2022). A hypothesis says which senders matter to which readers,
// and what each computes of the input: its interpretation graph, laid on the residual graph.
struct ScrubNode {
  int64_t node = 0;  // of ResidualGraph
  // Nodes of the hypothesis, each of an earlier node of the model, no two of the same at a token.
  std::vector<size_t> parents = {};
  // What it computes, as a number, of an example of the dataset: inputs that agree in it may take
  // each other's place. Unused for the first node.
  std::function<int64_t(size_t example)> feature = {};
  // The tokens, counted from 0, at which what it writes matters to its readers; empty: all.
  std::vector<int64_t> positions = {};
};
// The first node is the unembedding.
using Hypothesis = std::vector<ScrubNode>;

struct ScrubDataset {
  TokenLists sequences;         // of one length
  std::vector<int64_t> labels;  // the right class after each
};

// Losses in nats of the label after the last token. What recovered says hides what the rest shows:
// it may be below 0 or above 1, depends on the baseline, and leaves out which examples fail.
struct ScrubResult {
  double model_loss = 0, scrubbed_loss = 0;
  double shuffled_loss = 0;  // of the model's own outputs with the examples' labels permuted
  double recovered = 0;      // (shuffled - scrubbed) / (shuffled - model)
  std::vector<double> model_losses, scrubbed_losses;  // by example
  double kl = 0;                                      // mean KL(model || scrubbed)
};

// A model of a family of trained sizes, on the same examples.
struct SizedLoss {
  int64_t parameters = 0;
  double loss = 0;
};
// The number of parameters at which the family has this loss, between two neighbours in size along
// the straight line of loss against its logarithm; where several are, the smallest. NaN where the
// family nowhere has it.
double size_of_equal_loss(std::vector<SizedLoss> family, double loss);

// The mean loss in nats of the right class after each sequence.
double mean_loss(const LanguageModel& model, const ScrubDataset& data);

// Runs the hypothesis on every example `rounds` times with inputs drawn anew (by `seed`): of each
// node, from the sender on, important parents run on inputs that agree in their feature, each its
// own; all others of its senders together on one input drawn from all. Throws Error for a
// hypothesis that is no such graph, and sequences of several lengths.
ScrubResult scrub(
    const LanguageModel& model, const ScrubDataset& data, const Hypothesis& hypothesis,
    int64_t rounds, uint64_t seed,
    const std::function<void(int64_t done, int64_t total)>& progress = [](int64_t, int64_t) {});

}  // namespace elapse
