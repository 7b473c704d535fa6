// SPDX-License-Identifier: Apache-2.0
// Mamba-1 between norm and out_proj, a token of some sequences, in bf16: dt_proj with the scan in
// one kernel, beside products of cuBLAS and the convolution. Bound: memory, twice the states.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/linear.h"
#include "elapse/backends/cuda/mamba_rows.h"
#include "elapse/backends/cuda/mma.cuh"
#include "elapse/backends/cuda/selective_scan.cuh"
#include "elapse/ops/causal_conv.h"

namespace elapse::cuda {
namespace {

// A block 32 channels of 8 sequences, a warp eight of four. Four lanes have a channel's states,
// four each; of what a channel has once for a sequence, each of the four lanes computes that of one
// sequence.
//
// dt_proj of all is 2 by 4 tiles of the matrix unit, a warp's each: 16 channels, the eight
// sequences and a quarter of the columns. Numbers of a tile's row are read four at a time, so that
// its columns stand in another order, the same for both factors.
constexpr int kThreads = 256, kSequences = 8, kChannels = 32;
constexpr int kParts = 4, kAhead = 3;       // of the columns; tiles of weights read before the wait
constexpr int kPartStride = kChannels + 4;  // rows apart in the banks

struct DtScan {
  Rows<const bf16> x, z;
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
  int rows, dt_rank, d_state;

  __device__ float4* states(int64_t slot, int64_t e, int n) const {
    return reinterpret_cast<float4*>(pool + (slot * d_inner + e) * d_state + n);
  }
};

// Four of a row's numbers; zeros where it has ended.
__device__ inline uint2 load_four(const bf16* row, int at, int end) {
  return at < end ? *reinterpret_cast<const uint2*>(row + at) : uint2{0, 0};
}
__device__ inline float4 widened(uint2 four) {
  const float2 low = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&four.x));
  const float2 high = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&four.y));
  return {low.x, low.y, high.x, high.y};
}

__global__ void __launch_bounds__(kThreads, 3) dt_scan_kernel(const __grid_constant__ DtScan a) {
  using namespace scan;
  __shared__ float dt_parts[kParts][kSequences][kPartStride];
  start_next();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, q = lane % 4;
  const int first_row = static_cast<int>(blockIdx.y) * kSequences;
  const int in_block = warp % 4 * 8 + g, first = warp / 4 * kGroup;  // channel, and sequences
  const int64_t first_channel = blockIdx.x * int64_t{kChannels};
  const auto channel_at = [&](int c) { return min(first_channel + c, a.d_inner - 1); };
  const auto row_at = [&](int s) { return min(first_row + s, a.rows - 1); };
  const int64_t e = channel_at(in_block);
  const bool has_states = 4 * q < a.d_state;
  float4 h[kGroup] = {};
#pragma unroll
  for (int k = 0; k < kGroup; ++k) {
    const int64_t start = a.start_slots[row_at(first + k)];
    if (start >= 0 && has_states) h[k] = *a.states(start, e, 4 * q);
  }
  const int tile = warp % 2, part = warp / 2;
  const bf16* low = a.weight + channel_at(tile * 16 + g) * a.dt_rank;
  const bf16* high = a.weight + channel_at(tile * 16 + g + 8) * a.dt_rank;
  const auto column = [&](int j) { return (part + j * kParts) * 16 + 4 * q; };
  uint2 ahead[kAhead][2];
#pragma unroll
  for (int j = 0; j < kAhead; ++j) {
    ahead[j][0] = load_four(low, column(j), a.dt_rank);
    ahead[j][1] = load_four(high, column(j), a.dt_rank);
  }
  float4 A2 = {0, 0, 0, 0};
  if (has_states) A2 = *reinterpret_cast<const float4*>(a.A + e * a.d_state + 4 * q);
  A2 = {A2.x * kLog2e, A2.y * kLog2e, A2.z * kLog2e, A2.w * kLog2e};
  const float bias = a.dt_bias[e], skip = a.D[e];
  wait_for_earlier();
  const bf16* dt_low = a.selected.row(row_at(g));
  uint2 B[kGroup], C[kGroup];
#pragma unroll
  for (int k = 0; k < kGroup; ++k) {
    const bf16* factors = a.selected.row(row_at(first + k)) + a.dt_rank;
    B[k] = load_four(factors, 4 * q, a.d_state);
    C[k] = load_four(factors + a.d_state, 4 * q, a.d_state);
  }
  const int own = row_at(first + q);  // the sequence that the lane computes for
  const float x = static_cast<float>(a.x(own, e)), z = static_cast<float>(a.z(own, e));
  float products[4] = {};
  // Of 16 columns: lane 4 g + q has four of row g of both factors, and of the sums channels g and
  // g + 8 of sequences 2 q and 2 q + 1.
  const auto multiply = [&](uint2 of_low, uint2 of_high, int at) {
    const uint2 b = load_four(dt_low, at, a.dt_rank);
    const unsigned both[4] = {of_low.x, of_high.x, of_low.y, of_high.y};
    multiply_bf16(products, both, b.x, b.y);
  };
#pragma unroll
  for (int j = 0; j < kAhead; ++j) multiply(ahead[j][0], ahead[j][1], column(j));
  for (int at = column(kAhead); at - 4 * q < a.dt_rank; at += kParts * 16) {
    multiply(load_four(low, at, a.dt_rank), load_four(high, at, a.dt_rank), at);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    dt_parts[part][2 * q + i % 2][tile * 16 + g + i / 2 * 8] = products[i];
  __syncthreads();
  float dt_raw = bias;
#pragma unroll
  for (int p = 0; p < kParts; ++p) dt_raw += dt_parts[p][first + q][in_block];
  const float own_dt = fast_softplus(dt_raw), own_dtx = own_dt * x;
  float y[kGroup];
#pragma unroll
  for (int k = 0; k < kGroup; ++k) {
    const float dt = __shfl_sync(~0u, own_dt, k, 4), dtx = __shfl_sync(~0u, own_dtx, k, 4);
    const float4 b = widened(B[k]), c = widened(C[k]);
    h[k] = {fmaf(exp2_fast(dt * A2.x), h[k].x, dtx * b.x),
            fmaf(exp2_fast(dt * A2.y), h[k].y, dtx * b.y),
            fmaf(exp2_fast(dt * A2.z), h[k].z, dtx * b.z),
            fmaf(exp2_fast(dt * A2.w), h[k].w, dtx * b.w)};
    y[k] = fmaf(c.w, h[k].w, fmaf(c.z, h[k].z, fmaf(c.y, h[k].y, c.x * h[k].x)));
  }
  const float sum = sum_lanes<4>(y, lane);
  if (first_channel + in_block >= a.d_inner) return;
  if (first_row + first + q < a.rows) {
    a.out(own, e) = static_cast<bf16>(fmaf(skip, x, sum) * (z * fast_sigmoid(z)));
  }
#pragma unroll
  for (int k = 0; k < kGroup; ++k) {
    if (first_row + first + k >= a.rows || !has_states) break;
    const int64_t end = a.end_slots[first_row + first + k];
    if (end >= 0) *a.states(end, e, 4 * q) = h[k];
  }
}

// Of more, or of wider models, products of cuBLAS and the scan by itself are as fast or faster: its
// blocks are smaller, and wait for nobody.
constexpr int64_t kMostRows = 64, kMostChannels = 2048;

bool suits(const MambaStep& a, const Tensor& selected) {
  return a.u.dim(0) <= kMostRows && a.A.dim(0) <= kMostChannels && a.u.dtype() == DType::bf16 &&
         a.dt_proj.dtype() == DType::bf16 && has_runs(a.dt_proj) && has_runs(selected) &&
         a.state_pool && a.A.dim(1) % 4 == 0 && a.A.dim(1) <= 16 && is_aligned(a.A) &&
         is_aligned(a.state_pool);
}

}  // namespace

bool mamba_step_of_some(Device& device, const MambaStep& a) {
  const int64_t rows = a.u.dim(0), d_inner = a.A.dim(0);
  const Tensor selected = device.empty(DType::bf16, {rows, a.x_proj.dim(0)});
  if (!suits(a, selected)) return false;
  const Tensor in = device.empty(DType::bf16, {rows, 2 * d_inner});
  elapse::linear_forward(device, {a.u, a.in_proj, a.in_proj_bias, in});
  const Tensor x = device.empty(DType::bf16, {rows, d_inner});
  elapse::causal_conv_forward(device, {.x = in.columns(0, d_inner),
                                       .weight = a.conv_weight,
                                       .bias = a.conv_bias,
                                       .seqs = a.seqs,
                                       .pool = a.conv_pool,
                                       .saved_start = {},
                                       .y = x,
                                       .taps = {}});
  elapse::linear_forward(device, {x, a.x_proj, {}, selected});
  launch_in_chain(device, name_of(a.kOp), dt_scan_kernel,
                  {.grid = grid_of(divide_up(d_inner, kChannels), divide_up(rows, kSequences)),
                   .threads = kThreads,
                   .states = a.state_pool.raw()},
                  DtScan{.x = Rows<const bf16>(x),
                         .z = Rows<const bf16>(in.columns(d_inner, 2 * d_inner)),
                         .selected = Rows<const bf16>(selected),
                         .weight = static_cast<const bf16*>(a.dt_proj.raw()),
                         .dt_bias = a.dt_bias.data<float>(),
                         .A = a.A.data<float>(),
                         .D = a.D.data<float>(),
                         .pool = a.state_pool.data<float>(),
                         .start_slots = a.seqs.start_slots.data<int64_t>(),
                         .end_slots = a.seqs.end_slots.data<int64_t>(),
                         .out = Rows<bf16>(a.gated),
                         .d_inner = d_inner,
                         .rows = static_cast<int>(rows),
                         .dt_rank = static_cast<int>(a.dt_proj.dim(1)),
                         .d_state = static_cast<int>(a.A.dim(1))});
  return true;
}

}  // namespace elapse::cuda
