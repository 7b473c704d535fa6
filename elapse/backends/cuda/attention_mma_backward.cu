// SPDX-License-Identifier: Apache-2.0
// As in float32 (attention_backward.cu): blocks of 64 queries take the tiles of keys that they see
// and sum dq; blocks of 64 keys those of queries, of every head that shares them, and sum dk and
// dv, with rows and columns of the scores exchanged. p and the scores' gradients are rounded to
// bf16 for their products. Floor: 14 head_dim operations a pair and head (10, were sums passed
// between blocks) at 700 TFLOP/s, of which mma.sync reaches some 60 %.
#include "elapse/backends/cuda/attention_mma.cuh"
#include "elapse/backends/cuda/attention_mma.h"
#include "elapse/backends/cuda/kernels.h"

namespace elapse::cuda::mma {
namespace {

constexpr int kRowsOfBlock = 16 * kWarps;  // queries, or keys
using Narrow = Sizes<64, 32>;
using Wide = Sizes<128, 32>;
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
  constexpr int kKeys = S::kRows;
  __shared__ __align__(16) typename S::Tile k_tiles[2], v_tiles[2];
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

  const auto keys_of = [&](const KeyTile<kKeys>& tile) {
    return rows_from(tile.begin, tile.count, kKeys);
  };
  const auto start_copies = [&](const KeyTile<kKeys>& tile, int stage) {
    with_rows(in.runs[tile.run], tile.begin, keys_of(tile), column, head_dim,
              [&](const auto& k_rows, const auto& v_rows) {
                copy_rows<S>(k_tiles[stage], k_rows);
                copy_rows<S>(v_tiles[stage], v_rows);
              });
    __pipeline_commit();
  };
  KeyTile<kKeys> tile = {seq.first_run};
  bool more = tile.advance(in, seq, at, queries);
  if (more) start_copies(tile, 0);
  for (int stage = 0; more; stage ^= 1) {
    const KeyTile<kKeys> here = tile;
    wait_for_copies();
    more = tile.advance(in, seq, at, queries);
    if (more) start_copies(tile, stage ^ 1);
    const Sight sight(in, at + first_row, 16, here.first + here.begin, keys_of(here));
    if (sight.none) continue;
    const bool all = sight.all && sight.keys == kKeys;
    typename S::Scores score[1] = {}, dscore[1] = {};
    multiply_rows<S>(score, q, k_tiles[stage]);
    multiply_rows<S>(dscore, dz, v_tiles[stage]);
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = own_row() + i / 2 * 8, key = 8 * n + own_column() + i % 2;
        differentiate(score[0][n][i], dscore[0][n][i], all || sight.at(row, key), lse[i / 2],
                      mean[i / 2], a.scale);
      }
    }
    add_weighted<S>(dq, dscore, k_tiles[stage]);
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
  int64_t head, end_head, begin, first, end;  // of those that may see them

  __device__ QueryTile(const AttentionView& in, const SequencePlace& seq, int64_t head,
                       int64_t end_head, int64_t key, int keys)
      : head(head), end_head(end_head) {
    const int64_t least = key - seq.past;
    first = least > 0 ? least / kQueries * kQueries : 0;
    end = in.pattern.window == 0 ? seq.length : least + keys - 1 + in.pattern.window;
    if (end > seq.length) end = seq.length;
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
  constexpr int kQueries = S::kRows;
  __shared__ __align__(16) typename S::Tile q_tiles[2], dz_tiles[2];
  __shared__ float lse[2][kQueries], mean[2][kQueries];
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

  const auto start_copies = [&](const QueryTile<kQueries>& tile, int stage) {
    const int queries = rows_from(tile.begin, seq.length, kQueries);
    const int64_t token = seq.token + tile.begin, head_column = tile.head * in.head_dim;
    copy_rows<S>(q_tiles[stage],
                 HeadRows<bf16>{a.q.row(token) + head_column, a.q.stride, queries, head_dim});
    copy_rows<S>(dz_tiles[stage],
                 HeadRows<bf16>{a.dz.row(token) + head_column, a.dz.stride, queries, head_dim});
    __pipeline_commit();
    if (const int row = static_cast<int>(threadIdx.x); row < kQueries) {
      const int64_t i = (token + row) * in.n_heads + tile.head;
      lse[stage][row] = row < queries ? a.lse[i] * kLog2e : INFINITY;  // p = 0
      mean[stage][row] = row < queries ? a.mean[i] : 0.0f;
    }
  };
  QueryTile<kQueries> tile(in, seq, kv_head * group, (kv_head + 1) * group, key, keys);
  if (tile.is_there()) start_copies(tile, 0);
  for (int stage = 0; tile.is_there(); stage ^= 1) {
    const int64_t begin = tile.begin;
    wait_for_copies();
    tile.advance();
    if (tile.is_there()) start_copies(tile, stage ^ 1);
    const Sight sight(in, seq.past + begin, kQueries, key + first_row, 16);
    if (sight.none) continue;
    const bool all = sight.all && first_row + 16 <= keys;
    typename S::Scores p[1] = {}, dscore[1] = {};
    multiply_rows<S>(p, k, q_tiles[stage]);
    multiply_rows<S>(dscore, v, dz_tiles[stage]);
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = own_row() + i / 2 * 8, query = 8 * n + own_column() + i % 2;
        const bool seen = all || (first_row + row < keys && sight.at(query, row));
        differentiate(p[0][n][i], dscore[0][n][i], seen, lse[stage][query], mean[stage][query],
                      a.scale);
      }
    }
    add_weighted<S>(dv, p, dz_tiles[stage]);
    add_weighted<S>(dk, dscore, q_tiles[stage]);
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

}  // namespace

void backward(Device& device, const AttentionBackward& a) {
  const AttentionPlaces places = attention_places(device, a.in, &a, kRowsOfBlock, kRowsOfBlock);
  const Tensor mean = attention_means<bf16>(device, a);
  Backward args = {
      places.view,        Rows<const bf16>(a.in.q), Rows<const bf16>(a.dz),    a.lse.data<float>(),
      mean.data<float>(), Rows<bf16>(a.dq),         places.view.scale * kLog2e};
  const bool narrow = a.in.head_dim() <= Narrow::kDim;
  launch(device, name_of(a.kOp), narrow ? queries_kernel<Narrow> : queries_kernel<Wide>,
         grid_of(places.query_tiles, a.in.n_heads), kThreads, 0, args);
  args.in.tiles = places.view.tiles + places.query_tiles;
  launch(device, name_of(a.kOp), narrow ? keys_kernel<Narrow> : keys_kernel<Wide>,
         grid_of(places.key_tiles, a.in.n_kv_heads), kThreads, 0, args);
}

}  // namespace elapse::cuda::mma
