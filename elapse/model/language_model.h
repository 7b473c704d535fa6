// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "elapse/autograd/functions.h"
#include "elapse/mixers/mixer.h"
#include "elapse/model/config.h"
#include "elapse/model/mlp.h"
#include "elapse/model/norm.h"

namespace elapse {

// Tokens of packed sequences, and which of them the model is asked about.
struct Batch {
  Tensor tokens;  // (tokens) i64; forward_from reads none
  Sequences seqs;
  Tensor logit_rows;  // (rows) i64: packed tokens whose logits are wanted; empty: all
};

// How often forward() took each path (see ELAPSE_VERIFY in docs/extending.md).
struct PathCounts {
  int64_t parallel = 0;      // passes over whole sequences
  int64_t stepped = 0;       // passes over one token of each sequence
  int64_t restored = 0;      // states written to a file and read back between tokens
  int64_t layer_tokens = 0;  // layers times tokens that were run
};

// Embedding, layers, final norm, head: the backbone published as MambaLMHeadModel
// (state-spaces/mamba, models/mixer_seq_simple.py). A layer is a pre-norm residual block of a mixer
// and, where the configuration has one, another of an MLP. Computes in float32 or float64; or in
// bf16, where the device does: then that is the dtype of what passes between the operations of a
// block, and parameters, states, logits and the residual stream are float32. Named points are
// float32 as well.
class LanguageModel {
 public:
  // The published initialisation, drawn from `seed`.
  LanguageModel(Device& device, const ModelConfig& config, DType dtype, uint64_t seed);
  // Parameters from a source, matrices in whatever dtype it has for them.
  LanguageModel(Device& device, const ModelConfig& config, DType dtype, Parameters::Source source);

  // Logits (rows, vocab). With a state, sequences start and end in its slots, and its positions
  // move on. Throws Error on tokens outside the vocabulary, slots the state does not have, and
  // points the model does not have.
  Var forward(Tape& tape, const Batch& batch, State* state = nullptr,
              Points* points = nullptr) const;
  // The same from `layer` on (n_layers: the final norm and the head alone), with the residual
  // stream that enters it in place of the tokens: (tokens, d_model), what resid_pre of that layer
  // is. The layers before it are not run, their states stay as they are, and their points cannot be
  // watched or edited: Error.
  Var forward_from(Tape& tape, int64_t layer, const Var& stream, const Batch& batch,
                   State* state = nullptr, Points* points = nullptr) const;

  // The mean over targets that are not masked of what forward()'s logits make of them, nats, (1):
  // cross_entropy, without all logits in memory where the device can do that.
  Var loss(Tape& tape, const Batch& batch, const Tensor& targets /* (rows) i64 */,
           State* state = nullptr) const;

  // What a residual block (ModelConfig::block) adds to the stream for this input of its norm, every
  // sequence from an empty state, for runs composed otherwise than forward()'s: (tokens, d_model)
  // each.
  Var block_output(Tape& tape, int64_t block, const Var& input, const Sequences& seqs) const;

  State make_state(int64_t slots, bool needs_grad = false) const;

  Device& device() const { return device_; }
  const ModelConfig& config() const { return config_; }
  DType dtype() const { return dtype_; }              // of parameters, states and logits
  DType activations() const { return activations_; }  // what it computes in
  const Parameters& parameters() const { return parameters_; }
  // (vocab, d_model): gives logits of what passes norm_f. For those who want few rows at a time.
  const Var& head() const { return head_; }
  const std::vector<PointInfo>& points() const { return points_; }
  const PathCounts& path_counts() const { return path_counts_; }
  void count_restored() const { ++path_counts_.restored; }
  void count_recorded(int64_t tokens) const;  // a pass over one token each, without forward()
  // Whether what a pass launches depends on the positions of its tokens.
  bool depends_on_position() const;

  // A hash of the configuration and every weight: states belong to the model with the same.
  std::string fingerprint() const;

 private:
  friend class ByTokens;
  // What a pass starts from: tokens, or what enters a layer.
  struct Input {
    int64_t layer = 0;
    Var stream = {};  // (tokens, d_model), entering `layer`; empty: the batch's tokens
  };
  struct Layer {
    Norm norm;
    std::unique_ptr<Mixer> mixer;
    std::optional<Norm> norm2;  // the MLP's
    std::optional<Mlp> mlp;
    size_t first_point = 0;  // in points_
  };
  // The points where the stream enters a block, and its norm.
  struct EntryPoints {
    const char *stream, *input, *scale, *norm;
  };
  static constexpr EntryPoints kMixerEntry = {"resid_pre", "layer_input", "scale", "norm"};
  static constexpr EntryPoints kMlpEntry = {"resid_mid", "mlp_input", "mlp_scale", "mlp_norm"};

  LanguageModel(Device& device, const ModelConfig& config, DType activations, uint64_t seed,
                Parameters parameters);
  // Logits; with targets the loss.
  Var run(Tape& tape, const Input& input, const Batch& batch, State* state, const PointPass* points,
          const Tensor& targets = {}) const;
  Var embedded(Tape& tape, const Batch& batch, const State* state, const PointScope& all) const;
  Normed enter_block(Tape& tape, const Norm& norm, const Var& x, const Var& residual,
                     const PointScope& before, const PointScope& here,
                     const EntryPoints& points) const;
  Var final_norm(Tape& tape, const Var& x, const Var& residual, const PointScope& last) const;
  Var pass(Tape& tape, const Input& input, Batch batch, State* state, Points* points,
           const Tensor& targets = {}) const;
  void check_points(const Points& points, const Input& input) const;
  PassRows pass_rows(const Batch& batch) const;
  void list_points();

  Device& device_;
  ModelConfig config_;
  DType dtype_;
  DType activations_;
  Parameters parameters_;
  Var embedding_;  // (vocab, d_model)
  Var positions_;  // (max_positions, d_model), added to the embedding; empty where they are not
                   // learned
  std::vector<Layer> layers_;
  Norm norm_f_;
  Var head_;  // (vocab, d_model); the embedding itself where tied
  std::vector<PointInfo> points_;
  mutable PathCounts path_counts_;
};

}  // namespace elapse
