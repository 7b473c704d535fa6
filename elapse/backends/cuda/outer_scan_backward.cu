// SPDX-License-Identifier: Apache-2.0
// Chunk by chunk from the last, each walked three times: from its checkpoint, keeping the states
// before every kScanTokens tokens; over that many, whose states stay in registers; and back over
// these. Gradients of q, k and decay are sums over a warp's channels here, and over blocks later.
#include "elapse/backends/cuda/outer_scan.cuh"

namespace elapse::cuda {
namespace {

constexpr int kSame = 32 / kScanStates;  // lanes that have one of lane_sums

// The sum over a warp's lanes of each of their numbers: this lane's is that of the state
// lane / kSame.
__device__ float lane_sums(float (&v)[kScanStates]) {
  int mask = 16;
#pragma unroll
  for (int half = kScanStates / 2; half > 0; half /= 2) {
    const bool upper = (threadIdx.x & static_cast<unsigned>(mask)) != 0;
#pragma unroll
    for (int n = 0; n < half; ++n) {
      const float sent = upper ? v[n] : v[n + half], own = upper ? v[n + half] : v[n];
      v[n] = own + __shfl_xor_sync(~0u, sent, mask);
    }
    mask /= 2;
  }
  float sum = v[0];
  for (; mask > 0; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
  return sum;
}

template <class T, bool kByHead, bool kTapped>
struct Walk {
  const OuterScanBackward<T>& a;
  const OuterScan<T>& in;
  const ScanLane<T, kByHead, kTapped> lane;
  float (&of_warp)[kScanTokens][kMostScanWarps][kScanLanes];  // dv
  float dh[kScanStates] = {};

  __device__ float dy(int64_t t) const { return static_cast<float>(a.dy(t, lane.channel)); }

  // Of the states before the i-th kScanTokens tokens of a chunk.
  __device__ float* kept(int64_t i) const {
    const int64_t states = int64_t{blockDim.x} / 32 * kScanStates;
    const int64_t of_block = (in.chunk + kScanTokens - 1) / kScanTokens * states * kScanLanes;
    return a.kept + blockIdx.x * of_block + (i * states + lane.warp * kScanStates) * kScanLanes +
           lane.lane;
  }

  __device__ void chunk(int64_t begin, int64_t end, int64_t checkpoint) {
    float h[kScanStates];
    lane.load(in, a.checkpoints, checkpoint, h);
    const int64_t runs = (end - begin + kScanTokens - 1) / kScanTokens;
    for (int64_t i = 0; i < runs; ++i) {
      float* to = kept(i);
#pragma unroll
      for (int n = 0; n < kScanStates; ++n) to[n * kScanLanes] = h[n];
      if (i + 1 == runs) break;
      for (int j = 0; j < kScanTokens; ++j) lane.advance(in, begin + i * kScanTokens + j, h);
    }
    for (int64_t i = runs - 1; i >= 0; --i) {
      const int64_t first = begin + i * kScanTokens;
      run(first, static_cast<int>(end - first < kScanTokens ? end - first : int64_t{kScanTokens}),
          kept(i));
    }
  }

  __device__ void run(int64_t begin, int count, const float* start) {
    float h[kScanTokens + 1][kScanStates];  // before each token, and after the last
#pragma unroll
    for (int n = 0; n < kScanStates; ++n) h[0][n] = start[n * kScanLanes];
#pragma unroll
    for (int i = 0; i < kScanTokens; ++i) {
#pragma unroll
      for (int n = 0; n < kScanStates; ++n) h[i + 1][n] = h[i][n];
      if (i < count) lane.advance(in, begin + i, h[i + 1]);
    }
#pragma unroll
    for (int i = kScanTokens - 1; i >= 0; --i) {
      if (i < count) token(begin + i, i, h[i], h[i + 1]);
    }
    __syncthreads();
    const int warps = static_cast<int>(blockDim.x) / 32;
    for (int i = lane.warp; i < count; i += warps) {
      if (!lane.active) continue;
      const int64_t t = begin + i;
      float dv = in.first_state > 0 ? a.dv_sum(t, lane.channel)
                 : kByHead          ? dy(t) * in.D[in.D_at(lane.channel)]
                                    : 0.0f;
      for (int w = 0; w < warps; ++w) dv += of_warp[i][w][lane.lane];
      if (in.is_last_slice()) a.dv(t, lane.channel) = static_cast<T>(dv);
      else a.dv_sum(t, lane.channel) = dv;
    }
    __syncthreads();
  }

  __device__ void token(int64_t t, int i, const float (&before)[kScanStates],
                        const float (&after)[kScanStates]) {
    float decay[kScanStates], k[kScanStates], q[kScanStates];
    lane.decays_and_keys(in, t, decay, k);
    lane.queries(in, t, q);
    const float v = lane.value(in, t);
    float dy = lane.active ? this->dy(t) : 0.0f, dv = 0;
    // The first warp alone writes down the gradient, which all have.
    if (kTapped && lane.active) {
      TapView tap = in.y_tap;
      if (lane.state != 0) tap.gradient = nullptr;
      dy = tap.back(dy, t, lane.channel, 0);
    }
    float dq[kScanStates], dk[kScanStates], ddecay[kScanStates];
#pragma unroll
    for (int n = 0; n < kScanStates; ++n) {
      const float read = kTapped ? lane.passed(in.readout_tap, after[n], t, n, in) : after[n];
      float of_y = dy * q[n];
      if (kTapped) of_y = lane.passed_back(in.readout_tap, of_y, t, n, in);
      float g = dh[n] + of_y;
      if (kTapped) g = lane.passed_back(in.h_tap, g, t, n, in);
      const float dwrite = kTapped ? lane.passed_back(in.write_tap, g, t, n, in) : g;
      dq[n] = dy * read;
      dk[n] = dwrite * v;
      ddecay[n] = g * before[n];
      dv = fmaf(dwrite, k[n], dv);
      dh[n] = g * decay[n];
    }
    of_warp[i][lane.warp][lane.lane] = dv;
    const int64_t row = lane.block(in) * in.tokens + t;
    if (kByHead) {
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kScanStates; ++n) sum += ddecay[n];
      sum = warp_sum(sum);
      if (lane.lane == 0) a.ddecay[row * in.warps() + lane.state / kScanStates] = sum;
    } else {
      put(a.ddecay, row, lane_sums(ddecay));
    }
    put(a.dq, row, lane_sums(dq));
    put(a.dk, row, lane_sums(dk));
  }

  // This lane's sum, of (n_heads tiles tokens, d_k).
  __device__ void put(float* rows, int64_t row, float sum) const {
    const int64_t n = lane.state + lane.lane / kSame;
    if (lane.lane % kSame == 0 && n < in.d_k) rows[row * in.d_k + n] = sum;
  }
};

template <class T, bool kByHead, bool kTapped>
__global__ void __launch_bounds__(32 * kMostScanWarps)
    backward_kernel(const __grid_constant__ OuterScanBackward<T> a) {
  __shared__ float of_warp[kScanTokens][kMostScanWarps][kScanLanes];
  const OuterScan<T>& in = a.in;
  Walk<T, kByHead, kTapped> walk = {a, in, ScanLane<T, kByHead, kTapped>(in), of_warp};
  const auto& lane = walk.lane;
  if (a.dend != nullptr) lane.load(in, a.dend, lane.s, walk.dh);
  const int64_t len = lane.last - lane.first;
  for (int64_t c = (len + in.chunk - 1) / in.chunk - 1; c >= 0; --c) {
    const int64_t begin = lane.first + c * in.chunk;
    const int64_t end = begin + in.chunk < lane.last ? begin + in.chunk : lane.last;
    walk.chunk(begin, end, lane.first / in.chunk + lane.s + c);
  }
  if (a.dstart != nullptr) lane.store(in, a.dstart, lane.s, walk.dh);
}

}  // namespace

template <class T>
int64_t outer_scan_kept(const OuterScan<T>& in) {
  const int64_t states = std::min<int64_t>(kSliceStates, in.warps() * kScanStates);
  return in.n_seqs * in.n_heads * in.tiles() * divide_up(in.chunk, kScanTokens) * states *
         kScanLanes;
}

template <class T>
void outer_scan_backward(Device& device, Op op, OuterScanBackward<T> args, bool by_head,
                         bool tapped) {
  const auto kernel =
      by_head ? (tapped ? backward_kernel<T, true, true> : backward_kernel<T, true, false>)
              : (tapped ? backward_kernel<T, false, true> : backward_kernel<T, false, false>);
  Tensor memory;
  args.dv_sum = sums_of_slices(device, args.in, args.dv, memory);
  for_each_slice(args.in, [&](int threads) {
    launch(device, name_of(op), kernel, grid_of(args.in.n_seqs * args.in.n_heads * args.in.tiles()),
           threads, 0, args);
  });
}

template int64_t outer_scan_kept(const OuterScan<float>&);
template int64_t outer_scan_kept(const OuterScan<bf16>&);
template void outer_scan_backward(Device&, Op, OuterScanBackward<float>, bool, bool);
template void outer_scan_backward(Device&, Op, OuterScanBackward<bf16>, bool, bool);

}  // namespace elapse::cuda
