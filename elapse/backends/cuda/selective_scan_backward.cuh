// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/backends/cuda/selective_scan.cuh"

// What the scan's backward kernel is given, and how it lays out shared memory.
namespace elapse::cuda::scan {

inline constexpr int kGroups = kTile / kGroup;

template <class T>
struct Backward {
  Inputs<T> in;
  Rows<const T> dout;
  const float* checkpoints;
  const float* carries;  // gradients of chunks' last states, from later chunks
  Rows<T> dx, ddt_raw, dz;
  float* dBC;     // (blocks across, tokens, 2, padded states)
  float* dA;      // (parts, d_inner, d_state)
  float* dD;      // (parts, d_inner)
  float* dbias;   // (parts, d_inner)
  float* dstart;  // (n_seqs, d_inner, d_state), or null
  int64_t tokens;
  Taps taps;
};

// Shared memory of a block.
template <class T, int kLanes, int kStates>
struct Layout {
  static constexpr int kChannels = 32 / kLanes, kBlockChannels = kWarps * kChannels;
  static constexpr int kPadded = kLanes * kStates;
  static constexpr int kSummedGroups = kPadded > 16 ? 1 : kGroups;  // between sums over warps
  // Rows apart in the banks.
  static constexpr int kRow = kTile + 4, kToken = 32 * kStates + 16;

  struct Warp {
    alignas(16) float dt[kChannels][kRow];
    alignas(16) float dtx[kChannels][kRow];
    alignas(16) float dy[kChannels][kRow];
    alignas(16) float given[2][kGroup][kToken];  // to C and to B, by channel and a lane's states
  };
  struct Block {
    Stage<T, kPadded, kTile> stages[2];
    ChannelStage<T, 4, kTile, kBlockChannels> own[2];  // x, dt_raw, z, dout
    Warp warps[kWarps];
    alignas(16) float starts[2][kThreads][kStates];  // each lane's at the checkpoint
    alignas(16) float sums[kWarps][2][kSummedGroups * kGroup][kPadded];  // to C and to B
  };
};

// A tile, and where a lane writes its rows.
template <class T>
struct Tile {
  int64_t begin;
  int last;  // token
  Column<T> dx, ddt_raw, dz;

  __device__ Tile(const Backward<T>& a, int64_t first, int64_t end, int64_t e)
      : begin(first),
        last(static_cast<int>(min(end - first, int64_t{kTile})) - 1),
        dx(a.dx, first, e),
        ddt_raw(a.ddt_raw, first, e),
        dz(a.dz, first, e) {}
};

// What a lane has of a token of its own.
struct Own {
  float x, dt_raw, z, dout;
};

// The states before and after each token of a tile.
template <int kStates>
struct States {
  float before[kTile][kStates], last[kStates];

  // Before and after tokens `place` and `place` + 1; asked for from the last pair on.
  __device__ void get(int place, float (&h_before)[2][kStates],
                      float (&h_after)[2][kStates]) const {
#pragma unroll
    for (int n = 0; n < kStates; ++n) {
      h_before[0][n] = before[place][n];
      h_before[1][n] = h_after[0][n] = before[place + 1][n];
      h_after[1][n] = place + 2 < kTile ? before[(place + 2) % kTile][n] : last[n];
    }
  }
};

// Of up to 16 states, without taps; selective_scan_wide.cuh says how. `rows` of chunks are as many
// parts. False, and nothing done, on a GPU whose shared memory does not hold a block.
template <class T>
bool backward_wide(Device& device, const ScanBackward& args, Backward<T> a, int64_t rows);

// dB and dC, summed over blocks: dBC is (blocks, tokens, 2, padded states), to C and to B.
void sum_blocks(Device& device, const ScanBackward& args, const Tensor& dBC);

}  // namespace elapse::cuda::scan
