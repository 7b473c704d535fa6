// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/interpret/runs.h"

namespace elapse {

// Who reads whom in a model whose blocks meet in the residual stream alone. Its nodes are the
// embedding with that of positions (0), the residual blocks (1 to n_blocks: a layer's mixer, then
// its MLP where it has one) and the unembedding (n_blocks + 1); each reads the sum of what all
// before it wrote to the residual stream, so there is an edge from every node to every later one.
struct Edge {
  int64_t from, to;
  bool operator==(const Edge&) const = default;
};

class ResidualGraph {
 public:
  explicit ResidualGraph(int64_t n_blocks, int64_t blocks_of_layer = 1)
      : n_blocks_(n_blocks), blocks_of_layer_(blocks_of_layer) {}
  explicit ResidualGraph(const ModelConfig& config)
      : ResidualGraph(config.blocks(), config.blocks_of_layer()) {}

  int64_t nodes() const { return n_blocks_ + 2; }
  int64_t unembed() const { return n_blocks_ + 1; }
  int64_t edges() const { return nodes() * (nodes() - 1) / 2; }
  // Edges are numbered by the node they enter, then by the one they leave.
  int64_t index(Edge edge) const { return edge.to * (edge.to - 1) / 2 + edge.from; }
  Edge edge(int64_t index) const;
  std::string name(int64_t node) const;  // "embed", "layers.3", "layers.3.mlp", "unembed"
  std::string name(Edge edge) const;     // "embed -> layers.3"
  // The points of what a node reads, all but the embedding, and of what it writes, all but the
  // unembedding.
  std::string input_point(int64_t node) const;   // "layers.3.layer_input", "layers.3.mlp_input"
  std::string output_point(int64_t node) const;  // "layers.3.mixer.out", "layers.3.mlp.out"

 private:
  int64_t layer(int64_t node) const { return (node - 1) / blocks_of_layer_; }
  bool is_mlp(int64_t node) const { return (node - 1) % blocks_of_layer_ == 1; }

  int64_t n_blocks_, blocks_of_layer_;
};

// A circuit: the edges that carry what a run itself computes. The others carry what another run's
// sender wrote. All at first.
class Circuit {
 public:
  explicit Circuit(int64_t n_blocks, bool all = true)
      : graph_(n_blocks), kept_(static_cast<size_t>(graph_.edges()), all) {}

  const ResidualGraph& graph() const { return graph_; }
  bool has(Edge edge) const { return kept_[static_cast<size_t>(graph_.index(edge))]; }
  void set(Edge edge, bool kept) { kept_[static_cast<size_t>(graph_.index(edge))] = kept; }
  void set_from(int64_t node, bool kept);  // all edges that leave it
  bool hears(int64_t node) const;          // whether any edge leaves it
  int64_t size() const;                    // edges it has
  int64_t first_cut() const;  // the first node that lacks an edge; nodes() if none does
  std::vector<Edge> edges() const;
  bool operator==(const Circuit& other) const { return kept_ == other.kept_; }

 private:
  ResidualGraph graph_;
  std::vector<bool> kept_;
};

// What each node but the last wrote: (tokens, d_model) each.
using NodeOutputs = std::vector<Tensor>;
NodeOutputs node_outputs(const LanguageModel& model, const Batch& batch);
// Their means, token by token, over several lists of sequences of the same lengths.
NodeOutputs mean_outputs(const LanguageModel& model, const std::vector<TokenLists>& runs);

// Runs circuits on a batch of sequences whose other run was of as many tokens each.
class CircuitRunner {
 public:
  // Passes are of at most `batch_tokens` tokens where one circuit's are not more. The model must
  // outlive it.
  CircuitRunner(const LanguageModel& model, const TokenLists& sequences, const TokenLists& others,
                int64_t batch_tokens = 4096);
  // The same with what the other run's nodes wrote given, such as means over many runs.
  CircuitRunner(const LanguageModel& model, const TokenLists& sequences, NodeOutputs others,
                int64_t batch_tokens = 4096);

  // From now on the edges that a circuit lacks carry the other run's values at these positions of
  // each sequence alone, from the end where negative, and its own elsewhere. At first, at all.
  void cut_at(const std::vector<int64_t>& positions);

  // The logits after the last tokens, for each circuit. Nodes before the first that lacks an edge
  // are not run again, nor are those that nobody hears. With all edges they have the bits of
  // LanguageModel::forward.
  std::vector<LastLogits> run(const std::vector<Circuit>& circuits) const;

  const LastLogits& plain() const { return plain_; }         // of the sequences themselves
  const LastLogits& other() const { return other_logits_; }  // with no edge: of the other run
  int64_t tokens() const { return batch_.seqs.tokens; }
  const NodeOutputs& own_outputs() const { return own_; }
  const NodeOutputs& other_outputs() const { return other_; }

 private:
  void run_some(const std::vector<Circuit>& circuits, size_t begin, size_t end,
                std::vector<LastLogits>& into) const;
  Tensor read(const std::vector<Circuit>& circuits, size_t begin, size_t end, int64_t node,
              const NodeOutputs& written) const;
  Tensor cut(const Tensor& own, const Tensor& other) const;

  const LanguageModel& model_;
  int64_t batch_tokens_;
  TokenLists sequences_;
  Batch batch_;
  NodeOutputs own_, other_;
  LastLogits plain_, other_logits_;
  std::vector<int64_t> cut_rows_;  // where edges are cut; empty: everywhere
};

}  // namespace elapse
