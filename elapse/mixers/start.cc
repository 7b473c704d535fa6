// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/start.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "elapse/autograd/functions.h"

namespace elapse {
namespace {

// The range and floor of the step sizes the bias of dt starts from.
constexpr double kDtMin = 1e-3, kDtMax = 0.1, kDtFloor = 1e-4;

}  // namespace

Var filled(Device& device, DType dtype, Shape shape, double value) {
  const Tensor t = device.empty(dtype, shape);
  fill(device, {t, value});
  return Var(t);
}

double linear_bound(int64_t inputs) { return 1 / std::sqrt(static_cast<double>(inputs)); }

double log_dt_start(Random& random) { return random.uniform(std::log(kDtMin), std::log(kDtMax)); }

double dt_bias_start(Random& random) {
  const double dt = std::max(std::exp(log_dt_start(random)), kDtFloor);
  return dt + std::log(-std::expm1(-dt));
}

Var NewParameters::constant(const std::string& name, const Shape& shape, ParameterUse use,
                            double value) const {
  return drawn(name, shape, use, [&] { return value; });
}

Var NewParameters::uniform(const std::string& name, const Shape& shape, ParameterUse use,
                           double bound) const {
  return drawn(name, shape, use, [&] { return random.uniform(-bound, bound); });
}

Var NewParameters::normal(const std::string& name, const Shape& shape, ParameterUse use,
                          double deviation) const {
  return drawn(name, shape, use, [&] { return deviation * random.normal(); });
}

Var run_from_starts(Tape& tape, const Mixer& mixer, const LayerState* state, const char* part,
                    const char* name, const Sequences& seqs, const PointScope& points,
                    const std::function<Var(const Sequences& seqs, const Var& pool)>& run) {
  const Var pool = state ? state->part(part) : Var();
  if (!points.touches(name)) return run(seqs, pool);
  const Var whole = pool ? pool : mixer.make_state(tape.device(), 1, false).part(part);
  const Var starts = points.pass(tape, name, load_slots(tape, whole, seqs));
  if (!points.edits(name) && !points.wants_gradient(name)) return run(seqs, pool);
  // A scan changes its pool in place; what was watched must keep its value.
  const Var working = copy_of(tape, starts);
  std::vector<int64_t> slots(seqs.lengths.size());
  std::iota(slots.begin(), slots.end(), 0);
  Sequences from = make_sequences(tape.device(), seqs.lengths, slots, slots);
  from.positions = seqs.positions;
  const Var out = run(from, working);
  if (pool) store_slots(tape, working, pool, seqs);
  return out;
}

}  // namespace elapse
