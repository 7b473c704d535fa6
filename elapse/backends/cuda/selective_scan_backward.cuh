// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/backends/cuda/selective_scan.cuh"

// What the scan's backward kernel is given, and how it lays out shared memory.
namespace elapse::cuda::scan {

inline constexpr int kTile = static_cast<int>(ScanForward::kCheckpointEvery),
                     kGroups = kTile / kGroup;

struct Backward {
  Inputs in;
  Rows<const float> dout;
  const float* checkpoints;
  const float* carries;  // gradients of chunks' last states, from later chunks
  Rows<float> dx, ddt_raw, dz;
  float* dBC;     // (blocks across, tokens, 2, padded states)
  float* dA;      // (parts, d_inner, d_state)
  float* dD;      // (parts, d_inner)
  float* dbias;   // (parts, d_inner)
  float* dstart;  // (n_seqs, d_inner, d_state), or null
  int64_t tokens;
  Taps taps;
};

// Shared memory of a block.
template <int kLanes, int kStates>
struct Layout {
  static constexpr int kBlockWarps = 4, kThreads = 32 * kBlockWarps;
  static constexpr int kChannels = 32 / kLanes, kPadded = kLanes * kStates;
  static constexpr int kSummedGroups = kPadded > 16 ? 1 : kGroups;    // between sums over warps
  static constexpr int kRow = kTile + 4, kToken = 32 * kStates + 16;  // apart in the banks

  struct Warp {
    alignas(16) float dt[kChannels][kRow], dtx[kChannels][kRow], dy[kChannels][kRow];
    float given[2][kGroup][kToken];  // to C and to B, by channel and state
  };
  struct Block {
    Stage<kPadded, kTile> stages[2];
    // Each lane's own tokens, one of each group: x, dt_raw, z and dout, copied ahead of time.
    float own[2][4][kGroups][kThreads];
    Warp warps[kBlockWarps];
    float sums[kBlockWarps][kSummedGroups][2][kGroup][kPadded];
  };
};

// A tile, and where a lane reads and writes its rows.
struct Tile {
  int64_t begin;
  int last;  // token
  Column<const float> x, dt_raw, z, dout;
  Column<float> dx, ddt_raw, dz;

  __device__ Tile(const Backward& a, int64_t first, int64_t end, int64_t e)
      : begin(first),
        last(static_cast<int>(min(end - first, int64_t{kTile})) - 1),
        x(a.in.x, first, e),
        dt_raw(a.in.dt_raw, first, e),
        z(a.in.z, first, e),
        dout(a.dout, first, e),
        dx(a.dx, first, e),
        ddt_raw(a.ddt_raw, first, e),
        dz(a.dz, first, e) {}
};

// Of four tokens that follow each other.
__device__ inline void load_four(const float* from, float (&out)[kGroup]) {
  const float4 v = *reinterpret_cast<const float4*>(from);
  out[0] = v.x;
  out[1] = v.y;
  out[2] = v.z;
  out[3] = v.w;
}

// What a lane has of a token of its own.
struct Own {
  float x, dt_raw, z, dout;
};

}  // namespace elapse::cuda::scan
