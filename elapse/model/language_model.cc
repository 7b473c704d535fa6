// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/language_model.h"

#include <algorithm>
#include <cmath>

#include "elapse/core/hash.h"
#include "elapse/mixers/start.h"
#include "elapse/model/by_tokens.h"
#include "elapse/model/make_mixer.h"

namespace elapse {
namespace {

constexpr double kEmbeddingDeviation = 0.02;

}  // namespace

LanguageModel::LanguageModel(Device& device, const ModelConfig& config, DType dtype, uint64_t seed)
    : LanguageModel(device, config, dtype, seed, Parameters()) {}

LanguageModel::LanguageModel(Device& device, const ModelConfig& config, DType dtype,
                             Parameters::Source source)
    : LanguageModel(device, config, dtype, 0, Parameters(std::move(source))) {}

LanguageModel::LanguageModel(Device& device, const ModelConfig& config, DType activations,
                             uint64_t seed, Parameters parameters)
    : device_(device),
      config_(config),
      dtype_(wide_dtype(activations)),
      activations_(activations),
      parameters_(std::move(parameters)) {
  ELAPSE_CHECK(device.has(activations, Op::linear_forward), "device {} does not compute in {}",
               device.name(), name_of(activations));
  using Use = ParameterUse;
  const DType dtype = dtype_;
  Random random(seed);
  const Shape vocab_shape = {config.vocab(), config.d_model};
  const NewParameters add = {device, dtype, "backbone.", random, parameters_};
  const auto table = [&](const char* name, const Shape& shape) {
    return add.normal(name, shape, Use::matrix, kEmbeddingDeviation);
  };
  embedding_ = table("embedding.weight", vocab_shape);
  if (config.max_positions > 0) {
    positions_ = table("positions.weight", {config.max_positions, config.d_model});
  }
  for (int64_t i = 0; i < config.n_layers; ++i) {
    const std::string prefix = fmt::format("backbone.layers.{}.", i);
    Layer& layer = layers_.emplace_back();
    layer.norm = Norm(device, config, dtype, activations, prefix + "norm", parameters_);
    layer.mixer = make_mixer(device, config, dtype, i, prefix + "mixer.", random, parameters_);
    if (config.d_intermediate == 0) continue;
    layer.norm2 = Norm(device, config, dtype, activations, prefix + "norm2", parameters_);
    layer.mlp.emplace(device, config, dtype, prefix + "mlp.", random, parameters_);
  }
  norm_f_ = Norm(device, config, dtype, activations, "backbone.norm_f", parameters_);
  // As PyTorch starts a linear map, which the published model leaves an untied head at.
  head_ = config.tied_head
              ? embedding_
              : NewParameters{device, dtype, "", random, parameters_}.uniform(
                    "lm_head.weight", vocab_shape, Use::matrix, linear_bound(config.d_model));
  parameters_.forget_source();
  list_points();
}

void LanguageModel::list_points() {
  points_.push_back({"embed"});
  if (positions_) points_.push_back({"pos_embed"});
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].first_point = points_.size();
    const std::string prefix = fmt::format("layers.{}.", i);
    const auto list_entry = [&](const EntryPoints& entry) {
      for (const char* name : {entry.stream, entry.input, entry.scale, entry.norm}) {
        points_.push_back({prefix + name});
      }
    };
    list_entry(kMixerEntry);
    for (const PointInfo& p : layers_[i].mixer->points()) {
      points_.push_back({prefix + "mixer." + p.name, p.axis});
    }
    if (layers_[i].mlp) {
      list_entry(kMlpEntry);
      for (const PointInfo& p : layers_[i].mlp->points()) {
        points_.push_back({prefix + "mlp." + p.name, p.axis});
      }
    }
    points_.push_back({prefix + "resid_post"});
  }
  points_.push_back({"norm_f"});
  points_.push_back({"logits", PointInfo::Axis::logit_row});
}

bool LanguageModel::depends_on_position() const {
  const auto depends = [](const Layer& layer) { return layer.mixer->depends_on_position(); };
  return positions_ || std::any_of(layers_.begin(), layers_.end(), depends);
}

void LanguageModel::count_recorded(int64_t tokens) const {
  ++path_counts_.parallel;
  path_counts_.layer_tokens += config_.n_layers * tokens;
}

State LanguageModel::make_state(int64_t slots, bool needs_grad) const {
  std::vector<LayerState> layers;
  for (const Layer& layer : layers_) {
    layers.push_back(layer.mixer->make_state(device_, slots, needs_grad));
  }
  return {device_, std::move(layers), slots};
}

Var LanguageModel::forward(Tape& tape, const Batch& batch, State* state, Points* points) const {
  return pass(tape, {}, batch, state, points);
}

Var LanguageModel::loss(Tape& tape, const Batch& batch, const Tensor& targets, State* state) const {
  return pass(tape, {}, batch, state, nullptr, targets);
}

Var LanguageModel::forward_from(Tape& tape, int64_t layer, const Var& stream, const Batch& batch,
                                State* state, Points* points) const {
  ELAPSE_CHECK(layer >= 0 && layer <= config_.n_layers, "a pass from layer {}: expected 0 to {}",
               layer, config_.n_layers);
  const Shape expected = {batch.seqs.tokens, config_.d_model};
  ELAPSE_CHECK(stream && stream.dtype() == dtype_ && stream.value().shape() == expected,
               "the stream entering layer {}: expected {} {}, found {}", layer, name_of(dtype_),
               expected.str(), stream ? stream.value().shape().str() : "none");
  return pass(tape, {layer, stream}, batch, state, points);
}

// Points in order: those before `layer` are not passed by a pass that starts there.
void LanguageModel::check_points(const Points& points, const Input& input) const {
  if (!input.stream) return;
  const auto first = static_cast<size_t>(input.layer);
  const size_t begin = first < layers_.size() ? layers_[first].first_point : points_.size() - 2;
  for (const std::string& name : points.names()) {
    for (size_t i = 0; i < begin; ++i) {
      ELAPSE_CHECK(points_[i].name != name,
                   "point \"{}\" is not passed by a pass that starts at layer {}", name,
                   input.layer);
    }
  }
}

PassRows LanguageModel::pass_rows(const Batch& batch) const {
  PassRows rows = {.lengths = batch.seqs.lengths, .starts = batch.seqs.positions, .logit_rows = {}};
  if (batch.logit_rows) {
    rows.logit_rows.resize(static_cast<size_t>(batch.logit_rows.numel()));
    device_.download_bytes(batch.logit_rows, rows.logit_rows.data());
  }
  return rows;
}

namespace {

// What the states that sequences start from have taken.
std::vector<int64_t> start_positions(const Sequences& seqs, const State* state) {
  std::vector<int64_t> positions;
  for (const int64_t slot : seqs.starts) {
    const bool from_zeros = state == nullptr || slot == Sequences::kNoSlot;
    positions.push_back(from_zeros ? 0 : state->position(slot));
  }
  return positions;
}

}  // namespace

Var LanguageModel::pass(Tape& tape, const Input& input, Batch batch, State* state, Points* points,
                        const Tensor& targets) const {
  ELAPSE_CHECK(input.stream || batch.tokens.numel() == batch.seqs.tokens,
               "the sequences have {} tokens together, but {} are given", batch.seqs.tokens,
               batch.tokens.numel());
  const int64_t slots = state ? state->slots() : 0;
  ELAPSE_CHECK(batch.seqs.max_slot < slots, "a sequence names state slot {}, but there are {}",
               batch.seqs.max_slot, slots);
  batch.seqs.positions = start_positions(batch.seqs, state);
  std::unique_ptr<const PointPass> looking;
  if (points != nullptr && !points->empty()) {
    check_points(*points, input);
    looking = std::make_unique<PointPass>(device_, *points, points_, pass_rows(batch));
  }
  const VerifyMode mode = verify_mode();
  const bool by_tokens =
      mode == VerifyMode::step || (mode == VerifyMode::restore && !tape.recording());
  Var out = by_tokens ? ByTokens(*this, mode).run(tape, input, batch, state, looking.get())
                      : run(tape, input, batch, state, looking.get(), targets);
  if (by_tokens && targets) out = cross_entropy(tape, out, targets);
  if (!by_tokens) ++path_counts_.parallel;
  if (state == nullptr) return out;
  for (size_t s = 0; s < batch.seqs.lengths.size(); ++s) {
    const int64_t end = batch.seqs.ends[s];
    if (end == Sequences::kNoSlot) continue;
    state->set_position(end, batch.seqs.positions[s] + batch.seqs.lengths[s]);
  }
  if (mode == VerifyMode::restore && !tape.recording())
    pass_through_file(*this, *state, !input.stream);
  return out;
}

namespace {

// Whether something falls between the operations that meet at this point.
bool parts(const PointScope& points, std::string_view name) {
  return points.edits(name) || points.wants_gradient(name);
}

}  // namespace

// The residual stream and the normed input of a block. The fused add and norm is taken apart where
// an edit or a gradient falls between the two. `before` sees the layer that ends here, if one does.
Normed LanguageModel::enter_block(Tape& tape, const Norm& norm, const Var& x, const Var& residual,
                                  const PointScope& before, const PointScope& here,
                                  const EntryPoints& points) const {
  const Tap scale = here.tap(tape, points.scale, dtype_, {x.dim(0), 1});
  Normed normed;
  if (parts(before, "resid_post") || parts(here, points.stream) || parts(here, points.input)) {
    Var stream = residual ? add(tape, residual, cast(tape, x, dtype_)) : x;
    stream = before.pass(tape, "resid_post", stream);
    stream = here.pass(tape, points.stream, stream);
    const Var input = here.pass(tape, points.input, stream);
    normed = {stream, norm.forward(tape, input, Var(), scale).y};
  } else {
    normed = norm.forward(tape, x, residual, scale);
    if (residual) x.forget_value();  // its sum is what backward reads
    before.keep(tape, "resid_post", normed.sum.value());
    here.keep(tape, points.stream, normed.sum.value());
    here.keep(tape, points.input, normed.sum.value());
  }
  normed.y = here.pass(tape, points.norm, normed.y);
  return normed;
}

// `last` sees the last layer, if that is run.
Var LanguageModel::final_norm(Tape& tape, const Var& x, const Var& residual,
                              const PointScope& last) const {
  if (parts(last, "resid_post")) {
    const Var sum = add(tape, residual, cast(tape, x, dtype_));
    const Var stream = last.pass(tape, "resid_post", sum);
    return norm_f_.forward(tape, stream, Var()).y;
  }
  const Normed normed = norm_f_.forward(tape, x, residual);
  if (residual) x.forget_value();
  last.keep(tape, "resid_post", normed.sum.value());
  return normed.y;
}

// The stream at its start: the tokens' embeddings, and those of their positions where they are
// learned, which go on from the state's.
Var LanguageModel::embedded(Tape& tape, const Batch& batch, const State* state,
                            const PointScope& all) const {
  const Var tokens = all.pass(tape, "embed", gather_rows(tape, embedding_, batch.tokens));
  if (!positions_) return tokens;
  std::vector<int64_t> positions;
  for (size_t s = 0; s < batch.seqs.lengths.size(); ++s) {
    const int64_t slot = batch.seqs.starts[s];
    const int64_t first =
        state == nullptr || slot == Sequences::kNoSlot ? 0 : state->position(slot);
    for (int64_t t = 0; t < batch.seqs.lengths[s]; ++t) positions.push_back(first + t);
    ELAPSE_CHECK(first + batch.seqs.lengths[s] <= config_.max_positions,
                 "a sequence of {} tokens: the model has learned {} positions",
                 first + batch.seqs.lengths[s], config_.max_positions);
  }
  const Tensor index = device_.upload(positions, {batch.seqs.tokens});
  return add(tape, tokens, all.pass(tape, "pos_embed", gather_rows(tape, positions_, index)));
}

Var LanguageModel::run(Tape& tape, const Input& input, const Batch& batch, State* state,
                       const PointPass* points, const Tensor& targets) const {
  const PointScope all(points);
  Var x = input.stream ? input.stream : embedded(tape, batch, state, all);
  // Gradients of points are asked of models whose parameters have none, too.
  const bool starts_gradients =
      points != nullptr && points->wants_gradients() && tape.recording() && !x.needs_grad();
  if (starts_gradients) x = Var(x.value(), true);
  Var residual;
  PointScope before;
  for (auto i = static_cast<size_t>(input.layer); i < layers_.size(); ++i) {
    const PointScope here = all.looks() ? all.within(fmt::format("layers.{}.", i)) : PointScope();
    const Layer& layer = layers_[i];
    const Normed in = enter_block(tape, layer.norm, x, residual, before, here, kMixerEntry);
    residual = in.sum;
    x = layer.mixer->forward(tape, in.y, batch.seqs, state ? &state->layers()[i] : nullptr,
                             here.within("mixer."));
    if (layer.mlp) {
      const Normed mid =
          enter_block(tape, *layer.norm2, x, residual, PointScope(), here, kMlpEntry);
      residual = mid.sum;
      x = layer.mlp->forward(tape, mid.y, here.within("mlp."));
    }
    before = here;
    path_counts_.layer_tokens += batch.seqs.tokens;
  }
  Var hidden = all.pass(tape, "norm_f", final_norm(tape, x, residual, before));
  if (batch.logit_rows) {
    const Var rows = gather_rows(tape, cast(tape, hidden, dtype_), batch.logit_rows);
    hidden = cast(tape, rows, activations_);
  }
  if (targets) return linear_cross_entropy(tape, hidden, head_, targets);
  return all.pass(tape, "logits", linear(tape, hidden, head_, Var(), /*wide=*/true));
}

Var LanguageModel::block_output(Tape& tape, int64_t block, const Var& input,
                                const Sequences& seqs) const {
  ELAPSE_CHECK(block >= 0 && block < config_.blocks(), "block {}: the model has {}", block,
               config_.blocks());
  const Layer& layer = layers_[static_cast<size_t>(block / config_.blocks_of_layer())];
  if (block % config_.blocks_of_layer() == 1) {
    const Var normed = layer.norm2->forward(tape, input, Var()).y;
    return cast(tape, layer.mlp->forward(tape, normed, PointScope()), dtype_);
  }
  path_counts_.layer_tokens += seqs.tokens;
  const Var normed = layer.norm.forward(tape, input, Var()).y;
  return cast(tape, layer.mixer->forward(tape, normed, seqs, nullptr, PointScope()), dtype_);
}

std::string LanguageModel::fingerprint() const {
  uint64_t hash = fnv1a(config_.json());
  std::string bytes;
  for (const Parameter& p : parameters_.all()) {
    bytes.resize(static_cast<size_t>(p.var.value().bytes()));
    device_.download_bytes(p.var.value(), bytes.data());
    hash = fnv1a(bytes, hash);
  }
  return fmt::format("{:016x}", hash);
}

}  // namespace elapse
