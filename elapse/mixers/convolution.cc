// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/convolution.h"

#include <fmt/format.h>

#include "elapse/autograd/functions.h"
#include "elapse/mixers/start.h"

namespace elapse {
namespace {

std::string term_name(int64_t tokens_before) { return fmt::format("conv_term.{}", tokens_before); }

ConvTaps taps_of(Tape& tape, const PointScope& points, DType dtype, Shape shape, int64_t d_conv) {
  if (!points.looks()) return {};
  ConvTaps taps = {.conv = points.tap(tape, "conv", dtype, shape)};
  bool touched = false;
  for (int64_t k = 0; k < d_conv; ++k) {
    const std::string name = term_name(d_conv - 1 - k);
    touched = touched || points.touches(name);
    taps.terms.push_back(points.tap(tape, name, dtype, shape));
  }
  if (!touched) taps.terms.clear();
  return taps;
}

}  // namespace

Var convolve(Tape& tape, const Mixer& mixer, const Var& x, const Var& weight, const Var& bias,
             const Sequences& seqs, const LayerState* state, const PointScope& points, bool silu) {
  const int64_t d_inner = weight.dim(0), d_conv = weight.dim(2);
  const Var filter = reshape(tape, weight, {d_inner, d_conv});
  const ConvTaps taps = taps_of(tape, points, x.dtype(), {seqs.tokens, d_inner}, d_conv);
  return run_from_starts(tape, mixer, state, "conv", "conv_state", seqs, points,
                         [&](const Sequences& from, const Var& pool) {
                           return causal_conv(tape, x, filter, bias, from, pool, taps, silu);
                         });
}

std::vector<PointInfo> convolution_points(int64_t d_conv) {
  std::vector<PointInfo> list = {{"conv_state", PointInfo::Axis::sequence}};
  for (int64_t before = 0; before < d_conv; ++before) list.push_back({term_name(before)});
  list.push_back({"conv"});
  return list;
}

}  // namespace elapse
