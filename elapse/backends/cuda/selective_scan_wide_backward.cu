// SPDX-License-Identifier: Apache-2.0
// The selective scan backward, of up to 16 states and without taps; selective_scan_wide.cuh says
// how work is laid out, selective_scan_backward.cu what is done and what bounds it. Walkers take
// the 16 tokens between two checkpoints at a time, the last first; helpers
//   while those walk the states again: give on the gradients of the tile after this one;
//   while those walk back: prepare the tile before, have the one before that copied, and walk half
//   of the states again that will be needed next.
// 24 channels of a token take 340 issued instructions of a quarter multiprocessor.
#include "elapse/backends/cuda/selective_scan_backward.cuh"
#include "elapse/backends/cuda/selective_scan_wide.cuh"

namespace elapse::cuda::scan {
namespace {

using namespace wide;

constexpr int kHalf = kTile / 2;
constexpr float kLn2 = 0.693147180559945309417f;

template <class T, int kWide>
struct Shared {
  Tiles<T, 4, kWide> own[3];  // x, dt_raw, z, dout
  Stage<T, kWideStates, kTile> factors[2];
  Widened widened[2];
  Numbers<kWide> dt[2], dtx[2], dy[2];
  Numbers<kWide> y, to_x,
      to_dt;  // sums over a channel's states: C h; B times the gradient of h; ...
  // States before every second token of half a tile: the first halves of two tiles, or of one, and
  // the second. Where helpers walk a first half, they leave the states after it.
  static constexpr bool kShares = kWide * sizeof(T) <= 8;  // there is room for that
  float4 saved[kShares ? 3 : 2][kHalf / 2][kWide][kThreads];
  float4 middle[kShares ? kWide : 1][kThreads];
  // What walkers' lanes give to C and to B of a group; rows apart in the banks.
  alignas(16) float given[kWarps][2][kGroup][32 * kStates + 16];
  alignas(16) float sums[kWarps][2][kTile][kWideStates];  // the same, of a walker
};

template <class T, int kWide>
struct Block {
  const Backward<T>& a;
  const Chunk& chunk;
  Shared<T, kWide>& shared;
  int64_t index, channel;  // of the blocks across, and the block's first
  int64_t checkpoint;      // the chunk's first
  int channels;            // the block's
  int last, tiles;         // token of the chunk

  __device__ Block(const Backward<T>& args, const Chunk& c, int64_t number,
                   Shared<T, kWide>& memory)
      : a(args),
        chunk(c),
        shared(memory),
        index(number),
        channel(number * kWide * kAcross),
        checkpoint(checkpoint_begin(c.first, c.s) + (c.begin - c.first) / kTile),
        channels(static_cast<int>(min(args.in.d_inner - channel, int64_t{kWide * kAcross}))),
        last(static_cast<int>(max(c.end - c.begin, int64_t{0})) - 1),
        tiles((last + kTile) / kTile) {}
};

// A lane's states.
template <int kWide>
using LaneStates = float[kWide][kStates];

// Calls body(k, n) for them, those that wait for each other apart.
template <int kWide, class Body>
__device__ void for_each_state(const Body& body) {
#pragma unroll
  for (int n = 0; n < kStates; ++n) {
#pragma unroll
    for (int k = 0; k < kWide; ++k) body(k, n);
  }
}

// The state after a token.
__device__ float advance(float decay, float h, float dtx, float B) {
  return fmaf(decay, h, dtx * B);
}

// Half a tile on from the states before it, h; an exponential is asked for a token before it is
// needed. Keeps them in `saved`.
template <class T, int kWide>
__device__ void states_again(const Shared<T, kWide>& shared, const Walker& at, int thread,
                             const LaneStates<kWide>& A2, int stage, int first,
                             LaneStates<kWide>& h, float4 (&saved)[kHalf / 2][kWide][kThreads]) {
  float dt[kWide][kHalf], dtx[kWide][kHalf];
#pragma unroll
  for (int k = 0; k < kWide; ++k) {
    const float* from = &shared.dt[stage].of[at.channel(k)][first];
    const float* from_x = &shared.dtx[stage].of[at.channel(k)][first];
#pragma unroll
    for (int i = 0; i < kHalf; i += kGroup) {
      load_four(from + i, *reinterpret_cast<float(*)[kGroup]>(&dt[k][i]));
      load_four(from_x + i, *reinterpret_cast<float(*)[kGroup]>(&dtx[k][i]));
    }
  }
  LaneStates<kWide> decay;
  for_each_state<kWide>([&](int k, int n) { decay[k][n] = exp2_fast(dt[k][0] * A2[k][n]); });
#pragma unroll
  for (int j = 0; j < kHalf; ++j) {
    float B[kStates];
    load_four(&shared.widened[stage].B[first + j][at.state(0)], B);
    if (j % 2 == 0) {
#pragma unroll
      for (int k = 0; k < kWide; ++k) store_four(&saved[j / 2][k][thread].x, h[k]);
    }
    for_each_state<kWide>([&](int k, int n) {
      h[k][n] = advance(decay[k][n], h[k][n], dtx[k][j], B[n]);
      if (j + 1 < kHalf) decay[k][n] = exp2_fast(dt[k][(j + 1) % kHalf] * A2[k][n]);
    });
  }
}

template <class T, int kWide>
struct Help {
  const Block<T, kWide>& block;
  const Helper at;
  const int thread = static_cast<int>(threadIdx.x);
  const Walker walker;
  LaneStates<kWide> A2;
  const Copy<T, kWide> x, dt_raw, z, dout;
  float bias[kWide], skip[kWide], dD[kWide] = {}, dbias[kWide] = {};
  Column<T> dx, ddt_raw, dz;

  __device__ explicit Help(const Block<T, kWide>& b)
      : block(b),
        walker(thread),
        x(b.a.in.x, b.a.in, b.chunk.begin, b.channel),
        dt_raw(b.a.in.dt_raw, b.a.in, b.chunk.begin, b.channel),
        z(b.a.in.z, b.a.in, b.chunk.begin, b.channel),
        dout(b.a.dout, b.a.in, b.chunk.begin, b.channel),
        dx(b.a.dx, b.chunk.begin, b.channel + at.lane),
        ddt_raw(b.a.ddt_raw, b.chunk.begin, b.channel + at.lane),
        dz(b.a.dz, b.chunk.begin, b.channel + at.lane) {
    load_wide_A(b.a.in, walker, b.channel, A2);
#pragma unroll
    for (int k = 0; k < kWide; ++k) {
      const int64_t e = min(b.channel + at.channel(k), b.a.in.d_inner - 1);
      bias[k] = b.a.in.dt_bias[e];
      skip[k] = b.a.in.D[e];
    }
  }

  __device__ void fetch(int tile) const {
    const Inputs<T>& in = block.a.in;
    auto& own = block.shared.own[tile % 3];
    const int64_t begin = block.chunk.begin;
    const int first = tile * kTile;
    if (in.runs) {
      x.fetch(own, 0, first, block.last);
      dt_raw.fetch(own, 1, first, block.last);
      z.fetch(own, 2, first, block.last);
      dout.fetch(own, 3, first, block.last);
    } else {
      own.fetch(0, in.x, in, block.channel, begin, first, block.last);
      own.fetch(1, in.dt_raw, in, block.channel, begin, first, block.last);
      own.fetch(2, in.z, in, block.channel, begin, first, block.last);
      own.fetch(3, block.a.dout, in, block.channel, begin, first, block.last);
    }
    block.shared.factors[tile % 2].fetch(in, begin, first, block.last);
  }

  __device__ bool is_real(int tile, int k, int j) const {
    return tile * kTile + at.place + j <= block.last && at.channel(k) < block.channels;
  }

  // Tokens that are not there take steps of 0, softplus of what is chosen here, and have no
  // gradient; without branches, so that the chains of all tokens run side by side.
  __device__ void prepare(int tile) {
    const auto& own = block.shared.own[tile % 3].of;
    Mine<kWide> dt, dtx, dy, z, gate;
    at.for_each<kWide>([&](int k, int j, int place, int c) {
      dt[k][j] = static_cast<float>(own[1][place][c]) + bias[k];
      dtx[k][j] = static_cast<float>(own[0][place][c]);
      gate[k][j] = z[k][j] = static_cast<float>(own[2][place][c]);
      dy[k][j] = static_cast<float>(own[3][place][c]);
    });
    for_each_of_mine<kWide>([&](int k, int j) {
      if (is_real(tile, k, j)) return;
      dt[k][j] = -INFINITY;
      dtx[k][j] = gate[k][j] = z[k][j] = dy[k][j] = 0;
    });
    softplus_all<kWide>(dt);
    sigmoid_all<kWide>(gate);
    at.for_each<kWide>([&](int k, int j, int, int) {
      dy[k][j] *= z[k][j] * gate[k][j];
      dD[k] = fmaf(dy[k][j], dtx[k][j], dD[k]);
      dtx[k][j] *= dt[k][j];
    });
#pragma unroll
    for (int k = 0; k < kWide; ++k) {
      const int c = at.channel(k);
      store_four(&block.shared.dt[tile % 2].of[c][at.place], dt[k]);
      store_four(&block.shared.dtx[tile % 2].of[c][at.place], dtx[k]);
      store_four(&block.shared.dy[tile % 2].of[c][at.place], dy[k]);
    }
    widen(block.shared.factors[tile % 2], block.shared.widened[tile % 2]);
  }

  __device__ void finish(int tile) {
    const Shared<T, kWide>& shared = block.shared;
    const auto& own = shared.own[tile % 3].of;
    Mine<kWide> y, to_x, to_dt, z, s, slope;
#pragma unroll
    for (int k = 0; k < kWide; ++k) {
      load_four(&shared.y.of[at.channel(k)][at.place], y[k]);
      load_four(&shared.to_x.of[at.channel(k)][at.place], to_x[k]);
      load_four(&shared.to_dt.of[at.channel(k)][at.place], to_dt[k]);
    }
    at.for_each<kWide>([&](int k, int j, int place, int c) {
      const float dt = shared.dt[tile % 2].of[c][place], dy = shared.dy[tile % 2].of[c][place];
      const float x = static_cast<float>(own[0][place][c]);
      s[k][j] = z[k][j] = static_cast<float>(own[2][place][c]);
      slope[k][j] = static_cast<float>(own[1][place][c]) + bias[k];
      to_dt[k][j] = fmaf(to_x[k][j], x, to_dt[k][j] * kLn2);
      to_x[k][j] = fmaf(dy, skip[k], to_x[k][j] * dt);
      y[k][j] = static_cast<float>(own[3][place][c]) * fmaf(skip[k], x, y[k][j]);
    });
    sigmoid_all<kWide>(slope);
    sigmoid_all<kWide>(s);
    at.for_each<kWide>([&](int k, int j, int, int) {
      to_dt[k][j] *= slope[k][j];
      y[k][j] *= s[k][j] * (1.0f + z[k][j] * (1.0f - s[k][j]));
    });
    at.for_each<kWide>([&](int k, int j, int place, int) {
      if (!is_real(tile, k, j)) return;
      const int t = tile * kTile + place;
      dbias[k] += to_dt[k][j];
      (&dx[t])[k * 32] = static_cast<T>(to_x[k][j]);
      (&ddt_raw[t])[k * 32] = static_cast<T>(to_dt[k][j]);
      (&dz[t])[k * 32] = static_cast<T>(y[k][j]);
    });
    give(tile);
  }

  // To C and B of a tile, from all of the block's channels: into their place among the blocks'.
  __device__ void give(int tile) const {
    const int four = thread % 4 * 4, place = thread / 4 % kTile, which = thread / 64;
    float sum[4] = {};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      float v[4];
      load_four(&block.shared.sums[w][which][place][four], v);
#pragma unroll
      for (int n = 0; n < 4; ++n) sum[n] += v[n];
    }
    const int t = tile * kTile + place;
    if (t > block.last) return;
    store_four(
        block.a.dBC +
            ((block.index * block.a.tokens + block.chunk.begin + t) * 2 + which) * kWideStates +
            four,
        sum);
  }

  // The states of a tile's first half again, as far as there is room for them.
  __device__ void walk_again(int tile, LaneStates<kWide>& h) {
    Shared<T, kWide>& shared = block.shared;
    if constexpr (Shared<T, kWide>::kShares) {
      meet_helpers();
      states_again(shared, walker, thread, A2, tile % 2, 0, h, shared.saved[tile % 2]);
#pragma unroll
      for (int k = 0; k < kWide; ++k) store_four(&shared.middle[k][thread].x, h[k]);
    }
  }
  __device__ void load_checkpoint(int tile, LaneStates<kWide>& h) const {
    load_wide(block.a.in, walker, block.a.checkpoints, block.checkpoint + tile, block.channel, h);
  }

  __device__ void run() {
    LaneStates<kWide> h;
    load_checkpoint(block.tiles - 1, h);
    fetch(block.tiles - 1);
    if (block.tiles > 1) fetch(block.tiles - 2);
    __pipeline_wait_prior(0);
    meet_helpers();
    prepare(block.tiles - 1);
    walk_again(block.tiles - 1, h);
    meet();
    for (int tile = block.tiles - 1; tile >= 0; --tile) {
      if (tile + 1 < block.tiles) finish(tile + 1);
      __pipeline_wait_prior(0);
      meet();
      if (tile > 1) fetch(tile - 2);
      if (tile > 0) {
        load_checkpoint(tile - 1, h);
        prepare(tile - 1);
        walk_again(tile - 1, h);
      }
      meet();
    }
    finish(0);
  }

  // Sums of the four warps, one after the other.
  __device__ void end(int64_t part) const {
    auto &of_D = block.shared.dt[0].of, &of_bias = block.shared.dt[1].of;
    meet_helpers();
#pragma unroll
    for (int k = 0; k < kWide; ++k) {
      of_D[at.channel(k)][threadIdx.x / 32] = dD[k];
      of_bias[at.channel(k)][threadIdx.x / 32] = dbias[k];
    }
    meet_helpers();
    const int c = static_cast<int>(threadIdx.x);
    const int64_t e = block.channel + c, d_inner = block.a.in.d_inner;
    if (c >= kWide * kAcross || e >= d_inner) return;
    const auto sum = [&](const float* v) { return v[0] + v[1] + v[2] + v[3]; };
    block.a.dD[part * d_inner + e] = sum(of_D[c]);
    block.a.dbias[part * d_inner + e] = sum(of_bias[c]);
  }
};

template <class T, int kWide>
struct Walk {
  using States = LaneStates<kWide>;

  const Block<T, kWide>& block;
  const int thread = static_cast<int>(threadIdx.x) - kThreads;
  const Walker at;
  States A2, dh = {}, dA = {};

  __device__ explicit Walk(const Block<T, kWide>& b) : block(b), at(thread) {
    load_wide_A(b.a.in, at, b.channel, A2);
  }

  __device__ void load(const float* table, int64_t row, States& states) const {
    load_wide(block.a.in, at, table, row, block.channel, states);
  }
  __device__ void store(float* table, int64_t row, const States& states) const {
    store_wide(block.a.in, at, table, row, block.channel, states);
  }

  __device__ int walker() const { return thread / 32; }

  // What a lane's states of some tokens sum to, for each channel.
  struct Sums {
    float y[kWide][kGroup] = {}, to_x[kWide][kGroup] = {}, to_dt[kWide][kGroup] = {};
  };
  // What a token's channels give to B and to C.
  struct Given {
    float to_B[kStates] = {}, to_C[kStates] = {};
  };

  // Back over the k-th channel of one token.
  __device__ void state_back(int k, int j, int n, float dt, float dtx, float dy, float B, float C,
                             float decay, float before, float after, Sums& sums, Given& given) {
    const float d = fmaf(C, dy, dh[k][n]);
    sums.y[k][j] = fmaf(C, after, sums.y[k][j]);
    sums.to_x[k][j] = fmaf(B, d, sums.to_x[k][j]);
    given.to_C[n] = fmaf(dy, after, given.to_C[n]);
    given.to_B[n] = fmaf(dtx, d, given.to_B[n]);
    dh[k][n] = d * decay;
    const float dexponent = dh[k][n] * before;
    sums.to_dt[k][j] = fmaf(A2[k][n], dexponent, sums.to_dt[k][j]);
    dA[k][n] = fmaf(dexponent, dt, dA[k][n]);
  }

  // Back over four tokens, two at a time, from the states after them.
  __device__ void group_back(int stage, int i, States& h) {
    Shared<T, kWide>& shared = block.shared;
    auto& to_C = shared.given[walker()][0];
    auto& to_B = shared.given[walker()][1];
    Sums sums;
    const int half = i >= kHalf ? kLate : Shared<T, kWide>::kShares ? stage : 0;
#pragma unroll
    for (int j = kGroup - 2; j >= 0; j -= 2) {
      float B[2][kStates], C[2][kStates];
#pragma unroll
      for (int p = 0; p < 2; ++p) {
        load_four(&shared.widened[stage].B[i + j + p][at.state(0)], B[p]);
        load_four(&shared.widened[stage].C[i + j + p][at.state(0)], C[p]);
      }
      Given given[2];
#pragma unroll
      for (int k = 0; k < kWide; ++k) {
        const auto two = [&](const Numbers<kWide>& numbers) {
          return *reinterpret_cast<const float2*>(&numbers.of[at.channel(k)][i + j]);
        };
        const float2 dt = two(shared.dt[stage]), dtx = two(shared.dtx[stage]);
        const float2 dy = two(shared.dy[stage]);
        const float4 kept = shared.saved[half][(i + j) % kHalf / 2][k][thread];
        const float before[kStates] = {kept.x, kept.y, kept.z, kept.w};
#pragma unroll
        for (int n = 0; n < kStates; ++n) {
          const float decay = exp2_fast(dt.x * A2[k][n]);
          const float between = advance(decay, before[n], dtx.x, B[0][n]);
          state_back(k, j + 1, n, dt.y, dtx.y, dy.y, B[1][n], C[1][n], exp2_fast(dt.y * A2[k][n]),
                     between, h[k][n], sums, given[1]);
          state_back(k, j, n, dt.x, dtx.x, dy.x, B[0][n], C[0][n], decay, before[n], between, sums,
                     given[0]);
          h[k][n] = before[n];
        }
      }
#pragma unroll
      for (int p = 0; p < 2; ++p) {
        store_four(&to_C[j + p][at.lane * kStates], given[p].to_C);
        store_four(&to_B[j + p][at.lane * kStates], given[p].to_B);
      }
    }
    __syncwarp();
    sum_channels(i);
#pragma unroll
    for (int k = 0; k < kWide; ++k) {
      const int c = at.channel(k), place = i + at.g;
      shared.y.of[c][place] = sum_lanes<kLanes>(sums.y[k], at.lane);
      shared.to_x.of[c][place] = sum_lanes<kLanes>(sums.to_x[k], at.lane);
      shared.to_dt.of[c][place] = sum_lanes<kLanes>(sums.to_dt[k], at.lane);
    }
    __syncwarp();
  }

  // What the walker gives to C and B of four tokens: four states a lane.
  __device__ void sum_channels(int i) const {
    const int four = at.lane % 4 * 4, j = at.lane / 4 % kGroup, which = at.lane / 16;
    const float* given = &block.shared.given[walker()][which][j][four];
    float sum[4];
    load_four(given, sum);
#pragma unroll
    for (int c = 1; c < 32 / kLanes; ++c) {
      float v[4];
      load_four(given + c * kWideStates, v);
#pragma unroll
      for (int n = 0; n < 4; ++n) sum[n] += v[n];
    }
    store_four(&block.shared.sums[walker()][which][i + j][four], sum);
  }

  static constexpr bool kShares = Shared<T, kWide>::kShares;
  static constexpr int kLate = kShares ? 2 : 1;  // where the second half's states are

  __device__ void run() {
    Shared<T, kWide>& shared = block.shared;
    States h;
    if (!kShares) load(block.a.checkpoints, block.checkpoint + block.tiles - 1, h);
    meet();
    for (int tile = block.tiles - 1; tile >= 0; --tile) {
      const int stage = tile % 2;
      if constexpr (kShares) {
#pragma unroll
        for (int k = 0; k < kWide; ++k) load_four(&shared.middle[k][thread].x, h[k]);
      }
#pragma unroll 1
      for (int half = kShares ? 1 : 0; half < 2; ++half) {
        auto& saved = shared.saved[half == 0 ? 0 : kLate];
        states_again(shared, at, thread, A2, stage, half * kHalf, h, saved);
      }
      meet();
      States next = {};
      if (!kShares) load(block.a.checkpoints, block.checkpoint + max(tile - 1, 0), next);
#pragma unroll 1
      for (int i = kTile - kGroup; i >= 0; i -= kGroup) group_back(stage, i, h);
      for_each_state<kWide>([&](int k, int n) { h[k][n] = next[k][n]; });
      meet();
    }
  }
};

template <class T, int kWide>
__global__ void __launch_bounds__(kBlock, 1)
    wide_backward_kernel(const __grid_constant__ Backward<T> a) {
  extern __shared__ float4 memory[];
  const Place place(a.in.d_inner, kWide * kAcross);
  const int64_t row = place.row;
  const Chunk chunk(a.in, row);
  const Block<T, kWide> block(a, chunk, place.block, *reinterpret_cast<Shared<T, kWide>*>(memory));
  if (is_helper()) {
    Help<T, kWide> help(block);
    if (block.tiles > 0) help.run();
    help.end(row);
  } else {
    Walk<T, kWide> walk(block);
    if (block.tiles > 0) {
      walk.load(a.carries, row, walk.dh);
      walk.run();
      if (chunk.is_first() && a.dstart != nullptr) walk.store(a.dstart, chunk.s, walk.dh);
    }
    walk.store(a.dA, row, walk.dA);
  }
}

}  // namespace

template <class T>
bool backward_wide(Device& device, const ScanBackward& args, Backward<T> a, int64_t rows) {
  return with_width(args.in, a.in.chunk, [&]<int kWide>(std::integral_constant<int, kWide>) {
    const int64_t blocks = divide_up(a.in.d_inner, kWide * kAcross);
    const auto kernel = wide_backward_kernel<T, kWide>;
    constexpr int kBytes = sizeof(Shared<T, kWide>);
    static_assert(kBytes <= 227 * 1024);
    if (!grant(kernel, kBytes, name_of(args.kOp))) return false;
    const Shape shape = {blocks, a.tokens, 2, int64_t{kWideStates}};
    const Tensor dBC = device.empty(DType::f32, shape);
    a.dBC = dBC.data<float>();
    launch(device, name_of(args.kOp), kernel, grid_of(rows * blocks), kBlock, kBytes, a);
    sum_blocks(device, args, dBC);
    return true;
  });
}

template bool backward_wide(Device&, const ScanBackward&, Backward<float>, int64_t);
template bool backward_wide(Device&, const ScanBackward&, Backward<__half>, int64_t);
template bool backward_wide(Device&, const ScanBackward&, Backward<__nv_bfloat16>, int64_t);

}  // namespace elapse::cuda::scan
