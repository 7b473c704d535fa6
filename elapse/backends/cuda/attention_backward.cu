// SPDX-License-Identifier: Apache-2.0
// Blocks of 64 queries take the keys that they see and sum dq; blocks of 64 keys the queries, of
// every head that shares them, and sum dk and dv. Scores are made again in both:
//   p = exp(score - lse);  dv += p dz;  dscore = p (dz . v - dz . z);  dq and dk from the score
// Bound: 7 head_dim multiplications a pair of a query and a key, in float32, where 5 would do if
// sums were passed between blocks.
#include "elapse/backends/cuda/attention.cuh"
#include "elapse/backends/cuda/attention_mma.h"
#include "elapse/backends/cuda/kernels.h"

namespace elapse::cuda {
namespace {

struct Backward {
  AttentionView in;
  Rows<const float> q, dz;
  const float* lse;   // (tokens, n_heads)
  const float* mean;  // (tokens, n_heads): dz . z
  Rows<float> dq;
};

// Of a pair: p and the score's gradient, of the product q . k. Both 0 where it is not seen.
struct Pair {
  float p, dscore;
};
__device__ Pair pair_of(const Backward& a, bool seen, float product, float dp, int64_t row) {
  if (!seen) return {0, 0};
  const float p = expf(product * a.in.scale - a.lse[row]);
  return {p, a.in.scale * p * (dp - a.mean[row])};
}

template <int kGroups>
__global__ void __launch_bounds__(kTileThreads) queries_kernel(const __grid_constant__ Backward a) {
  __shared__ TileMemory memory;
  const AttentionView& in = a.in;
  const TilePlace tile = in.tiles[blockIdx.x];
  const SequencePlace seq = in.sequences[tile.sequence];
  const int64_t head = blockIdx.y, column = int64_t{blockIdx.z} * kTile * kGroups;
  const int64_t head_column = head * in.head_dim;
  const int64_t kv_column = in.kv_head_of(head) * in.head_dim;
  const int queries = tile_count(tile.begin, seq.length);
  const int64_t token = seq.token + tile.begin, at = seq.past + tile.begin;
  const Strip q = {a.q.row(token) + head_column, a.q.stride, queries};
  const Strip dz = {a.dz.row(token) + head_column, a.dz.stride, queries};
  float dq[4][4 * kGroups] = {};
  for (int64_t r = seq.first_run; r < seq.last_run; ++r) {
    const KeyRun run = in.runs[r];
    for (int64_t begin = 0; begin < run.count; begin += kTile) {
      const int keys = tile_count(begin, run.count);
      if (!in.meets(at, queries, run.first + begin, keys)) continue;
      const Strip k = keys_of(run, begin, keys, kv_column);
      float score[4][4], dp[4][4];
      multiply_strips(memory, q, k, in.head_dim, score);
      multiply_strips(memory, dz, values_of(run, begin, keys, kv_column), in.head_dim, dp);
      for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 4; ++j) {
          const int64_t distance = at + tile_row() + i - (run.first + begin + tile_column() + j);
          const bool seen =
              tile_row() + i < queries && tile_column() + j < keys && in.sees(distance);
          const int64_t row = (token + tile_row() + i) * in.n_heads + head;
          score[i][j] = pair_of(a, seen, score[i][j], dp[i][j], row).dscore;
        }
      }
      store_weights(memory, score);
      add_weighted<kGroups>(memory, k, column, in.head_dim, dq);
    }
  }
  for (int i = 0; i < 4; ++i) {
    if (tile_row() + i >= queries) continue;
    for_each_column<kGroups>(column, in.head_dim, [&](int64_t c, int place) {
      a.dq(token + tile_row() + i, head_column + c) = dq[i][place];
    });
  }
}

template <int kGroups>
__global__ void __launch_bounds__(kTileThreads) keys_kernel(const __grid_constant__ Backward a) {
  __shared__ TileMemory memory;
  const AttentionView& in = a.in;
  const TilePlace tile = in.tiles[blockIdx.x];
  const SequencePlace seq = in.sequences[tile.sequence];
  const KeyRun run = in.runs[tile.run];
  const int64_t kv_head = blockIdx.y, column = int64_t{blockIdx.z} * kTile * kGroups;
  const int64_t kv_column = kv_head * in.head_dim, group = in.n_heads / in.n_kv_heads;
  const int keys = tile_count(tile.begin, run.count);
  const int64_t key = run.first + tile.begin;
  const Strip k = keys_of(run, tile.begin, keys, kv_column);
  const Strip v = values_of(run, tile.begin, keys, kv_column);
  float dk[4][4 * kGroups] = {}, dv[4][4 * kGroups] = {};
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const int64_t head_column = head * in.head_dim;
    for (int64_t begin = 0; begin < seq.length; begin += kTile) {
      const int queries = tile_count(begin, seq.length);
      const int64_t token = seq.token + begin, at = seq.past + begin;
      if (!in.meets(at, queries, key, keys)) continue;
      const Strip q = {a.q.row(token) + head_column, a.q.stride, queries};
      const Strip dz = {a.dz.row(token) + head_column, a.dz.stride, queries};
      float p[4][4], dp[4][4];
      multiply_strips(memory, k, q, in.head_dim, p);
      multiply_strips(memory, v, dz, in.head_dim, dp);
      for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 4; ++j) {
          const int64_t distance = at + tile_column() + j - (key + tile_row() + i);
          const bool seen =
              tile_row() + i < keys && tile_column() + j < queries && in.sees(distance);
          const int64_t row = (token + tile_column() + j) * in.n_heads + head;
          const Pair pair = pair_of(a, seen, p[i][j], dp[i][j], row);
          p[i][j] = pair.p;
          dp[i][j] = pair.dscore;
        }
      }
      store_weights(memory, p);
      add_weighted<kGroups>(memory, dz, column, in.head_dim, dv);
      store_weights(memory, dp);
      add_weighted<kGroups>(memory, q, column, in.head_dim, dk);
    }
  }
  for (int i = 0; i < 4; ++i) {
    if (tile_row() + i >= keys) continue;
    const int64_t row = tile.begin + tile_row() + i;
    for_each_column<kGroups>(column, in.head_dim, [&](int64_t c, int place) {
      float& to_k = static_cast<float*>(run.dk)[row * run.dk_stride + kv_column + c];
      float& to_v = static_cast<float*>(run.dv)[row * run.dv_stride + kv_column + c];
      to_k = run.own ? dk[i][place] : to_k + dk[i][place];
      to_v = run.own ? dv[i][place] : to_v + dv[i][place];
    });
  }
}

void backward_in_float32(Device& device, const AttentionBackward& a) {
  const AttentionPlaces places = attention_places(device, a.in, &a);
  const Tensor mean = attention_means<float>(device, a);
  Backward args = {places.view,         Rows<const float>(a.in.q), Rows<const float>(a.dz),
                   a.lse.data<float>(), mean.data<float>(),        Rows<float>(a.dq)};
  with_groups(a.in.head_dim(), [&]<int kGroups>(std::integral_constant<int, kGroups>, int64_t z) {
    dim3 grid = grid_of(places.query_tiles, a.in.n_heads);
    grid.z = static_cast<unsigned>(z);
    launch(device, name_of(a.kOp), queries_kernel<kGroups>, grid, kTileThreads, 0, args);
    grid = grid_of(places.key_tiles, a.in.n_kv_heads);
    grid.z = static_cast<unsigned>(z);
    args.in.tiles = places.view.tiles + places.query_tiles;
    launch(device, name_of(a.kOp), keys_kernel<kGroups>, grid, kTileThreads, 0, args);
  });
}

void backward_in_bf16(Device& device, const AttentionBackward& a) {
  if (mma::takes(a.in, {a.z, a.dz, a.dq, a.dk, a.dv})) return mma::backward(device, a);
  AttentionBackward wide = a;
  wide.in = mma::widened(device, a.in);
  wide.dz = mma::widened(device, a.dz);
  wide.z = mma::widened(device, a.z);
  for (Tensor* gradient : {&wide.dq, &wide.dk, &wide.dv}) {
    *gradient = device.empty(DType::f32, gradient->shape());
  }
  backward_in_float32(device, wide);
  copy(device, {wide.dq, a.dq});
  copy(device, {wide.dk, a.dk});
  copy(device, {wide.dv, a.dv});
}

}  // namespace

void attention_backward(Device& device, const AttentionBackward& a) {
  if (a.in.seqs.tokens == 0) return;
  if (a.dz.dtype() == DType::bf16) backward_in_bf16(device, a);
  else backward_in_float32(device, a);
}

}  // namespace elapse::cuda
