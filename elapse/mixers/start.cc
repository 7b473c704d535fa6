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

Values uniform_values(Random& random, int64_t count, double bound) {
  Values values(static_cast<size_t>(count));
  for (double& v : values) v = random.uniform(-bound, bound);
  return values;
}

Values normal_values(Random& random, int64_t count) {
  Values values(static_cast<size_t>(count));
  for (double& v : values) v = random.normal();
  return values;
}

Values dt_bias_values(Random& random, int64_t count) {
  Values values(static_cast<size_t>(count));
  for (double& v : values) {
    const double dt = std::exp(random.uniform(std::log(kDtMin), std::log(kDtMax)));
    const double floored = std::max(dt, kDtFloor);
    v = floored + std::log(-std::expm1(-floored));
  }
  return values;
}

Tensor upload_rounded(Device& device, DType dtype, const Values& values, Shape shape) {
  const std::vector<float> rounded(values.begin(), values.end());
  if (dtype == DType::f32) return device.upload(rounded, shape);
  return device.upload(Values(rounded.begin(), rounded.end()), shape);
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
