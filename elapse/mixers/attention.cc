// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/attention.h"

#include <cmath>

#include "elapse/autograd/functions.h"
#include "elapse/mixers/start.h"

namespace elapse {
namespace {

constexpr double kDeviation = 0.02;
// xPos: the smallest scale is gamma / (1 + gamma) for every kXposBase positions.
constexpr double kXposGamma = 0.4, kXposBase = 512;

// ln of zeta_i^(sign / kXposBase), zeta_i = (2 i / head_dim + gamma) / (1 + gamma), for pair i.
std::vector<double> xpos_growth(int64_t head_dim, double sign) {
  std::vector<double> list;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double place = 2 * static_cast<double>(i) / static_cast<double>(head_dim);
    list.push_back(sign / kXposBase * std::log((place + kXposGamma) / (1 + kXposGamma)));
  }
  return list;
}

// Tokens that stood before each sequence's first.
std::vector<int64_t> lengths_before(const Sequences& seqs, const LayerState* state) {
  std::vector<int64_t> lengths;
  for (const int64_t slot : seqs.starts) {
    const bool none = state == nullptr || slot == Sequences::kNoSlot;
    lengths.push_back(none ? 0 : state->memory->length(slot));
  }
  return lengths;
}

std::vector<std::vector<PastPage>> past_of(const Sequences& seqs, const LayerState* state) {
  std::vector<std::vector<PastPage>> past;
  for (const int64_t slot : seqs.starts) {
    const bool none = state == nullptr || slot == Sequences::kNoSlot;
    past.push_back(none ? std::vector<PastPage>() : state->memory->past(slot));
  }
  return past;
}

void remember(Tape& tape, const LayerState& state, const Sequences& seqs, const Var& k,
              const Var& v) {
  int64_t begin = 0;
  for (size_t s = 0; s < seqs.lengths.size(); ++s) {
    const int64_t end = begin + seqs.lengths[s];
    if (seqs.ends[s] != Sequences::kNoSlot) {
      state.memory->append(tape, seqs.starts[s], seqs.ends[s], k, v, begin, end);
    }
    begin = end;
  }
}

}  // namespace

Attention::Attention(Device& device, const AttentionConfig& config, int64_t n_layers, DType dtype,
                     const std::string& prefix, Random& random, Parameters& parameters)
    : config_(config), dtype_(dtype) {
  const int64_t d_model = config.d_model;
  const int64_t q_width = config.n_heads * config.head_dim;
  const int64_t kv_width = config.n_kv_heads * config.head_dim;
  using Use = ParameterUse;
  const NewParameters add = {device, dtype, prefix, random, parameters};
  const auto add_projection = [&](const std::string& name, int64_t out, int64_t in,
                                  double deviation, bool bias) {
    Projection projection;
    projection.weight = add.normal(name + ".weight", {out, in}, Use::matrix, deviation);
    if (bias) projection.bias = add.constant(name + ".bias", {out}, Use::other, 0);
    return projection;
  };
  const double scaled = kDeviation / std::sqrt(2 * static_cast<double>(n_layers));
  q_proj_ = add_projection("q_proj", q_width, d_model, kDeviation, config.qkv_bias);
  k_proj_ = add_projection("k_proj", kv_width, d_model, kDeviation, config.qkv_bias);
  v_proj_ = add_projection("v_proj", kv_width, d_model, kDeviation, config.qkv_bias);
  o_proj_ = add_projection("o_proj", d_model, q_width, scaled, config.out_bias);
  if (config.positions == Positions::none) return;
  frequencies_ = rotary_frequencies(config.head_dim, config.rope_theta, config.rope_scaling);
  if (config.positions != Positions::xpos) return;
  query_growth_ = xpos_growth(config.head_dim, 1);
  key_growth_ = xpos_growth(config.head_dim, -1);
}

Var Attention::forward(Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
                       const PointScope& points) const {
  const int64_t n_heads = config_.n_heads, n_kv_heads = config_.n_kv_heads;
  const auto project = [&](const Projection& to, int64_t count, const char* name) {
    return heads(tape, linear(tape, u, to.weight, to.bias), count, name, points);
  };
  Var q = project(q_proj_, n_heads, "q");
  Var k = project(k_proj_, n_kv_heads, "k");
  const Var v = project(v_proj_, n_kv_heads, "v");
  if (config_.positions != Positions::none) {
    q = heads(tape, rotated(tape, q, query_growth_, seqs, state), n_heads, "rot_q", points);
    k = heads(tape, rotated(tape, k, key_growth_, seqs, state), n_kv_heads, "rot_k", points);
  }
  const AttentionNumbers numbers = {n_heads, n_kv_heads, {config_.window, config_.dilation}};
  const Var z = heads(tape, attention(tape, q, k, v, numbers, seqs, past_of(seqs, state)), n_heads,
                      "z", points);
  if (state != nullptr) remember(tape, *state, seqs, k, v);
  return points.pass(tape, "out", linear(tape, z, o_proj_.weight, o_proj_.bias));
}

// The point `name` of x (tokens, n_heads * head_dim) has an axis of heads: (tokens, n_heads,
// head_dim).
Var Attention::heads(Tape& tape, const Var& x, int64_t n_heads, const char* name,
                     const PointScope& points) const {
  if (!points.touches(name)) return x;
  const Shape flat = x.value().shape(), by_head = {flat[0], n_heads, config_.head_dim};
  return reshape(tape, points.pass(tape, name, reshape(tape, x, by_head)), flat);
}

Var Attention::rotated(Tape& tape, const Var& x, const std::vector<double>& growth,
                       const Sequences& seqs, const LayerState* state) const {
  return rotary(tape, x, {config_.head_dim, frequencies_, growth}, seqs,
                lengths_before(seqs, state));
}

LayerState Attention::make_state(Device&, int64_t slots, bool needs_grad) const {
  LayerState state;
  state.memory = std::make_shared<TokenMemory>(dtype_, config_.n_kv_heads * config_.head_dim,
                                               config_.window, slots, needs_grad);
  return state;
}

std::vector<PointInfo> Attention::points() const {
  std::vector<PointInfo> list = {{"q"}, {"k"}, {"v"}};
  if (config_.positions != Positions::none) {
    list.push_back({"rot_q"});
    list.push_back({"rot_k"});
  }
  list.push_back({"z"});
  list.push_back({"out"});
  return list;
}

}  // namespace elapse
