// SPDX-License-Identifier: Apache-2.0
// Mamba-1 between norm and out_proj, a token of a few sequences, in three kernels: in_proj with the
// convolution, x_proj, and dt_proj with the scan. In bf16 alone: what passes between them is then
// not looked at, so that it may have other bits than the operations' own. Bound: memory, the
// weights; at models of small width the three kernels' latency.
#include "elapse/backends/cuda/few_rows.cuh"
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/linear.h"
#include "elapse/backends/cuda/mamba_rows.h"
#include "elapse/backends/cuda/selective_scan.cuh"

namespace elapse::cuda {
namespace {

constexpr int kInOut = 8;          // outputs of in_proj, of a block
constexpr int64_t kMostIn = 6144;  // and its columns, which the block's memory holds
constexpr int kWindow = 4;         // d_conv

struct InConv {
  Rows<const bf16> u;
  const bf16* weight;
  const float* bias;         // or null
  const float* conv_weight;  // (d_inner, kWindow)
  const float* conv_bias;    // or null
  float* pool;
  const int64_t* start_slots;
  const int64_t* end_slots;
  Rows<bf16> out;  // (rows, 2 d_inner): x, then z
  int rows, in;
  int64_t d_inner;

  __device__ float* window(int64_t slot, int i, int64_t e) const {
    return pool + (slot * (kWindow - 1) + i) * d_inner + e;
  }
};

// A thread has an output for all rows: the convolution's weights and windows are read beside the
// product.
template <int kRows>
__global__ void __launch_bounds__(kFewThreads) in_conv_kernel(const __grid_constant__ InConv a) {
  start_next();
  WeightRows<kInOut, bf16> weights(a.weight, a.in, 2 * a.d_inner);
  const bool takes = static_cast<int>(threadIdx.x) < kInOut;
  const int64_t o = weights.first() + static_cast<int>(threadIdx.x);
  const bool is_x = takes && o < a.d_inner;
  float taps[kWindow] = {}, conv_bias = 0, window[kRows][kWindow - 1] = {};
  const float bias = takes && a.bias != nullptr ? a.bias[o] : 0.0f;
  int64_t start[kRows], end[kRows];
  if (is_x) {
    for (int i = 0; i < kWindow; ++i) taps[i] = a.conv_weight[o * kWindow + i];
    if (a.conv_bias != nullptr) conv_bias = a.conv_bias[o];
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    start[r] = r < a.rows ? a.start_slots[r] : -1;
    end[r] = r < a.rows ? a.end_slots[r] : -1;
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (!is_x || start[r] < 0) continue;
    for (int i = 0; i < kWindow - 1; ++i) window[r][i] = *a.window(start[r], i, o);
  }
  wait_for_earlier();
  float sums[kRows][kInOut] = {};
  weights.multiply(a.u, a.rows, sums);
  sum_threads_of(sums, [&](int r, int, float sum) {
    if (r >= a.rows) return;
    const float in = sum + bias;
    if (!is_x) {
      a.out(r, o) = static_cast<bf16>(in);
      return;
    }
    float conv = conv_bias;
    for (int i = 0; i < kWindow - 1; ++i) conv = fmaf(taps[i], window[r][i], conv);
    conv = fmaf(taps[kWindow - 1], in, conv);
    a.out(r, o) = static_cast<bf16>(silu<bf16>(conv));
    if (end[r] < 0) return;
    for (int i = 0; i < kWindow - 2; ++i) *a.window(end[r], i, o) = window[r][i + 1];
    *a.window(end[r], kWindow - 2, o) = in;
  });
}

constexpr int kLanes = 4, kStates = 4;  // of a channel, and of a lane
constexpr int kScanThreads = 128, kChannels = kScanThreads / kLanes;
constexpr int kRunsAhead = 5;  // of dt_proj, a lane: all of 160 columns

struct DtScan {
  Rows<const bf16> in;        // (rows, 2 d_inner): x, then z
  Rows<const bf16> selected;  // (rows, dt_rank + 2 d_state): dt_low, B, C
  const bf16* weight;         // (d_inner, dt_rank)
  const float* dt_bias;
  const float* A;
  const float* D;
  float* pool;
  const int64_t* start_slots;
  const int64_t* end_slots;
  Rows<bf16> out;
  int64_t d_inner;
  int dt_rank, d_state;
};

__global__ void __launch_bounds__(kScanThreads) dt_scan_kernel(const __grid_constant__ DtScan a) {
  using namespace scan;
  start_next();
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t s = blockIdx.x, channel = blockIdx.y * kChannels + threadIdx.x / kLanes;
  const bool is_there = channel < a.d_inner;
  const int64_t e = is_there ? channel : a.d_inner - 1;
  const bf16* row = a.weight + e * a.dt_rank;
  Run<bf16> ahead[kRunsAhead];
#pragma unroll
  for (int k = 0; k < kRunsAhead; ++k) {
    const int at = kRun * (lane + k * kLanes);
    if (at < a.dt_rank) ahead[k] = load_weights(row + at);
  }
  float A2[kStates], h[kStates], B[kStates], C[kStates];
#pragma unroll
  for (int i = 0; i < kStates; ++i) {
    const int n = lane * kStates + i;
    A2[i] = n < a.d_state ? a.A[e * a.d_state + n] * kLog2e : 0.0f;
  }
  const float bias = a.dt_bias[e], skip = a.D[e];
  const int64_t start = a.start_slots[s], end = a.end_slots[s];
#pragma unroll
  for (int i = 0; i < kStates; ++i) {
    const int n = lane * kStates + i;
    h[i] = n < a.d_state && start >= 0 ? a.pool[(start * a.d_inner + e) * a.d_state + n] : 0.0f;
  }
  wait_for_earlier();
  const bf16* selected = a.selected.row(s);
#pragma unroll
  for (int i = 0; i < kStates; ++i) {
    const int n = lane * kStates + i;
    const bool is_state = n < a.d_state;
    B[i] = is_state ? static_cast<float>(selected[a.dt_rank + n]) : 0.0f;
    C[i] = is_state ? static_cast<float>(selected[a.dt_rank + a.d_state + n]) : 0.0f;
  }
  const float x = static_cast<float>(a.in(s, e));
  const float z = static_cast<float>(a.in(s, a.d_inner + e));
  float raw = 0;
#pragma unroll
  for (int k = 0; k < kRunsAhead; ++k) {
    const int at = kRun * (lane + k * kLanes);
    if (at < a.dt_rank) raw = add_products(ahead[k], load_run(selected + at), raw);
  }
  for (int at = kRun * (lane + kRunsAhead * kLanes); at < a.dt_rank; at += kRun * kLanes) {
    raw = add_products(load_weights(row + at), load_run(selected + at), raw);
  }
  for (int step = 1; step < kLanes; step *= 2) raw += __shfl_xor_sync(~0u, raw, step);
  const float dt = fast_softplus(raw + bias), dtx = dt * x;
  float y = 0;
#pragma unroll
  for (int i = 0; i < kStates; ++i) {
    h[i] = fmaf(exp2_fast(dt * A2[i]), h[i], dtx * B[i]);
    y = fmaf(C[i], h[i], y);
  }
  for (int step = 1; step < kLanes; step *= 2) y += __shfl_xor_sync(~0u, y, step);
  if (!is_there) return;
  if (lane == 0) a.out(s, e) = static_cast<bf16>(fmaf(skip, x, y) * (z * fast_sigmoid(z)));
  if (end < 0) return;
#pragma unroll
  for (int i = 0; i < kStates; ++i) {
    const int n = lane * kStates + i;
    if (n < a.d_state) a.pool[(end * a.d_inner + e) * a.d_state + n] = h[i];
  }
}

bool suits(const MambaStep& a, const Tensor& selected) {
  const Tensor* const matrices[] = {&a.u, &a.in_proj, &a.x_proj, &a.dt_proj, &selected};
  for (const Tensor* matrix : matrices) {
    if (matrix->dtype() != DType::bf16 || !has_runs(*matrix)) return false;
  }
  return a.u.dim(0) <= kFewRows && a.u.dim(1) <= kMostIn && a.conv_weight.dim(1) == kWindow &&
         a.A.dim(0) % kInOut == 0 && a.A.dim(1) <= kLanes * kStates;
}

InConv in_conv_of(const MambaStep& a, const Tensor& in) {
  return {.u = Rows<const bf16>(a.u),
          .weight = static_cast<const bf16*>(a.in_proj.raw()),
          .bias = a.in_proj_bias ? a.in_proj_bias.data<float>() : nullptr,
          .conv_weight = a.conv_weight.data<float>(),
          .conv_bias = a.conv_bias ? a.conv_bias.data<float>() : nullptr,
          .pool = a.conv_pool ? a.conv_pool.data<float>() : nullptr,
          .start_slots = a.seqs.start_slots.data<int64_t>(),
          .end_slots = a.seqs.end_slots.data<int64_t>(),
          .out = Rows<bf16>(in),
          .rows = static_cast<int>(a.u.dim(0)),
          .in = static_cast<int>(a.u.dim(1)),
          .d_inner = a.A.dim(0)};
}

DtScan dt_scan_of(const MambaStep& a, const Tensor& in, const Tensor& selected) {
  return {.in = Rows<const bf16>(in),
          .selected = Rows<const bf16>(selected),
          .weight = static_cast<const bf16*>(a.dt_proj.raw()),
          .dt_bias = a.dt_bias.data<float>(),
          .A = a.A.data<float>(),
          .D = a.D.data<float>(),
          .pool = a.state_pool ? a.state_pool.data<float>() : nullptr,
          .start_slots = a.seqs.start_slots.data<int64_t>(),
          .end_slots = a.seqs.end_slots.data<int64_t>(),
          .out = Rows<bf16>(a.gated),
          .d_inner = a.A.dim(0),
          .dt_rank = static_cast<int>(a.dt_proj.dim(1)),
          .d_state = static_cast<int>(a.A.dim(1))};
}

}  // namespace

void mamba_step(Device& device, const MambaStep& a) {
  const int64_t rows = a.u.dim(0), d_inner = a.A.dim(0);
  const Tensor selected = device.empty(DType::bf16, {rows, a.x_proj.dim(0)});
  if (rows == 0 || d_inner == 0) return;
  if (!suits(a, selected)) {
    if (rows <= kFewRows || !mamba_step_of_some(device, a)) mamba_step_by_parts(device, a);
    return;
  }
  const Tensor in = device.empty(DType::bf16, {rows, 2 * d_inner});
  launch_in_chain(device, name_of(a.kOp), rows == 1 ? in_conv_kernel<1> : in_conv_kernel<kFewRows>,
                  {.grid = grid_of(2 * d_inner / kInOut),
                   .threads = kFewThreads,
                   .shared_bytes = WeightRows<kInOut, bf16>::shared_bytes(a.u.dim(1)),
                   .states = a.conv_pool.raw()},
                  in_conv_of(a, in));
  elapse::linear_forward(device, {in.columns(0, d_inner), a.x_proj, {}, selected});
  launch_in_chain(device, name_of(a.kOp), dt_scan_kernel,
                  {.grid = grid_of(rows, divide_up(d_inner, kChannels)),
                   .threads = kScanThreads,
                   .states = a.state_pool.raw()},
                  dt_scan_of(a, in, selected));
}

}  // namespace elapse::cuda
