// SPDX-License-Identifier: Apache-2.0
// As in float32 (attention_backward.cu): blocks of 64 queries take the tiles of keys that they see
// and sum dq; blocks of 64 keys those of queries, of every head that shares them, and sum dk and
// dv, with rows and columns of the scores exchanged. p and the scores' gradients are rounded to
// bf16 for their products. Floor: 14 head_dim operations a pair and head (10, were sums passed
// between blocks) at 700 TFLOP/s, of which mma.sync reaches some 60 %.
#include "elapse/backends/cuda/attention_mma.cuh"
#include "elapse/backends/cuda/attention_mma.h"
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/shared_memory.cuh"

namespace elapse::cuda::mma {
namespace {

constexpr int kRowsOfBlock = 16 * kWarps;  // queries, or keys
// Two tiles of keys, or of queries, come at a time.
template <int kDim, int kRows>
struct BackwardSizes : Sizes<kDim, kRows> {
  static constexpr int kTiles = 2;
  struct Keys {
    typename Sizes<kDim, kRows>::Tile k[kTiles], v[kTiles];
  };
  struct Queries {
    typename Sizes<kDim, kRows>::Tile q[kTiles], dz[kTiles];
    float lse[kTiles][kRows], mean[kTiles][kRows];
  };
};
using Narrow = BackwardSizes<64, 32>;
using Wide = BackwardSizes<128, 32>;
template <class S>
constexpr int kBlocks = S::kDim == 64 ? 3 : 2;  // a multiprocessor: registers are what decides

struct Backward {
  AttentionView in;
  Rows<const bf16> q, dz;
  const float* lse;   // (tokens, n_heads)
  const float* mean;  // (tokens, n_heads): dz . z
  Rows<bf16> dq;
  float scale;  // of scores, which are powers of two
};

__device__ int rows_from(int64_t begin, int64_t end, int most) {
  return static_cast<int>(end - begin < most ? end - begin : most);
}

// A weight p and the gradient of its score, but for the scale: of products q . k and dz . v, which
// they replace.
__device__ void differentiate(float& product, float& dp, bool seen, float lse, float mean,
                              float scale) {
  const float p = seen ? exp2_fast(fmaf(product, scale, -lse)) : 0.0f;
  product = p;
  dp = p * (dp - mean);
}

template <class S>
__global__ void __launch_bounds__(kThreads, kBlocks<S>)
    queries_kernel(const __grid_constant__ Backward a) {
  constexpr int kKeys = S::kRows, kTiles = S::kTiles;
  extern __shared__ uint4 memory[];
  auto* const stages = reinterpret_cast<typename S::Keys*>(memory);
  const AttentionView& in = a.in;
  const TilePlace place = in.tiles[gridDim.x - 1 - blockIdx.x];
  const SequencePlace seq = in.sequences[place.sequence];
  const int64_t head = blockIdx.y, column = in.kv_head_of(head) * in.head_dim;
  const int head_dim = static_cast<int>(in.head_dim), first_row = warp() * 16;
  const int queries = rows_from(place.begin, seq.length, kRowsOfBlock);
  const int64_t token = seq.token + place.begin, at = seq.past + place.begin;
  typename S::Factor q[1], dz[1];
  read_factor<S>(q[0],
                 HeadRows<bf16>{a.q.row(token) + head * head_dim, a.q.stride, queries, head_dim},
                 first_row);
  read_factor<S>(dz[0],
                 HeadRows<bf16>{a.dz.row(token) + head * head_dim, a.dz.stride, queries, head_dim},
                 first_row);
  float lse[2], mean[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + own_row() + 8 * half;
    const int64_t i = (token + row) * in.n_heads + head;
    lse[half] = row < queries ? a.lse[i] * kLog2e : INFINITY;  // p = 0
    mean[half] = row < queries ? a.mean[i] : 0.0f;
  }
  typename S::Sums dq[1] = {};

  const auto start_copies = [&](const KeyTile<kTiles * kKeys>& tiles, typename S::Keys& stage) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const int64_t begin = tiles.begin + j * kKeys;
      with_rows(in.runs[tiles.run], begin, rows_from(begin, tiles.count, kKeys), column, head_dim,
                [&](const auto& k_rows, const auto& v_rows) {
                  copy_rows<S>(stage.k[j], k_rows);
                  copy_rows<S>(stage.v[j], v_rows);
                });
    }
    __pipeline_commit();
  };
  KeyTile<kTiles* kKeys> tiles = {seq.first_run};
  bool more = tiles.advance(in, seq, at, queries);
  if (more) start_copies(tiles, stages[0]);
  for (int at_stage = 0; more; at_stage ^= 1) {
    const KeyTile<kTiles* kKeys> here = tiles;
    wait_for_copies();
    more = tiles.advance(in, seq, at, queries);
    if (more) start_copies(tiles, stages[at_stage ^ 1]);
#pragma unroll 1
    for (int j = 0; j < kTiles; ++j) {
      const int64_t begin = here.begin + j * kKeys;
      const int keys = rows_from(begin, here.count, kKeys);
      const Sight sight(in, at + first_row, 16, here.first + begin, keys);
      if (keys <= 0 || sight.none) continue;
      const bool all = sight.all && keys == kKeys;
      const typename S::Keys& stage = stages[at_stage];
      typename S::Scores score[1] = {}, dscore[1] = {};
      multiply_rows<S>(score, q, stage.k[j]);
      multiply_rows<S>(dscore, dz, stage.v[j]);
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = own_row() + i / 2 * 8, key = 8 * n + own_column() + i % 2;
          differentiate(score[0][n][i], dscore[0][n][i], all || sight.at(row, key), lse[i / 2],
                        mean[i / 2], a.scale);
        }
      }
      add_weighted<S>(dq, dscore, stage.k[j]);
    }
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + own_row() + 8 * half;
    if (row >= queries) continue;
#pragma unroll
    for (int n = 0; n < S::kDim / 8; ++n) {
      const int c = 8 * n + own_column();
      if (c >= head_dim) continue;
      store_pair(a.dq.row(token + row) + head * head_dim + c,
                 {dq[0][n][2 * half] * in.scale, dq[0][n][2 * half + 1] * in.scale});
    }
  }
}

// Tiles of queries that see some of a block's keys, head after head.
template <int kQueries>
struct QueryTile {
  int head, end_head, begin, first, end;  // of those that may see them

  __device__ QueryTile(const AttentionView& in, const SequencePlace& seq, int64_t head,
                       int64_t end_head, int64_t key, int keys)
      : head(static_cast<int>(head)), end_head(static_cast<int>(end_head)) {
    const int64_t least = key - seq.past, window = in.pattern.window;
    first = static_cast<int>(least > 0 ? least / kQueries * kQueries : 0);
    const bool all = window == 0 || window > seq.length - least - keys;
    end = static_cast<int>(all ? seq.length : least + keys - 1 + window);
    begin = first;
    if (first >= end) this->head = end_head;
  }
  __device__ bool is_there() const { return head < end_head; }
  __device__ void advance() {
    begin += kQueries;
    if (begin >= end) begin = first, ++head;
  }
};

// Adds a thread's two neighbours of a gradient to where a run's stand.
__device__ void give(const KeyRun& run, void* gradient, int64_t offset, float2 sum) {
  if (run.own) return store_pair(static_cast<bf16*>(gradient) + offset, sum);
  float* const into = static_cast<float*>(gradient) + offset;
  store_pair(into, {into[0] + sum.x, into[1] + sum.y});
}

template <class S>
__global__ void __launch_bounds__(kThreads, kBlocks<S>)
    keys_kernel(const __grid_constant__ Backward a) {
  constexpr int kQueries = S::kRows, kTiles = S::kTiles;
  extern __shared__ uint4 memory[];
  auto* const stages = reinterpret_cast<typename S::Queries*>(memory);
  const AttentionView& in = a.in;
  const TilePlace place = in.tiles[blockIdx.x];
  const SequencePlace seq = in.sequences[place.sequence];
  const KeyRun run = in.runs[place.run];
  const int64_t kv_head = blockIdx.y, group = in.n_heads / in.n_kv_heads;
  const int64_t column = kv_head * in.head_dim;
  const int head_dim = static_cast<int>(in.head_dim), first_row = warp() * 16;
  const int keys = rows_from(place.begin, run.count, kRowsOfBlock);
  const int64_t key = run.first + place.begin;
  typename S::Factor k[1], v[1];
  with_rows(run, place.begin, keys, column, head_dim, [&](const auto& k_rows, const auto& v_rows) {
    read_factor<S>(k[0], k_rows, first_row);
    read_factor<S>(v[0], v_rows, first_row);
  });
  typename S::Sums dk[1] = {}, dv[1] = {};

  // Of a query that is not there all is zero, and what it adds.
  const auto start_copies = [&](const QueryTile<kTiles * kQueries>& tiles,
                                typename S::Queries& stage) {
    const int64_t head_column = tiles.head * in.head_dim;
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const int64_t begin = tiles.begin + j * kQueries, token = seq.token + begin;
      const int queries = rows_from(begin, seq.length, kQueries);
      copy_rows<S>(stage.q[j],
                   HeadRows<bf16>{a.q.row(token) + head_column, a.q.stride, queries, head_dim});
      copy_rows<S>(stage.dz[j],
                   HeadRows<bf16>{a.dz.row(token) + head_column, a.dz.stride, queries, head_dim});
      if (const int row = static_cast<int>(threadIdx.x) - j * kQueries;
          row >= 0 && row < kQueries) {
        const int64_t i = (token + row) * in.n_heads + tiles.head;
        const size_t absent = row < queries ? 0 : sizeof(float);
        __pipeline_memcpy_async(&stage.lse[j][row], a.lse + i, sizeof(float), absent);
        __pipeline_memcpy_async(&stage.mean[j][row], a.mean + i, sizeof(float), absent);
      }
    }
    __pipeline_commit();
  };
  QueryTile<kTiles * kQueries> tiles(in, seq, kv_head * group, (kv_head + 1) * group, key, keys);
  if (tiles.is_there()) start_copies(tiles, stages[0]);
  for (int at_stage = 0; tiles.is_there(); at_stage ^= 1) {
    const int64_t here = tiles.begin;
    wait_for_copies();
    tiles.advance();
    if (tiles.is_there()) start_copies(tiles, stages[at_stage ^ 1]);
#pragma unroll 1
    for (int j = 0; j < kTiles; ++j) {
      const Sight sight(in, seq.past + here + j * kQueries, kQueries, key + first_row, 16);
      if (sight.none) continue;
      const bool all = sight.all && first_row + 16 <= keys;
      const typename S::Queries& stage = stages[at_stage];
      typename S::Scores p[1] = {}, dscore[1] = {};
      multiply_rows<S>(p, k, stage.q[j]);
      multiply_rows<S>(dscore, v, stage.dz[j]);
#pragma unroll
      for (int n = 0; n < kQueries / 8; ++n) {
        const int query = 8 * n + own_column();
        const float lse[2] = {stage.lse[j][query] * kLog2e, stage.lse[j][query + 1] * kLog2e};
        const float mean[2] = {stage.mean[j][query], stage.mean[j][query + 1]};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = own_row() + i / 2 * 8;
          const bool seen = all || (first_row + row < keys && sight.at(query + i % 2, row));
          differentiate(p[0][n][i], dscore[0][n][i], seen, lse[i % 2], mean[i % 2], a.scale);
        }
      }
      add_weighted<S>(dv, p, stage.dz[j]);
      add_weighted<S>(dk, dscore, stage.q[j]);
    }
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + own_row() + 8 * half;
    if (row >= keys) continue;
    const int64_t position = place.begin + row;
#pragma unroll
    for (int n = 0; n < S::kDim / 8; ++n) {
      const int c = 8 * n + own_column();
      if (c >= head_dim) continue;
      give(run, run.dk, position * run.dk_stride + column + c,
           {dk[0][n][2 * half] * in.scale, dk[0][n][2 * half + 1] * in.scale});
      give(run, run.dv, position * run.dv_stride + column + c,
           {dv[0][n][2 * half], dv[0][n][2 * half + 1]});
    }
  }
}

template <class S>
void backward(Device& device, const AttentionBackward& a, const AttentionPlaces& places,
              Backward args) {
  launch_granted(device, name_of(a.kOp), queries_kernel<S>,
                 grid_of(places.query_tiles, a.in.n_heads), kThreads, 2 * sizeof(typename S::Keys),
                 args);
  args.in.tiles = places.view.tiles + places.query_tiles;
  launch_granted(device, name_of(a.kOp), keys_kernel<S>, grid_of(places.key_tiles, a.in.n_kv_heads),
                 kThreads, 2 * sizeof(typename S::Queries), args);
}

}  // namespace

void backward(Device& device, const AttentionBackward& a) {
  const AttentionPlaces places = attention_places(device, a.in, &a, kRowsOfBlock, kRowsOfBlock);
  const Tensor mean = attention_means<bf16>(device, a);
  const Backward args = {
      places.view,        Rows<const bf16>(a.in.q), Rows<const bf16>(a.dz),    a.lse.data<float>(),
      mean.data<float>(), Rows<bf16>(a.dq),         places.view.scale * kLog2e};
  if (a.in.head_dim() <= Narrow::kDim) backward<Narrow>(device, a, places, args);
  else backward<Wide>(device, a, places, args);
}

}  // namespace elapse::cuda::mma
