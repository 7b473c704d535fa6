// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/backends/cuda/selective_scan.cuh"
#include "elapse/backends/cuda/shared_memory.cuh"

// The scan of up to 16 states, without taps.
//
// Half of a block's warps, its walkers, take the tokens one after the other: four lanes a channel,
// four states each, as elsewhere, but of two or three channels a lane, so that B and C are read
// once for all of these. The other half, its helpers, take 16 tokens at a time and do what a token
// has once, before the walk and after it, and widen B and C. A block has a multiprocessor to
// itself, or forward shares it with one other: a walker's instructions follow each other closely
// enough.
namespace elapse::cuda::scan::wide {

inline constexpr int kLanes = 4, kStates = 4;
static_assert(kLanes * kStates == kWideStates);
inline constexpr int kAcross = kThreads / kLanes;  // channels of the walkers' lanes, one each
inline constexpr int kBlock = 2 * kThreads;        // helpers, then walkers
static_assert(kTile == kWarps * kGroup);           // a helping warp takes a group

// A number a token and channel; rows apart in the banks. kWide: channels of a lane.
template <int kWide>
struct Numbers {
  alignas(16) float of[kWide * kAcross][kTile + 4];
};

// B and C of a tile.
struct Widened {
  alignas(16) float B[kTile][kWideStates];
  alignas(16) float C[kTile][kWideStates];
};

__device__ inline bool is_helper() { return threadIdx.x < kThreads; }

// Which row of chunks and which of the blocks across them a block is: blocks of chunks that are not
// there come last, where other blocks fill a multiprocessor.
struct Place {
  int64_t row, block;

  __device__ Place(int64_t d_inner, int channels) {
    const int across = static_cast<int>((d_inner + channels - 1) / channels);
    row = static_cast<int>(blockIdx.x) / across;
    block = static_cast<int>(blockIdx.x) % across;
  }
};

// Waits for the block's threads, which come here from different places.
__device__ inline void meet() { asm volatile("bar.sync 1, %0;" ::"n"(kBlock) : "memory"); }

__device__ inline void meet_helpers() {
  asm volatile("bar.sync 2, %0;" ::"n"(kThreads) : "memory");
}

// Where a walker's thread stands, or a helper's that walks.
struct Walker {
  int lane, g, first;  // the first of the block's channels

  __device__ explicit Walker(int thread)
      : lane(thread % 32), g(lane % kLanes), first(thread / kLanes) {}
  __device__ int state(int i) const { return g * kStates + i; }
  __device__ int channel(int k) const { return k * kAcross + first; }
};

// Where a helper's thread stands: at four tokens of some channels.
struct Helper {
  int lane, place;  // the first token

  __device__ Helper()
      : lane(static_cast<int>(threadIdx.x) % 32),
        place(static_cast<int>(threadIdx.x) / 32 * kGroup) {}
  __device__ int channel(int k) const { return k * 32 + lane; }
  // Calls body(k, j, place, channel) for the thread's tokens; places and channels of the block.
  template <int kWide, class Body>
  __device__ void for_each(const Body& body) const {
#pragma unroll
    for (int k = 0; k < kWide; ++k) {
#pragma unroll
      for (int j = 0; j < kGroup; ++j) body(k, j, place + j, channel(k));
    }
    __syncwarp();
  }
};
static_assert(kAcross == 32);

// Numbers of a helper's thread, through functions of several steps, a step of all of them at a
// time: the compiler would have chain follow chain.
template <int kWide>
using Mine = float[kWide][kGroup];

template <int kWide, class Body>
__device__ inline void for_each_of_mine(const Body& body) {
#pragma unroll
  for (int k = 0; k < kWide; ++k) {
#pragma unroll
    for (int j = 0; j < kGroup; ++j) body(k, j);
  }
  __syncwarp();  // or the compiler would mix the steps
}

template <int kWide>
__device__ inline void softplus_all(Mine<kWide>& x) {
  Mine<kWide> e;
  for_each_of_mine<kWide>([&](int k, int j) { e[k][j] = exp2_fast(-kLog2e * fabsf(x[k][j])); });
  for_each_of_mine<kWide>([&](int k, int j) { x[k][j] = softplus_of(x[k][j], e[k][j]); });
}

template <int kWide>
__device__ inline void sigmoid_all(Mine<kWide>& x) {
  for_each_of_mine<kWide>([&](int k, int j) { x[k][j] = 1.0f + exp2_fast(-kLog2e * x[k][j]); });
  for_each_of_mine<kWide>([&](int k, int j) { x[k][j] = reciprocal_fast(x[k][j]); });
}

// The walker's states of the channels from `channel` on, of one row of a table.
template <class T, int kWide>
__device__ inline void load_wide(const Inputs<T>& a, const Walker& at, const float* table,
                                 int64_t row, int64_t channel, float (&out)[kWide][kStates]) {
#pragma unroll
  for (int k = 0; k < kWide; ++k) {
    const int64_t e = min(channel + at.channel(k), a.d_inner - 1);
    load_states(table + state_row(a, row, e), at, a.d_state, a.vectors, out[k]);
  }
}

template <class T, int kWide>
__device__ inline void store_wide(const Inputs<T>& a, const Walker& at, float* table, int64_t row,
                                  int64_t channel, const float (&in)[kWide][kStates]) {
#pragma unroll
  for (int k = 0; k < kWide; ++k) {
    const int64_t e = channel + at.channel(k);
    if (e < a.d_inner) {
      store_states(table + state_row(a, row, e), at, a.d_state, a.vectors, in[k]);
    }
  }
}

// Tiles of a block's channels, a row of 16-byte pieces a token.
template <class T, int kArrays, int kWide>
using Tiles = ChannelStage<T, kArrays, kTile, kWide * kAcross, 0>;

// Has one array of a tile copied by helpers, where its rows can be: as many threads as a row
// has channels take some rows at a time, a piece each. Else as ChannelStage::fetch.
template <class T, int kWide>
struct Copy {
  static constexpr int kPart = 16 / static_cast<int>(sizeof(T));
  static constexpr int kParts = kWide * kAcross / kPart, kRows = kPart;
  static_assert(kRows * kParts <= kThreads && kTile % kRows == 0);

  Column<const T> from;
  int row, column;
  bool any;

  __device__ Copy(const Rows<const T>& rows, const Inputs<T>& a, int64_t begin, int64_t channel)
      : from(rows, begin, channel),
        row(static_cast<int>(threadIdx.x) / kParts),
        column(static_cast<int>(threadIdx.x) % kParts * kPart),
        any(row < kRows && channel + column < a.d_inner) {}

  template <int kArrays>
  __device__ void fetch(Tiles<T, kArrays, kWide>& to, int array, int first, int last) const {
#pragma unroll
    for (int j = 0; j < kTile; j += kRows) {
      const int i = first + row + j;
      if (any && i <= last) {
        __pipeline_memcpy_async(&to.of[array][row + j][column], &from[i] + column, 16);
      }
    }
  }
};

// A channel's rows of A, times log2(e).
template <class T, int kWide>
__device__ inline void load_wide_A(const Inputs<T>& a, const Walker& at, int64_t channel,
                                   float (&A2)[kWide][kStates]) {
  load_wide(a, at, a.A, 0, channel, A2);
#pragma unroll
  for (int k = 0; k < kWide; ++k) {
#pragma unroll
    for (int n = 0; n < kStates; ++n) A2[k][n] *= kLog2e;
  }
}

// Helpers': B and C of a tile, widened.
template <class T>
__device__ inline void widen(const Stage<T, kWideStates, kTile>& from, Widened& to) {
  static_assert(2 * kTile * kWideStates / 4 == kThreads);
  struct {
    int first;
    __device__ int state(int i) const { return first + i; }
  } const four = {static_cast<int>(threadIdx.x) % 4 * 4};
  const int place = static_cast<int>(threadIdx.x) / 4 % kTile;
  const bool is_B = threadIdx.x < kThreads / 2;
  float v[4];
  load_factors(is_B ? from.B[place] : from.C[place], four, v);
  *reinterpret_cast<float4*>(&(is_B ? to.B : to.C)[place][four.first]) = {v[0], v[1], v[2], v[3]};
}

// Calls body(std::integral_constant of the channels a lane has), three or two, whichever leaves the
// fewest multiprocessors of a large GPU without a block; a block costs as much as half a channel
// more.
template <class Body>
bool with_width(const ScanInputs& in, int64_t chunk, Body&& body) {
  const int64_t chunks = is_whole(in, chunk) ? in.seqs.count() : divide_up(in.seqs.tokens, chunk);
  const auto cost = [&](int64_t width) {
    const int64_t blocks = chunks * divide_up(in.A.dim(0), width * kAcross);
    return divide_up(blocks, kWarpsAtATime / 12) * (2 * width + 1);
  };
  if (cost(3) <= cost(2)) return body(std::integral_constant<int, 3>());
  return body(std::integral_constant<int, 2>());
}

}  // namespace elapse::cuda::scan::wide
