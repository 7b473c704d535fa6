// SPDX-License-Identifier: Apache-2.0
// A block 64 queries of a head, over tiles of 64 keys, softmax's sums as it goes (Milakov and
// Gimelshein, 2018; Dao et al., 2022). Bound: 2 head_dim multiplications a pair of a query and a
// key that it sees, in float32 outside the matrix units; a tile half of whose pairs are hidden, as
// a dilation's are, is computed whole. A head of more than 128 channels has its scores once for
// each 128.
//
// A sequence's single query would leave such a block empty: a block takes it, its warps a key each
// in turn, and their sums meet at the end. Bound: memory, 8 head_dim bytes a key and head of its
// own; a block of each head and sequence is too few where they are.
#include <cmath>

#include "elapse/backends/cuda/attention.cuh"
#include "elapse/backends/cuda/attention_mma.h"
#include "elapse/backends/cuda/kernels.h"

namespace elapse::cuda {
namespace {

template <class T>
struct Forward {
  AttentionView in;
  Rows<const T> q;
  Rows<T> z;
  float* lse;  // (tokens, n_heads), or null
};

// Largest score so far and sum of weights, of this thread's four queries.
struct Softmax {
  float largest[4], sum[4];

  __device__ Softmax() {
    for (int i = 0; i < 4; ++i) largest[i] = -INFINITY, sum[i] = 0;
  }
  // Scores become weights; what was summed before is to be scaled.
  __device__ void take(float (&score)[4][4], float (&scale)[4]) {
    for (int i = 0; i < 4; ++i) {
      float most = largest[i], added = 0;
      for (int j = 0; j < 4; ++j) most = fmaxf(most, score[i][j]);
      for (int step = 8; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
      scale[i] = most == largest[i] ? 1.0f : expf(largest[i] - most);
      for (int j = 0; j < 4; ++j) {
        score[i][j] = score[i][j] == -INFINITY ? 0.0f : expf(score[i][j] - most);
        added += score[i][j];
      }
      for (int step = 8; step > 0; step /= 2) added += __shfl_xor_sync(~0u, added, step);
      sum[i] = sum[i] * scale[i] + added;
      largest[i] = most;
    }
  }
};

template <int kGroups>
__global__ void __launch_bounds__(kTileThreads)
    tiles_kernel(const __grid_constant__ Forward<float> a) {
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
  Softmax softmax;
  float z[4][4 * kGroups] = {};
  for (int64_t r = seq.first_run; r < seq.last_run; ++r) {
    const KeyRun run = in.runs[r];
    for (int64_t begin = 0; begin < run.count; begin += kTile) {
      const int keys = tile_count(begin, run.count);
      if (!in.meets(at, queries, run.first + begin, keys)) continue;
      float score[4][4], scale[4];
      multiply_strips(memory, q, keys_of(run, begin, keys, kv_column), in.head_dim, score);
      for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 4; ++j) {
          const int64_t distance = at + tile_row() + i - (run.first + begin + tile_column() + j);
          const bool seen = tile_column() + j < keys && in.sees(distance);
          score[i][j] = seen ? score[i][j] * in.scale : -INFINITY;
        }
      }
      softmax.take(score, scale);
      for (int i = 0; i < 4; ++i) {
        for (int c = 0; c < 4 * kGroups; ++c) z[i][c] *= scale[i];
      }
      store_weights(memory, score);
      add_weighted<kGroups>(memory, values_of(run, begin, keys, kv_column), column, in.head_dim, z);
    }
  }
  for (int i = 0; i < 4; ++i) {
    if (tile_row() + i >= queries) continue;
    const int64_t t = token + tile_row() + i;
    for_each_column<kGroups>(column, in.head_dim, [&](int64_t c, int place) {
      a.z(t, head_column + c) = z[i][place] / softmax.sum[i];
    });
    if (a.lse != nullptr && column == 0 && tile_column() == 0) {
      a.lse[t * in.n_heads + head] = softmax.largest[i] + logf(softmax.sum[i]);
    }
  }
}

// Warps of the block of a single query, keys of a warp at a time, and its longest head.
constexpr int kWarps = 16, kKeys = 4, kMostChannels = 256;

// What a warp has summed of its keys: a lane has channels lane, lane + 32, ...
template <int kChannels>
struct Summed {
  float largest = -INFINITY, sum = 0;
  float z[kChannels] = {};

  // The keys with these scores, of which some may be -inf, and their values' rows.
  template <class T>
  __device__ void take(const float (&score)[kKeys], const T* const (&rows)[kKeys],
                       int64_t head_dim) {
    float most = largest;
    for (int i = 0; i < kKeys; ++i) most = fmaxf(most, score[i]);
    if (most == -INFINITY) return;
    const float scale = expf(largest - most);
    sum *= scale;
    for (int c = 0; c < kChannels; ++c) z[c] *= scale;
    for (int i = 0; i < kKeys; ++i) {
      if (score[i] == -INFINITY) continue;
      const float weight = expf(score[i] - most);
      sum += weight;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        const int64_t e = threadIdx.x % 32 + 32 * c;
        if (e < head_dim) z[c] = fmaf(weight, static_cast<float>(rows[i][e]), z[c]);
      }
    }
    largest = most;
  }
};

// A run of T.
template <class T, int kChannels>
__device__ void take_run(const AttentionView& in, const KeyRun& run, int64_t at, int64_t column,
                         const float (&q)[kChannels], Summed<kChannels>& summed) {
  const int64_t before = at - run.first, dilation = in.pattern.dilation;  // the query's place
  int64_t begin = in.pattern.window == 0 ? 0 : before - in.pattern.window + 1;
  if (begin < 0) begin = 0;
  if (begin > before) return;
  begin = before - (before - begin) / dilation * dilation;
  const int64_t end = before + 1 < run.count ? before + 1 : run.count;
  const int64_t step = dilation * kWarps, warp = threadIdx.x / 32;
  const T* const k = static_cast<const T*>(run.k) + column;
  const T* const v = static_cast<const T*>(run.v) + column;
  for (int64_t j = begin + warp * dilation; j < end; j += kKeys * step) {
    float score[kKeys] = {};
    const T* values[kKeys];
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      const int64_t key = j + i * step;
      values[i] = v + key * run.v_stride;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        const int64_t e = threadIdx.x % 32 + 32 * c;
        if (key < end && e < in.head_dim) {
          score[i] = fmaf(q[c], static_cast<float>(k[key * run.k_stride + e]), score[i]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      for (int mask = 16; mask > 0; mask /= 2) score[i] += __shfl_xor_sync(~0u, score[i], mask);
      score[i] = j + i * step < end ? score[i] * in.scale : -INFINITY;
    }
    summed.take(score, values, in.head_dim);
  }
}

template <class T, int kChannels>
__global__ void __launch_bounds__(32 * kWarps) single_kernel(const __grid_constant__ Forward<T> a) {
  __shared__ float largest[kWarps], sum[kWarps], z[kWarps][32 * kChannels];
  const AttentionView& in = a.in;
  const SequencePlace seq = in.sequences[in.tiles[blockIdx.x].sequence];
  const int64_t head = blockIdx.y, column = in.kv_head_of(head) * in.head_dim;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  float q[kChannels];
  for (int c = 0; c < kChannels; ++c) {
    const int64_t e = lane + 32 * c;
    q[c] = e < in.head_dim ? static_cast<float>(a.q(seq.token, head * in.head_dim + e)) : 0.0f;
  }
  Summed<kChannels> summed;
  for (int64_t r = seq.first_run; r < seq.last_run; ++r) {
    const KeyRun run = in.runs[r];
    if (run.own) take_run<T>(in, run, seq.past, column, q, summed);
    else take_run<float>(in, run, seq.past, column, q, summed);
  }
  if (lane == 0) largest[warp] = summed.largest, sum[warp] = summed.sum;
  for (int c = 0; c < kChannels; ++c) z[warp][lane + 32 * c] = summed.z[c];
  __syncthreads();
  float most = largest[0], total = 0, out = 0;
  for (int w = 1; w < kWarps; ++w) most = fmaxf(most, largest[w]);
  const int e = static_cast<int>(threadIdx.x);
  for (int w = 0; w < kWarps; ++w) {
    const float weight = expf(largest[w] - most);
    total = fmaf(weight, sum[w], total);
    if (e < in.head_dim) out = fmaf(weight, z[w][e], out);
  }
  if (e < in.head_dim) a.z(seq.token, head * in.head_dim + e) = static_cast<T>(out / total);
  if (e == 0 && a.lse != nullptr) a.lse[seq.token * in.n_heads + head] = most + logf(total);
}

// Calls run(std::integral_constant of a lane's channels).
template <class Run>
void with_channels(int64_t head_dim, Run&& run) {
  if (head_dim <= 64) run(std::integral_constant<int, 2>());
  else if (head_dim <= 128) run(std::integral_constant<int, 4>());
  else run(std::integral_constant<int, kMostChannels / 32>());
}

template <class T>
Forward<T> forward_of(const AttentionForward& a, const AttentionPlaces& places) {
  return {places.view, Rows<const T>(a.in.q), Rows<T>(a.z), a.lse ? a.lse.data<float>() : nullptr};
}

template <class T>
void take_singles(Device& device, const AttentionForward& a, const AttentionPlaces& places) {
  Forward<T> args = forward_of<T>(a, places);
  args.in.tiles += places.query_tiles;
  with_channels(a.in.head_dim(), [&]<int kChannels>(std::integral_constant<int, kChannels>) {
    launch(device, name_of(a.kOp), single_kernel<T, kChannels>,
           grid_of(places.singles, a.in.n_heads), 32 * kWarps, 0, args);
  });
}

void forward_in_float32(Device& device, const AttentionForward& a) {
  const AttentionPlaces places = attention_places(device, a.in, nullptr);
  const Forward<float> args = forward_of<float>(a, places);
  with_groups(a.in.head_dim(), [&]<int kGroups>(std::integral_constant<int, kGroups>, int64_t z) {
    dim3 grid = grid_of(places.query_tiles, a.in.n_heads);
    grid.z = static_cast<unsigned>(z);
    launch(device, name_of(a.kOp), tiles_kernel<kGroups>, grid, kTileThreads, 0, args);
  });
  take_singles<float>(device, a, places);
}

void forward_in_bf16(Device& device, const AttentionForward& a) {
  if (!mma::takes(a.in, {a.z})) {
    AttentionForward wide = a;
    wide.in = mma::widened(device, a.in);
    wide.z = device.empty(DType::f32, a.z.shape());
    forward_in_float32(device, wide);
    return copy(device, {wide.z, a.z});
  }
  const AttentionPlaces places =
      attention_places(device, a.in, nullptr, mma::queries_of(a.in.head_dim()));
  mma::forward_tiles(device, a, places);
  take_singles<bf16>(device, a, places);
}

}  // namespace

void attention_forward(Device& device, const AttentionForward& a) {
  if (a.z.numel() == 0) return;
  if (a.z.dtype() == DType::bf16) forward_in_bf16(device, a);
  else forward_in_float32(device, a);
}

AttentionPlaces attention_places(Device& device, const AttentionInputs& in,
                                 const AttentionBackward* backward, int64_t queries, int64_t keys) {
  std::vector<KeyRun> runs;
  std::vector<SequencePlace> sequences;
  std::vector<TilePlace> query_tiles, singles, key_tiles;
  const auto add_run = [&](int64_t s, const KeyValueRows& rows, const KeyValueRows& grads,
                           int64_t token, int64_t count, int64_t first, bool own) {
    if (grads.k) {
      for (int64_t begin = 0; begin < count; begin += keys) {
        key_tiles.push_back({s, std::ssize(runs), begin});
      }
    }
    const auto at = [&](const Tensor& t) {
      return t ? t.rows(token, token + count).raw() : nullptr;
    };
    const auto stride = [](const Tensor& t) { return t ? t.stride(0) : 0; };
    runs.push_back({at(rows.k), at(rows.v), at(grads.k), at(grads.v), stride(rows.k),
                    stride(rows.v), stride(grads.k), stride(grads.v), first, count, own});
  };
  int64_t token = 0;
  for (int64_t s = 0; s < in.seqs.count(); ++s) {
    const auto i = static_cast<size_t>(s);
    const int64_t length = in.seqs.lengths[i], first_run = std::ssize(runs);
    int64_t past = 0;
    for (size_t r = 0; !in.past.empty() && r < in.past[i].size(); ++r) {
      const KeyValueRows& rows = in.past[i][r];
      const bool wanted = backward != nullptr && !backward->dpast.empty();
      add_run(s, rows, wanted ? backward->dpast[i][r] : KeyValueRows(), 0, rows.k.dim(0), past,
              false);
      past += rows.k.dim(0);
    }
    const KeyValueRows own =
        backward == nullptr ? KeyValueRows() : KeyValueRows{backward->dk, backward->dv};
    add_run(s, {in.k, in.v}, own, token, length, past, true);
    sequences.push_back({first_run, std::ssize(runs), token, length, past});
    if (backward == nullptr && length == 1 && in.head_dim() <= kMostChannels) {
      singles.push_back({s, 0, 0});
    } else {
      for (int64_t begin = 0; begin < length; begin += queries) {
        query_tiles.push_back({s, 0, begin});
      }
    }
    token += length;
  }
  AttentionPlaces places;
  const auto upload = [&]<class T>(const std::vector<T>& list) {
    places.kept.push_back(device.upload_bytes(list.data(), DType::u8,
                                              {static_cast<int64_t>(list.size() * sizeof(T))}));
    return static_cast<const T*>(places.kept.back().raw());
  };
  places.query_tiles = std::ssize(query_tiles);
  places.key_tiles = std::ssize(key_tiles);
  places.singles = std::ssize(singles);
  query_tiles.insert(query_tiles.end(), singles.begin(), singles.end());
  query_tiles.insert(query_tiles.end(), key_tiles.begin(), key_tiles.end());
  places.view = {in.n_heads,
                 in.n_kv_heads,
                 in.head_dim(),
                 in.pattern,
                 static_cast<float>(1 / std::sqrt(static_cast<double>(in.head_dim()))),
                 upload(runs),
                 upload(sequences),
                 upload(query_tiles)};
  return places;
}

}  // namespace elapse::cuda
