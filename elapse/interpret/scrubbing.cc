// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/scrubbing.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "elapse/core/random.h"
#include "elapse/ops/rows.h"

namespace elapse {
namespace {

using Examples = std::vector<size_t>;

std::vector<int64_t> positions_of(const ScrubNode& node, int64_t length) {
  if (!node.positions.empty()) return node.positions;
  std::vector<int64_t> all(static_cast<size_t>(length));
  std::iota(all.begin(), all.end(), int64_t{0});
  return all;
}

void check(const ResidualGraph& graph, const Hypothesis& hypothesis, int64_t length) {
  ELAPSE_CHECK(!hypothesis.empty() && hypothesis[0].node == graph.unembed(),
               "a hypothesis: expected the unembedding as its first node");
  for (size_t i = 0; i < hypothesis.size(); ++i) {
    const ScrubNode& node = hypothesis[i];
    ELAPSE_CHECK(node.node >= 0 && node.node < graph.nodes() && (i == 0 || node.feature),
                 "a hypothesis: node {} is none of the model's, or computes nothing", i);
    for (const int64_t p : node.positions) {
      ELAPSE_CHECK(p >= 0 && p < length,
                   "a hypothesis: node {} ({}): expected tokens 0 to {}, found {}", i,
                   graph.name(node.node), length - 1, p);
    }
    std::set<std::pair<int64_t, int64_t>> seen;  // sender and token
    for (const size_t parent : node.parents) {
      ELAPSE_CHECK(parent < hypothesis.size() && hypothesis[parent].node < node.node,
                   "a hypothesis: node {} ({}) has a parent that is no earlier node", i,
                   graph.name(node.node));
      for (const int64_t p : positions_of(hypothesis[parent], length)) {
        ELAPSE_CHECK(seen.emplace(hypothesis[parent].node, p).second,
                     "a hypothesis: node {} ({}) has {} as a parent twice at token {}", i,
                     graph.name(node.node), graph.name(hypothesis[parent].node), p);
      }
    }
  }
}

class Scrubber {
 public:
  Scrubber(const LanguageModel& model, const ScrubDataset& data, const Hypothesis& hypothesis,
           uint64_t seed)
      : model_(model),
        hypothesis_(hypothesis),
        length_(std::ssize(data.sequences.front())),
        batch_(pack(model, data.sequences)),
        outputs_(node_outputs(model, batch_)),
        examples_(data.sequences.size()),
        random_(seed) {
    for (size_t i = 1; i < hypothesis.size(); ++i) {
      groups_.emplace_back();
      for (size_t x = 0; x < examples_; ++x) groups_.back()[hypothesis[i].feature(x)].push_back(x);
    }
  }

  // Logits of the scrubbed run for every example.
  LastLogits run() {
    Examples all(examples_);
    std::iota(all.begin(), all.end(), size_t{0});
    Tape tape(model_.device(), false);
    const Var stream(input(0, all));
    return last_logits(model_,
                       model_.forward_from(tape, model_.config().n_layers, stream, batch_).value());
  }

 private:
  // What a node of the hypothesis writes for these reference examples: (examples x length, d_model)
  Tensor written(size_t i, const Examples& references) {
    const int64_t node = hypothesis_[i].node;
    if (node == 0) return taken(0, references);
    Tape tape(model_.device(), false);
    return model_.block_output(tape, node - 1, Var(input(i, references)), batch_.seqs).value();
  }

  // The sum of what it reads.
  Tensor input(size_t i, const Examples& references) {
    Device& device = model_.device();
    Examples others(references.size());
    for (size_t& x : others) x = draw(examples_);
    std::multimap<int64_t, size_t> parents_of;  // by sender
    for (const size_t parent : hypothesis_[i].parents) {
      parents_of.emplace(hypothesis_[parent].node, parent);
    }
    Tensor sum;
    for (int64_t sender = 0; sender < hypothesis_[i].node; ++sender) {
      const auto [first, last] = parents_of.equal_range(sender);
      const bool whole = first != last && hypothesis_[first->second].positions.empty();
      Tensor part = whole ? written(first->second, agreeing(first->second, references))
                          : taken(sender, others);
      for (auto parent = first; !whole && parent != last; ++parent) {
        const Tensor own = written(parent->second, agreeing(parent->second, references));
        put_tokens(own, hypothesis_[parent->second].positions, part);
      }
      if (!sum) sum = part;
      else binary(device, {BinaryFunction::add, sum, part, sum});
    }
    return sum;
  }

  // These tokens' rows of every example, from one tensor into another: (examples x length, d_model)
  void put_tokens(const Tensor& from, const std::vector<int64_t>& positions, const Tensor& to) {
    for (int64_t first = 0; first < from.dim(0); first += length_) {
      for (const int64_t p : positions) {
        copy(model_.device(),
             {from.rows(first + p, first + p + 1), to.rows(first + p, first + p + 1)});
      }
    }
  }

  // Examples drawn from those that agree with the references in what the node computes.
  Examples agreeing(size_t i, const Examples& references) {
    Examples drawn;
    for (const size_t x : references) {
      const Examples& group = groups_[i - 1].at(hypothesis_[i].feature(x));
      drawn.push_back(group[draw(group.size())]);
    }
    return drawn;
  }

  // What a node of the model wrote for each of the examples.
  Tensor taken(int64_t node, const Examples& examples) {
    Device& device = model_.device();
    std::vector<int64_t> rows;
    for (const size_t x : examples) {
      for (int64_t t = 0; t < length_; ++t) rows.push_back(static_cast<int64_t>(x) * length_ + t);
    }
    const Tensor& all = outputs_[static_cast<size_t>(node)];
    const Tensor out = device.empty(all.dtype(), {std::ssize(rows), all.dim(1)});
    gather_rows(device, GatherRows{all, device.upload(rows, {std::ssize(rows)}), out});
    return out;
  }

  size_t draw(size_t count) {
    return static_cast<size_t>(random_.below(static_cast<int64_t>(count)));
  }

  const LanguageModel& model_;
  const Hypothesis& hypothesis_;
  int64_t length_;
  Batch batch_;
  NodeOutputs outputs_;
  size_t examples_;
  Random random_;
  std::vector<std::map<int64_t, Examples>> groups_;  // by node from the second on, by feature
};

std::vector<double> losses(const LastLogits& log_probability, const std::vector<int64_t>& labels) {
  std::vector<double> list;
  for (size_t x = 0; x < labels.size(); ++x) {
    list.push_back(-log_probability(static_cast<int64_t>(x), labels[x]));
  }
  return list;
}

}  // namespace

double size_of_equal_loss(std::vector<SizedLoss> family, double loss) {
  std::sort(family.begin(), family.end(),
            [](const SizedLoss& a, const SizedLoss& b) { return a.parameters < b.parameters; });
  for (size_t i = 0; i < family.size(); ++i) {
    if (family[i].loss == loss) return static_cast<double>(family[i].parameters);
    if (i + 1 == family.size()) break;
    const SizedLoss &a = family[i], &b = family[i + 1];
    if ((a.loss < loss) == (b.loss < loss)) continue;
    const double share = (loss - a.loss) / (b.loss - a.loss);
    const auto log_size = [](const SizedLoss& m) { return std::log(double(m.parameters)); };
    return std::exp(log_size(a) + share * (log_size(b) - log_size(a)));
  }
  return std::numeric_limits<double>::quiet_NaN();
}

namespace {

void check(const LanguageModel& model, const ScrubDataset& data) {
  ELAPSE_CHECK(data.sequences.size() >= 2 && data.labels.size() == data.sequences.size(),
               "expected at least 2 sequences with a label each, found {} and {} labels",
               data.sequences.size(), data.labels.size());
  for (const std::vector<int64_t>& sequence : data.sequences) {
    ELAPSE_CHECK(sequence.size() == data.sequences.front().size(),
                 "expected sequences of one length, found {} and {} tokens",
                 data.sequences.front().size(), sequence.size());
  }
  for (const int64_t label : data.labels) {
    ELAPSE_CHECK(label >= 0 && label < model.config().vocab_size,
                 "label {} is no class of the model, which has {}", label,
                 model.config().vocab_size);
  }
}

}  // namespace

double mean_loss(const LanguageModel& model, const ScrubDataset& data) {
  check(model, data);
  const LastLogits logits = last_logits(model, pack(model, data.sequences));
  return mean(losses(log_probabilities(logits), data.labels));
}

ScrubResult scrub(const LanguageModel& model, const ScrubDataset& data,
                  const Hypothesis& hypothesis, int64_t rounds, uint64_t seed,
                  const std::function<void(int64_t done, int64_t total)>& progress) {
  ELAPSE_CHECK(rounds >= 1, "expected at least one round, found {}", rounds);
  check(model, data);
  check(ResidualGraph(model.config()), hypothesis, std::ssize(data.sequences.front()));
  const LastLogits logits = last_logits(model, pack(model, data.sequences));
  const LastLogits log_probability = log_probabilities(logits);
  ScrubResult result;
  result.model_losses = losses(log_probability, data.labels);
  result.model_loss = mean(result.model_losses);

  // The mean over all pairs of an example and a label, its own among them.
  std::map<int64_t, double> count_of_label;
  for (const int64_t label : data.labels) count_of_label[label] += 1;
  const auto n = static_cast<double>(data.labels.size());
  for (int64_t x = 0; x < logits.sequences; ++x) {
    for (const auto& [label, count] : count_of_label) {
      result.shuffled_loss -= count / n / n * log_probability(x, label);
    }
  }

  result.scrubbed_losses.assign(data.labels.size(), 0.0);
  Scrubber scrubber(model, data, hypothesis, seed);
  const double share = 1 / static_cast<double>(rounds);
  for (int64_t round = 0; round < rounds; ++round) {
    const LastLogits scrubbed = scrubber.run();
    const std::vector<double> found = losses(log_probabilities(scrubbed), data.labels);
    for (size_t x = 0; x < found.size(); ++x) result.scrubbed_losses[x] += share * found[x];
    result.kl += share * mean(kl_divergences(logits, scrubbed));
    progress(round + 1, rounds);
  }
  result.scrubbed_loss = mean(result.scrubbed_losses);
  result.recovered =
      (result.shuffled_loss - result.scrubbed_loss) / (result.shuffled_loss - result.model_loss);
  return result;
}

}  // namespace elapse
