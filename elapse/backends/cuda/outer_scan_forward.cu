// SPDX-License-Identifier: Apache-2.0
#include "elapse/backends/cuda/outer_scan.cuh"

namespace elapse::cuda {
namespace {

template <class T, bool kByHead, bool kTapped>
__global__ void __launch_bounds__(32 * kMostScanWarps)
    forward_kernel(const __grid_constant__ OuterScanForward<T> a) {
  __shared__ float of_warp[kScanTokens][kMostScanWarps][kScanLanes];
  const OuterScan<T>& in = a.in;
  const ScanLane<T, kByHead, kTapped> lane(in);
  float h[kScanStates] = {};
  const int64_t from = in.start_slots[lane.s], to = in.end_slots[lane.s];
  if (from >= 0) lane.load(in, a.start, from, h);
  for (int64_t begin = lane.first; begin < lane.last; begin += kScanTokens) {
    const int count = static_cast<int>(lane.last - begin < kScanTokens ? lane.last - begin
                                                                       : int64_t{kScanTokens});
    for (int i = 0; i < count; ++i) {
      const int64_t t = begin + i, into = t - lane.first;
      if (a.checkpoints != nullptr && into % in.chunk == 0) {
        const int64_t row = lane.first / in.chunk + lane.s + into / in.chunk;
        lane.store(in, a.checkpoints, row, h);
      }
      lane.advance(in, t, h);
      float q[kScanStates], y = 0;
      lane.queries(in, t, q);
#pragma unroll
      for (int n = 0; n < kScanStates; ++n) {
        const float read = kTapped ? lane.passed(in.readout_tap, h[n], t, n, in) : h[n];
        y = fmaf(q[n], read, y);
      }
      of_warp[i][lane.warp][lane.lane] = y;
    }
    __syncthreads();
    const int warps = static_cast<int>(blockDim.x) / 32;
    for (int i = lane.warp; i < count; i += warps) {
      if (!lane.active) continue;
      const int64_t t = begin + i;
      float y = 0;
      for (int w = 0; w < warps; ++w) y += of_warp[i][w][lane.lane];
      if (in.first_state > 0) y += a.y_sum(t, lane.channel);
      if (!in.is_last_slice()) {
        a.y_sum(t, lane.channel) = y;
        continue;
      }
      bool changed = false;
      if (kTapped) y = in.y_tap.through(y, t, lane.channel, 0, changed);
      in.note(changed);
      if (kByHead) y = y + in.D[in.D_at(lane.channel)] * lane.value(in, t);
      a.y(t, lane.channel) = static_cast<T>(y);
    }
    __syncthreads();
  }
  if (to >= 0 && a.end != nullptr) lane.store(in, a.end, to, h);
}

}  // namespace

template <class T>
void outer_scan_forward(Device& device, Op op, OuterScanForward<T> args, bool by_head,
                        bool tapped) {
  const auto kernel =
      by_head ? (tapped ? forward_kernel<T, true, true> : forward_kernel<T, true, false>)
              : (tapped ? forward_kernel<T, false, true> : forward_kernel<T, false, false>);
  Tensor memory;
  args.y_sum = sums_of_slices(device, args.in, args.y, memory);
  for_each_slice(args.in, [&](int threads) {
    launch(device, name_of(op), kernel, grid_of(args.in.n_seqs * args.in.n_heads * args.in.tiles()),
           threads, 0, args);
  });
}

template void outer_scan_forward(Device&, Op, OuterScanForward<float>, bool, bool);
template void outer_scan_forward(Device&, Op, OuterScanForward<bf16>, bool, bool);

}  // namespace elapse::cuda
