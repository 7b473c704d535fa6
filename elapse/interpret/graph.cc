// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/graph.h"

#include <algorithm>

namespace elapse {

Edge ResidualGraph::edge(int64_t index) const {
  int64_t to = 1;
  while (to * (to + 1) / 2 <= index) ++to;
  return {index - to * (to - 1) / 2, to};
}

std::string ResidualGraph::name(int64_t node) const {
  if (node == 0) return "embed";
  if (node == unembed()) return "unembed";
  return fmt::format("layers.{}{}", layer(node), is_mlp(node) ? ".mlp" : "");
}

std::string ResidualGraph::name(Edge edge) const {
  return name(edge.from) + " -> " + name(edge.to);
}

std::string ResidualGraph::input_point(int64_t node) const {
  if (node == unembed()) return fmt::format("layers.{}.resid_post", layer(n_blocks_));
  return fmt::format("layers.{}.{}", layer(node), is_mlp(node) ? "mlp_input" : "layer_input");
}

std::string ResidualGraph::output_point(int64_t node) const {
  if (node == 0) return "layers.0.resid_pre";  // the embeddings of tokens and of positions
  return fmt::format("layers.{}.{}", layer(node), is_mlp(node) ? "mlp.out" : "mixer.out");
}

void Circuit::set_from(int64_t node, bool kept) {
  for (int64_t to = node + 1; to < graph_.nodes(); ++to) set({node, to}, kept);
}

bool Circuit::hears(int64_t node) const {
  for (int64_t to = node + 1; to < graph_.nodes(); ++to) {
    if (has({node, to})) return true;
  }
  return false;
}

int64_t Circuit::size() const { return std::count(kept_.begin(), kept_.end(), true); }

int64_t Circuit::first_cut() const {
  const auto lacking = std::find(kept_.begin(), kept_.end(), false);
  return lacking == kept_.end() ? graph_.nodes() : graph_.edge(lacking - kept_.begin()).to;
}

std::vector<Edge> Circuit::edges() const {
  std::vector<Edge> list;
  for (int64_t i = 0; i < graph_.edges(); ++i) {
    if (kept_[static_cast<size_t>(i)]) list.push_back(graph_.edge(i));
  }
  return list;
}

NodeOutputs node_outputs(const LanguageModel& model, const Batch& batch) {
  const ResidualGraph graph(model.config());
  Points points;
  for (int64_t node = 0; node < graph.unembed(); ++node) points.watch(graph.output_point(node));
  Tape tape(model.device(), false);
  model.forward(tape, batch, nullptr, &points);
  NodeOutputs outputs;
  for (int64_t node = 0; node < graph.unembed(); ++node) {
    outputs.push_back(points.value(graph.output_point(node)));
  }
  return outputs;
}

NodeOutputs mean_outputs(const LanguageModel& model, const std::vector<TokenLists>& runs) {
  ELAPSE_CHECK(!runs.empty(), "a mean of runs: expected at least one, found none");
  Device& device = model.device();
  NodeOutputs sums;
  for (const TokenLists& run : runs) {
    const NodeOutputs outputs = node_outputs(model, pack(model, run));
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (sums.size() < outputs.size()) {
        sums.push_back(device.zeros(model.dtype(), outputs[i].shape()));
      }
      binary(device, {BinaryFunction::add, sums[i], outputs[i], sums[i]});
    }
  }
  const Tensor share = device.empty(model.dtype(), {1, 1});
  fill(device, {share, 1 / static_cast<double>(runs.size())});
  for (const Tensor& sum : sums) binary(device, {BinaryFunction::mul, sum, share, sum});
  return sums;
}

namespace {

void check_lengths(const TokenLists& sequences, const TokenLists& others) {
  ELAPSE_CHECK(sequences.size() == others.size(),
               "expected as many other sequences as there are, {}, found {}", sequences.size(),
               others.size());
  for (size_t s = 0; s < sequences.size(); ++s) {
    ELAPSE_CHECK(sequences[s].size() == others[s].size(),
                 "pair {}: expected sequences of equal lengths, found {} and {} tokens", s,
                 sequences[s].size(), others[s].size());
  }
}

NodeOutputs outputs_of_pairs(const LanguageModel& model, const TokenLists& sequences,
                             const TokenLists& others) {
  check_lengths(sequences, others);
  return node_outputs(model, pack(model, others));
}

}  // namespace

CircuitRunner::CircuitRunner(const LanguageModel& model, const TokenLists& sequences,
                             const TokenLists& others, int64_t batch_tokens)
    : CircuitRunner(model, sequences, outputs_of_pairs(model, sequences, others), batch_tokens) {}

CircuitRunner::CircuitRunner(const LanguageModel& model, const TokenLists& sequences,
                             NodeOutputs others, int64_t batch_tokens)
    : model_(model),
      batch_tokens_(batch_tokens),
      sequences_(sequences),
      batch_(pack(model, sequences)),
      own_(node_outputs(model, batch_)),
      other_(std::move(others)) {
  for (const Tensor& written : other_) {
    ELAPSE_CHECK(other_.size() == own_.size() && written.shape() == own_.front().shape(),
                 "another run: expected {} nodes of {}, found {} of {}", own_.size(),
                 own_.front().shape().str(), other_.size(), written.shape().str());
  }
  plain_ = run({Circuit(model.config().blocks(), true)}).front();
  other_logits_ = run({Circuit(model.config().blocks(), false)}).front();
}

void CircuitRunner::cut_at(const std::vector<int64_t>& positions) {
  std::vector<int64_t> rows;
  int64_t begin = 0;
  for (size_t s = 0; s < sequences_.size(); ++s) {
    const int64_t length = std::ssize(sequences_[s]);
    for (const int64_t p : positions) {
      ELAPSE_CHECK(p >= -length && p < length,
                   "sequence {}: expected a position of {} to {}, found {}", s, -length, length - 1,
                   p);
      rows.push_back(begin + (p < 0 ? p + length : p));
    }
    begin += length;
  }
  cut_rows_ = std::move(rows);
}

std::vector<LastLogits> CircuitRunner::run(const std::vector<Circuit>& circuits) const {
  std::vector<LastLogits> results;
  const auto together = static_cast<size_t>(std::max<int64_t>(1, batch_tokens_ / tokens()));
  for (size_t begin = 0; begin < circuits.size(); begin += together) {
    run_some(circuits, begin, std::min(circuits.size(), begin + together), results);
  }
  return results;
}

// Circuits [begin, end) as one batch, one after the other.
void CircuitRunner::run_some(const std::vector<Circuit>& circuits, size_t begin, size_t end,
                             std::vector<LastLogits>& into) const {
  TokenLists repeated;
  int64_t first = circuits[begin].graph().unembed();
  for (size_t c = begin; c < end; ++c) {
    repeated.insert(repeated.end(), sequences_.begin(), sequences_.end());
    first = std::min(first, circuits[c].first_cut());
  }
  const Batch batch = pack(model_, repeated);
  const int64_t unembed = circuits[begin].graph().unembed();
  Tape tape(model_.device(), false);
  NodeOutputs written(static_cast<size_t>(unembed));  // from `first` on; before it, own_
  for (int64_t node = first; node < unembed; ++node) {
    const bool heard = std::any_of(circuits.begin() + static_cast<int64_t>(begin),
                                   circuits.begin() + static_cast<int64_t>(end),
                                   [&](const Circuit& c) { return c.hears(node); });
    if (!heard && cut_rows_.empty()) continue;
    const Var input(read(circuits, begin, end, node, written));
    written[static_cast<size_t>(node)] =
        model_.block_output(tape, node - 1, input, batch.seqs).value();
  }
  const Var last(read(circuits, begin, end, unembed, written));
  const Var logits = model_.forward_from(tape, model_.config().n_layers, last, batch);
  const auto each = static_cast<int64_t>(sequences_.size());
  for (int64_t c = 0; c < static_cast<int64_t>(end - begin); ++c) {
    into.push_back(last_logits(model_, logits.value().rows(c * each, (c + 1) * each)));
  }
}

// What an edge that is cut carries: (tokens, d_model).
Tensor CircuitRunner::cut(const Tensor& own, const Tensor& other) const {
  if (cut_rows_.empty()) return other;
  Device& device = model_.device();
  const Tensor mixed = device.empty(own.dtype(), own.shape());
  copy(device, {own, mixed});
  for (const int64_t r : cut_rows_) copy(device, {other.rows(r, r + 1), mixed.rows(r, r + 1)});
  return mixed;
}

// What a node reads in each circuit: the sum, in the model's order, of what its edges carry.
Tensor CircuitRunner::read(const std::vector<Circuit>& circuits, size_t begin, size_t end,
                           int64_t node, const NodeOutputs& written) const {
  Device& device = model_.device();
  const int64_t rows = tokens(), copies = static_cast<int64_t>(end - begin);
  const Tensor sum = device.empty(model_.dtype(), {rows * copies, model_.config().d_model});
  for (int64_t c = 0; c < copies; ++c) {
    const Tensor into = sum.rows(c * rows, (c + 1) * rows);
    for (int64_t from = 0; from < node; ++from) {
      const auto i = static_cast<size_t>(from);
      const bool kept = circuits[begin + static_cast<size_t>(c)].has({from, node});
      const Tensor own = written[i] ? written[i].rows(c * rows, (c + 1) * rows) : own_[i];
      const Tensor carried = kept ? own : cut(own, other_[i]);
      if (from == 0) copy(device, {carried, into});
      else binary(device, {BinaryFunction::add, into, carried, into});
    }
  }
  return sum;
}

}  // namespace elapse
