// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/recurrent.h"

#include <cmath>

#include "elapse/mixers/start.h"

namespace elapse {
namespace {

// As the gates stand in the weights; rnn's one is h itself.
std::vector<const char*> gate_names(Cell cell) {
  if (cell == Cell::lstm) return {"i", "f", "g", "o"};
  if (cell == Cell::gru) return {"r", "z", "n"};
  return {};
}

}  // namespace

Recurrent::Recurrent(Device& device, const RecurrentConfig& config, int64_t n_layers, DType dtype,
                     const std::string& prefix, Random& random, Parameters& parameters)
    : config_(config), dtype_(dtype) {
  const int64_t d_inner = config.d_inner, gates = gate_count(config.cell) * d_inner;
  const double bound = linear_bound(d_inner);
  using Use = ParameterUse;
  const NewParameters add = {device, dtype, prefix, random, parameters};
  weight_ih_ = add.uniform("weight_ih_l0", {gates, config.d_model}, Use::matrix, bound);
  weight_hh_ = add.uniform("weight_hh_l0", {gates, d_inner}, Use::matrix, bound);
  bias_ih_ = add.uniform("bias_ih_l0", {gates}, Use::other, bound);
  bias_hh_ = add.uniform("bias_hh_l0", {gates}, Use::other, bound);
  out_proj_ = add.uniform("out_proj.weight", {config.d_model, d_inner}, Use::matrix,
                          bound / std::sqrt(static_cast<double>(n_layers)));
}

Var Recurrent::forward(Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
                       const PointScope& points) const {
  const Var a = points.pass(tape, "in_gates", linear(tape, u, weight_ih_, bias_ih_));
  const RecurrentTaps looked_at = taps(tape, seqs.tokens, points);
  const Var h = run_from_starts(tape, *this, state, "cell", "cell_start", seqs, points,
                                [&](const Sequences& from, const Var& pool) {
                                  return recurrent(tape, config_.cell, a, weight_hh_, bias_hh_,
                                                   from, pool, looked_at);
                                });
  return points.pass(tape, "out", linear(tape, h, out_proj_, Var()));
}

RecurrentTaps Recurrent::taps(Tape& tape, int64_t tokens, const PointScope& points) const {
  RecurrentTaps taps;
  if (!points.looks()) return taps;
  const Shape shape = {tokens, config_.d_inner};
  const std::vector<const char*> gates = gate_names(config_.cell);
  for (size_t k = 0; k < gates.size(); ++k) {
    taps.gates[k] = points.tap(tape, gates[k], dtype_, shape);
  }
  if (config_.cell == Cell::lstm) taps.c = points.tap(tape, "c", dtype_, shape);
  taps.h = points.tap(tape, "h", dtype_, shape);
  return taps;
}

LayerState Recurrent::make_state(Device& device, int64_t slots, bool needs_grad) const {
  const Shape shape = {slots, state_rows(config_.cell), config_.d_inner};
  LayerState state;
  state.parts.push_back({"cell", Var(device.zeros(dtype_, shape), needs_grad)});
  return state;
}

std::vector<PointInfo> Recurrent::points() const {
  std::vector<PointInfo> list = {{"in_gates"}, {"cell_start", PointInfo::Axis::sequence}};
  for (const char* gate : gate_names(config_.cell)) list.push_back({gate});
  if (config_.cell == Cell::lstm) list.push_back({"c"});
  list.push_back({"h"});
  list.push_back({"out"});
  return list;
}

}  // namespace elapse
