// SPDX-License-Identifier: Apache-2.0
// A row's group is read from memory once: the first pass gates it, sums its squares and leaves it
// in y, where the second finds it in the first-level cache. 12 bytes and one exponential an element
// forward; backward gates anew, which costs less than keeping it would: 20 bytes.
#include <cmath>
#include <vector>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/backends/cpu/column_sums.h"
#include "elapse/backends/cpu/kernels.h"
#include "elapse/backends/cpu/taps.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/gated_rms_norm.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/lanes-inl.h"
#include "elapse/backends/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// One group of one row: `width` channels from `begin` on.
struct GroupRow {
  GroupRow(const GatedRmsNormInputs& inputs, int64_t i)
      : in(inputs),
        width(in.x.dim(1) / in.n_groups),
        token(i / in.n_groups),
        begin(i % in.n_groups * width),
        first(token * in.x.dim(1) + begin),
        x(row(in.x, token) + begin),
        z(row(in.z, token) + begin),
        weight(in.weight.data<float>() + begin) {}

  bool tapped_forward() const {
    return in.gate_tap.is_active_forward() || in.gated_tap.is_active_forward();
  }
  bool tapped_backward() const {
    return in.gate_tap.is_active_backward() || in.gated_tap.is_active_backward();
  }

  const GatedRmsNormInputs& in;
  int64_t width, token, begin;
  int64_t first;  // the place of its first channel in a contiguous value
  const float *x, *z, *weight;
};

// gate and gated past their taps; `gate` may be null.
void GateThroughTaps(const GroupRow& g, float* gate, float* gated) {
  const D d;
  std::vector<float> gates(static_cast<size_t>(g.width));
  ForLanes(d, g.width, [&](int64_t i, auto lanes) HWY_ATTR {
    lanes.store(Silu(d, lanes.load(g.z + i)), gates.data() + i);
  });
  for (int64_t i = 0; i < g.width; ++i) {
    const float value = through_tap(g.in.gate_tap, g.first + i, gates[static_cast<size_t>(i)]);
    if (gate != nullptr) gate[i] = value;
    gated[i] = through_tap(g.in.gated_tap, g.first + i, g.x[i] * value);
  }
}

void Gate(const GroupRow& g, float* gate, float* gated) {
  const D d;
  if (g.tapped_forward()) return GateThroughTaps(g, gate, gated);
  ForLanes(d, g.width, [&](int64_t i, auto lanes) HWY_ATTR {
    const V value = Silu(d, lanes.load(g.z + i));
    if (gate != nullptr) lanes.store(value, gate + i);
    lanes.store(hn::Mul(lanes.load(g.x + i), value), gated + i);
  });
}

float RootMeanSquare(const float* gated, int64_t n, double eps) {
  const float squares = SumLanes(WholeLanes<D>{D()}, n, [&](int64_t i, auto lanes, V sum) HWY_ATTR {
    const V v = lanes.load(gated + i);
    return hn::MulAdd(v, v, sum);
  });
  return static_cast<float>(std::sqrt(squares / static_cast<double>(n) + eps));
}

void ForwardGroups(const GatedRmsNormForward& args, int64_t begin, int64_t end) {
  const D d;
  for (int64_t i = begin; i < end; ++i) {
    const GroupRow g(args.in, i);
    float* y = row(args.y, g.token) + g.begin;
    Gate(g, nullptr, y);
    const float scale = through_tap(args.in.scale_tap, i, RootMeanSquare(y, g.width, args.in.eps));
    args.scale.data<float>()[i] = scale;
    const V inverse = hn::Set(d, 1.0f / scale);
    ForLanes(d, g.width, [&](int64_t j, auto lanes) HWY_ATTR {
      lanes.store(hn::Mul(lanes.load(g.weight + j), hn::Mul(lanes.load(y + j), inverse)), y + j);
    });
  }
}

// The gradient through scale reaches element j as the result times gated[j]: see rms_norm.cc.
float ScaleShare(const GatedRmsNormBackward& args, const GroupRow& g, int64_t i, const float* dy,
                 const float* gated, float scale) {
  const float dot =
      SumLanes(WholeLanes<D>{D()}, g.width, [&](int64_t j, auto lanes, V sum) HWY_ATTR {
        const V dnormed = hn::Mul(lanes.load(dy + j), lanes.load(g.weight + j));
        return hn::MulAdd(dnormed, lanes.load(gated + j), sum);
      });
  const float dscale = back_through_tap(args.in.scale_tap, i, -dot / (scale * scale));
  const float rms =
      args.in.scale_tap.is_edited() ? RootMeanSquare(gated, g.width, args.in.eps) : scale;
  return dscale / (static_cast<float>(g.width) * rms);
}

// On entry dx holds the gradient of `gated`; on return dz holds that of the gate.
void BackwardThroughTaps(const GroupRow& g, const float* gate, float* dx, float* dz) {
  for (int64_t j = 0; j < g.width; ++j) {
    const float dgated = back_through_tap(g.in.gated_tap, g.first + j, dx[j]);
    dx[j] = dgated * gate[j];
    dz[j] = back_through_tap(g.in.gate_tap, g.first + j, dgated * g.x[j]);
  }
}

void Ungate(const GroupRow& g, const float* gate, float* dx, float* dz) {
  const D d;
  ForLanes(d, g.width, [&](int64_t j, auto lanes) HWY_ATTR {
    const V dgated = lanes.load(dx + j);
    lanes.store(hn::Mul(dgated, lanes.load(gate + j)), dx + j);
    lanes.store(hn::Mul(dgated, lanes.load(g.x + j)), dz + j);
  });
}

// Groups [begin, end); dweight receives their share, added to.
void BackwardGroups(const GatedRmsNormBackward& args, int64_t begin, int64_t end, float* dweight) {
  const D d;
  std::vector<float> buffer(static_cast<size_t>(2 * args.in.x.dim(1) / args.in.n_groups));
  for (int64_t i = begin; i < end; ++i) {
    const GroupRow g(args.in, i);
    float *gate = buffer.data(), *gated = gate + g.width;
    Gate(g, gate, gated);
    const float* dy = row(args.dy, g.token) + g.begin;
    float* dx = row(args.dx, g.token) + g.begin;
    float* dz = row(args.dz, g.token) + g.begin;
    float* dw = dweight + g.begin;
    const float scale = args.scale.data<float>()[i];
    const V share = hn::Set(d, ScaleShare(args, g, i, dy, gated, scale));
    const V inverse = hn::Set(d, 1.0f / scale);
    ForLanes(d, g.width, [&](int64_t j, auto lanes) HWY_ATTR {
      const V value = lanes.load(gated + j), scaled = hn::Mul(lanes.load(dy + j), inverse);
      lanes.store(hn::MulAdd(scaled, value, lanes.load(dw + j)), dw + j);
      const V dgated = hn::MulAdd(scaled, lanes.load(g.weight + j), hn::Mul(share, value));
      lanes.store(dgated, dx + j);
    });
    if (g.tapped_backward()) BackwardThroughTaps(g, gate, dx, dz);
    else Ungate(g, gate, dx, dz);
    ForLanes(d, g.width, [&](int64_t j, auto lanes) HWY_ATTR {
      const V z = lanes.load(g.z + j);
      lanes.store(hn::Mul(lanes.load(dz + j), SiluDerivative(d, z, Sigmoid(d, z))), dz + j);
    });
  }
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {
HWY_EXPORT(ForwardGroups);
HWY_EXPORT(BackwardGroups);
}  // namespace

void gated_rms_norm_forward(Device& device, const GatedRmsNormForward& args) {
  const int64_t width = args.in.x.dim(1) / args.in.n_groups;
  for_each_block(device, args.in.x.dim(0) * args.in.n_groups, rows_per_block(width),
                 [&](int64_t begin, int64_t end) {
                   HWY_DYNAMIC_DISPATCH(ForwardGroups)(args, begin, end);
                 });
}

void gated_rms_norm_backward(Device& device, const GatedRmsNormBackward& args) {
  constexpr int64_t kLeastRows = 32;  // keeps the blocks' shares of dweight small beside the rows
  const int64_t tokens = args.dy.dim(0), d_inner = args.dy.dim(1), groups = args.in.n_groups;
  const int64_t block_rows = std::max(kLeastRows, rows_per_block(d_inner));
  const Tensor partials = device.zeros(DType::f32, {divide_up(tokens, block_rows), d_inner});
  for_each_block(device, tokens, block_rows, [&](int64_t begin, int64_t end, int64_t block) {
    HWY_DYNAMIC_DISPATCH(BackwardGroups)(args, begin * groups, end * groups, row(partials, block));
  });
  add_column_sums(device, partials, args.dweight.data<float>());
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE
