// SPDX-License-Identifier: Apache-2.0
// The selective scan forward, of up to 16 states and without taps; selective_scan_wide.cuh says how
// work is laid out, selective_scan_forward.cu what bounds it. 24 channels of a token take 76 issued
// instructions of the walkers and 40 of the helpers, and 114 cycles of a quarter multiprocessor's
// unit of special functions.
#include "elapse/backends/cuda/selective_scan_forward.cuh"
#include "elapse/backends/cuda/selective_scan_wide.cuh"

namespace elapse::cuda::scan {
namespace {

using namespace wide;

template <class T, int kWide>
struct Shared {
  // Tiles at hand: to be finished, walked and prepared, and on their way.
  Tiles<T, 3, kWide> own[4];  // x, dt_raw, z
  Stage<T, kWideStates, kTile> factors[2];
  Widened widened[2];
  Numbers<kWide> dt[2], dtx[2], y[2];
};

template <class T, int kWide>
struct Block {
  const Forward<T>& a;
  const Chunk& chunk;
  Shared<T, kWide>& shared;
  int64_t channel;  // the block's first
  int channels;     // the block's
  int last, tiles;  // token of the chunk

  __device__ Block(const Forward<T>& args, const Chunk& c, int64_t number, Shared<T, kWide>& memory)
      : a(args),
        chunk(c),
        shared(memory),
        channel(number * kWide * kAcross),
        channels(static_cast<int>(min(args.in.d_inner - channel, int64_t{kWide * kAcross}))),
        last(static_cast<int>(c.end - c.begin) - 1),
        tiles((last + kTile) / kTile) {}
};

template <class T, int kWide>
struct Help {
  const Block<T, kWide>& block;
  const Helper at;
  const Copy<T, kWide> x, dt_raw, z;
  float bias[kWide], skip[kWide];
  Column<T> out;

  __device__ explicit Help(const Block<T, kWide>& b)
      : block(b),
        x(b.a.in.x, b.a.in, b.chunk.begin, b.channel),
        dt_raw(b.a.in.dt_raw, b.a.in, b.chunk.begin, b.channel),
        z(b.a.in.z, b.a.in, b.chunk.begin, b.channel),
        out(b.a.out, b.chunk.begin, b.channel + at.lane) {
#pragma unroll
    for (int k = 0; k < kWide; ++k) {
      const int64_t e = min(b.channel + at.channel(k), b.a.in.d_inner - 1);
      bias[k] = b.a.in.dt_bias[e];
      skip[k] = b.a.in.D[e];
    }
  }

  __device__ void fetch(int tile) const {
    const Inputs<T>& in = block.a.in;
    auto& own = block.shared.own[tile % 4];
    const int64_t begin = block.chunk.begin;
    const int first = tile * kTile;
    if (in.runs) {
      x.fetch(own, 0, first, block.last);
      dt_raw.fetch(own, 1, first, block.last);
      z.fetch(own, 2, first, block.last);
    } else {
      own.fetch(0, in.x, in, block.channel, begin, first, block.last);
      own.fetch(1, in.dt_raw, in, block.channel, begin, first, block.last);
      own.fetch(2, in.z, in, block.channel, begin, first, block.last);
    }
    block.shared.factors[tile % 2].fetch(in, begin, first, block.last);
  }

  __device__ bool is_real(int tile, int k, int j) const {
    return tile * kTile + at.place + j <= block.last && at.channel(k) < block.channels;
  }

  // Tokens that are not there take steps of 0: softplus of what is chosen here, without a branch,
  // so that the chains of all tokens run side by side.
  __device__ void prepare(int tile) const {
    const auto& own = block.shared.own[tile % 4].of;
    Mine<kWide> dt, dtx;
    at.for_each<kWide>([&](int k, int j, int place, int c) {
      dt[k][j] = static_cast<float>(own[1][place][c]) + bias[k];
      dtx[k][j] = static_cast<float>(own[0][place][c]);
    });
    for_each_of_mine<kWide>([&](int k, int j) {
      if (is_real(tile, k, j)) return;
      dt[k][j] = -INFINITY;
      dtx[k][j] = 0;
    });
    softplus_all<kWide>(dt);
    at.for_each<kWide>([&](int k, int j, int, int) { dtx[k][j] *= dt[k][j]; });
#pragma unroll
    for (int k = 0; k < kWide; ++k) {
      store_four(&block.shared.dt[tile % 2].of[at.channel(k)][at.place], dt[k]);
      store_four(&block.shared.dtx[tile % 2].of[at.channel(k)][at.place], dtx[k]);
    }
    widen(block.shared.factors[tile % 2], block.shared.widened[tile % 2]);
  }

  __device__ void finish(int tile) const {
    const auto& own = block.shared.own[tile % 4].of;
    Mine<kWide> y, z, gate;
#pragma unroll
    for (int k = 0; k < kWide; ++k) {
      load_four(&block.shared.y[tile % 2].of[at.channel(k)][at.place], y[k]);
    }
    at.for_each<kWide>([&](int k, int j, int place, int c) {
      y[k][j] = fmaf(skip[k], static_cast<float>(own[0][place][c]), y[k][j]);
      gate[k][j] = z[k][j] = static_cast<float>(own[2][place][c]);
    });
    sigmoid_all<kWide>(gate);
    at.for_each<kWide>([&](int k, int j, int place, int) {
      const T gated = static_cast<T>(y[k][j] * (z[k][j] * gate[k][j]));
      if (is_real(tile, k, j)) (&out[tile * kTile + place])[k * 32] = gated;
    });
  }

  __device__ void run() const {
    fetch(0);
    fetch(1);
    __pipeline_wait_prior(1);
    meet();
    prepare(0);
    __pipeline_wait_prior(0);
    meet();
    for (int tile = 0; tile <= block.tiles; ++tile) {
      if (tile + 2 < block.tiles) fetch(tile + 2);
      if (tile > 0) finish(tile - 1);
      if (tile + 1 < block.tiles) prepare(tile + 1);
      __pipeline_wait_prior(0);
      meet();
    }
  }
};

template <class T, int kWide>
struct Walk {
  using Group = float[kWide][kGroup];

  const Block<T, kWide>& block;
  const Walker at;
  float A2[kWide][kStates], h[kWide][kStates] = {};

  __device__ explicit Walk(const Block<T, kWide>& b)
      : block(b), at(static_cast<int>(threadIdx.x) - kThreads) {
    load_wide_A(b.a.in, at, b.channel, A2);
  }

  __device__ void start() {
    const Forward<T>& a = block.a;
    const int64_t slot = a.in.start_slots[block.chunk.s];
    if (a.carries != nullptr) load_wide(a.in, at, a.carries, block.chunk.row, block.channel, h);
    else if (slot >= 0) load_wide(a.in, at, a.pool, slot, block.channel, h);
  }
  __device__ void end() const {
    const int64_t slot = block.a.in.end_slots[block.chunk.s];
    if (slot >= 0) store_wide(block.a.in, at, block.a.pool, slot, block.channel, h);
  }

  __device__ void load_steps(int stage, int i, Group& dt) const {
#pragma unroll
    for (int k = 0; k < kWide; ++k) {
      load_four(&block.shared.dt[stage].of[at.channel(k)][i], dt[k]);
    }
  }

  // Four tokens of a tile, whose steps and first decays there are, and leaves the next four's: an
  // exponential is asked for a token before it is needed.
  __device__ void group(int stage, int i, Group& dt, float (&decay)[kWide][kStates]) {
    Shared<T, kWide>& shared = block.shared;
    const bool more = i + kGroup < kTile;
    Group next = {}, dtx, y = {};
    if (more) load_steps(stage, i + kGroup, next);
#pragma unroll
    for (int k = 0; k < kWide; ++k) {
      load_four(&shared.dtx[stage].of[at.channel(k)][i], dtx[k]);
    }
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      float B[kStates], C[kStates];
      load_four(&shared.widened[stage].B[i + j][at.state(0)], B);
      load_four(&shared.widened[stage].C[i + j][at.state(0)], C);
#pragma unroll
      for (int n = 0; n < kStates; ++n) {
#pragma unroll
        for (int k = 0; k < kWide; ++k) {
          h[k][n] = fmaf(decay[k][n], h[k][n], dtx[k][j] * B[n]);
          y[k][j] = fmaf(C[n], h[k][n], y[k][j]);
          if (j + 1 < kGroup) decay[k][n] = exp2_fast(dt[k][(j + 1) % kGroup] * A2[k][n]);
          else if (more) decay[k][n] = exp2_fast(next[k][0] * A2[k][n]);
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kWide; ++k) {
#pragma unroll
      for (int j = 0; j < kGroup; ++j) dt[k][j] = next[k][j];
    }
#pragma unroll
    for (int k = 0; k < kWide; ++k) {
      shared.y[stage].of[at.channel(k)][i + at.g] = sum_lanes<kLanes>(y[k], at.lane);
    }
  }

  __device__ void run() {
    const Forward<T>& a = block.a;
    int64_t checkpoint = checkpoint_begin(block.chunk.first, block.chunk.s) +
                         (block.chunk.begin - block.chunk.first) / kTile;
    meet();  // where helpers wait for what each has fetched
    meet();
    for (int tile = 0; tile < block.tiles; ++tile) {
      if (a.checkpoints != nullptr) {
        store_wide(a.in, at, a.checkpoints, checkpoint++, block.channel, h);
      }
      Group dt;
      float decay[kWide][kStates];
      load_steps(tile % 2, 0, dt);
#pragma unroll
      for (int k = 0; k < kWide; ++k) {
#pragma unroll
        for (int n = 0; n < kStates; ++n) decay[k][n] = exp2_fast(dt[k][0] * A2[k][n]);
      }
#pragma unroll
      for (int i = 0; i < kTile; i += kGroup) group(tile % 2, i, dt, decay);
      meet();
    }
    meet();
  }
};

template <class T, int kWide>
__global__ void __launch_bounds__(kBlock, 2)
    wide_forward_kernel(const __grid_constant__ Forward<T> a) {
  extern __shared__ float4 memory[];
  const Place place(a.in.d_inner, kWide * kAcross);
  const Chunk chunk(a.in, place.row);
  if (!chunk.exists()) return;
  const Block<T, kWide> block(a, chunk, place.block, *reinterpret_cast<Shared<T, kWide>*>(memory));
  if (is_helper()) {
    if (block.tiles > 0) Help<T, kWide>(block).run();
  } else {
    Walk<T, kWide> walk(block);
    walk.start();
    if (block.tiles > 0) walk.run();
    if (chunk.is_last()) walk.end();
  }
}

}  // namespace

template <class T>
bool forward_wide(Device& device, const ScanInputs& in, const Forward<T>& a) {
  const int64_t rows = chunk_rows(in, a.in.chunk);
  return with_width(in, a.in.chunk, [&]<int kWide>(std::integral_constant<int, kWide>) {
    const auto kernel = wide_forward_kernel<T, kWide>;
    constexpr int kBytes = sizeof(Shared<T, kWide>);
    static_assert(kBytes <= 227 * 1024);
    if (!grant(kernel, kBytes, name_of(ScanForward::kOp))) return false;
    launch(device, name_of(ScanForward::kOp), kernel,
           grid_of(rows * divide_up(a.in.d_inner, kWide * kAcross)), kBlock, kBytes, a);
    return true;
  });
}

template bool forward_wide(Device&, const ScanInputs&, const Forward<float>&);
template bool forward_wide(Device&, const ScanInputs&, const Forward<__half>&);
template bool forward_wide(Device&, const ScanInputs&, const Forward<__nv_bfloat16>&);

}  // namespace elapse::cuda::scan
