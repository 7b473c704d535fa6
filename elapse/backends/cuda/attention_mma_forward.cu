// SPDX-License-Identifier: Apache-2.0
// A block 64 queries of a head, over the tiles of keys that they see, softmax's sums as it goes
// (Dao, 2023). Weights are rounded to bf16 for their product with values, not for their sum. Floor:
// 4 head_dim operations a pair and head at 700 TFLOP/s, by warpgroups' products; mma.sync reaches
// some 60 % of that.
#include "elapse/backends/cuda/attention_mma.cuh"
#include "elapse/backends/cuda/attention_mma.h"
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/shared_memory.cuh"

namespace elapse::cuda::mma {
namespace {

// 16 queries a warp. Keys come two tiles at a time.
template <int kDim, int kKeys>
struct ForwardSizes : Sizes<kDim, kKeys> {
  static constexpr int kQueries = 16 * kWarps, kTiles = 2;
  struct Stage {
    typename Sizes<kDim, kKeys>::Tile k[kTiles], v[kTiles];
  };
};
using Narrow = ForwardSizes<64, 64>;
using Wide = ForwardSizes<128, 32>;
template <class S>
constexpr int kBlocks = S::kDim == 64 ? 3 : 2;  // a multiprocessor: registers are what decides

struct Forward {
  AttentionView in;
  Rows<const bf16> q;
  Rows<bf16> z;
  float* lse;   // (tokens, n_heads), or null
  float scale;  // of scores, which are powers of two
};

// Largest score so far, unscaled, of a thread's two rows of 16, and its own sums of weights.
struct Softmax {
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};

  // Scores become weights, and what was summed before is scaled.
  template <int kScores, int kSums>
  __device__ void take(float (&score)[kScores][4], float (&sums)[kSums][4], float scale) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = largest[half];
#pragma unroll
      for (int n = 0; n < kScores; ++n) {
        most = fmaxf(most, fmaxf(score[n][2 * half], score[n][2 * half + 1]));
      }
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      const float base = most == -INFINITY ? 0.0f : most * scale;
      const float shrink = exp2_fast(fmaf(largest[half], scale, -base));
      float added = 0;
#pragma unroll
      for (int n = 0; n < kScores; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          score[n][i] = exp2_fast(fmaf(score[n][i], scale, -base));
          added += score[n][i];
        }
      }
#pragma unroll
      for (int n = 0; n < kSums; ++n) {
        sums[n][2 * half] *= shrink;
        sums[n][2 * half + 1] *= shrink;
      }
      sum[half] = fmaf(sum[half], shrink, added);
      largest[half] = most;
    }
  }
};

template <class S>
__device__ void hide(const Sight& sight, typename S::Scores& score) {
#pragma unroll
  for (int n = 0; n < S::kRows / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int query = own_row() + i / 2 * 8, key = 8 * n + own_column() + i % 2;
      if (!sight.at(query, key)) score[n][i] = -INFINITY;
    }
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads, kBlocks<S>)
    tiles_kernel(const __grid_constant__ Forward a) {
  constexpr int kKeys = S::kRows, kTiles = S::kTiles;
  extern __shared__ uint4 memory[];
  auto* const stages = reinterpret_cast<typename S::Stage*>(memory);
  const AttentionView& in = a.in;
  // Those with the most keys first.
  const TilePlace place = in.tiles[gridDim.x - 1 - blockIdx.x];
  const SequencePlace seq = in.sequences[place.sequence];
  const int64_t head = blockIdx.y, column = in.kv_head_of(head) * in.head_dim;
  const int head_dim = static_cast<int>(in.head_dim), first_row = warp() * 16;
  const int64_t left = seq.length - place.begin;
  const int queries = static_cast<int>(left < S::kQueries ? left : S::kQueries);
  const int64_t token = seq.token + place.begin, at = seq.past + place.begin;
  typename S::Factor q[1];
  const HeadRows<bf16> q_rows = {a.q.row(token) + head * head_dim, a.q.stride, queries, head_dim};
  read_factor<S>(q[0], q_rows, first_row);
  Softmax softmax;
  typename S::Sums z[1] = {};

  // Of tile i of those that come together, at most kKeys; none or less than none where it is empty.
  const auto keys_of = [&](const KeyTile<kTiles * kKeys>& tiles, int i) {
    const int64_t rest = tiles.count - tiles.begin - i * kKeys;
    return static_cast<int>(rest < kKeys ? rest : kKeys);
  };
  const auto start_copies = [&](const KeyTile<kTiles * kKeys>& tiles, typename S::Stage& stage) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      with_rows(in.runs[tiles.run], tiles.begin + i * kKeys, keys_of(tiles, i), column, head_dim,
                [&](const auto& k_rows, const auto& v_rows) {
                  copy_rows<S>(stage.k[i], k_rows);
                  copy_rows<S>(stage.v[i], v_rows);
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
    for (int i = 0; i < kTiles; ++i) {
      const int keys = keys_of(here, i);
      const Sight sight(in, at + first_row, 16, here.first + here.begin + i * kKeys, keys);
      if (keys <= 0 || sight.none) continue;
      typename S::Scores score[1] = {};
      multiply_rows<S>(score, q, stages[at_stage].k[i]);
      if (!sight.all || keys < kKeys) hide<S>(sight, score[0]);
      softmax.take(score[0], z[0], a.scale);
      add_weighted<S>(z, score, stages[at_stage].v[i]);
    }
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = softmax.sum[half];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const int row = first_row + own_row() + 8 * half;
    if (row >= queries) continue;
    const float inverse = 1.0f / sum;
#pragma unroll
    for (int n = 0; n < S::kDim / 8; ++n) {
      const int c = 8 * n + own_column();
      if (c >= head_dim) continue;
      store_pair(a.z.row(token + row) + head * head_dim + c,
                 {z[0][n][2 * half] * inverse, z[0][n][2 * half + 1] * inverse});
    }
    if (a.lse != nullptr && own_column() == 0) {
      a.lse[(token + row) * in.n_heads + head] =
          kLn2 * fmaf(softmax.largest[half], a.scale, log2f(sum));
    }
  }
}

bool has_aligned_rows(const Tensor& t) {
  return is_aligned(t) && (t.dim(0) <= 1 || t.stride(0) * size_of(t.dtype()) % 16 == 0);
}

}  // namespace

bool takes(const AttentionInputs& in, const std::vector<Tensor>& others) {
  if (in.head_dim() > 128 || in.head_dim() % 8 != 0) return false;
  std::vector<Tensor> all = others;
  all.insert(all.end(), {in.q, in.k, in.v});
  for (const auto& runs : in.past) {
    for (const KeyValueRows& run : runs) all.insert(all.end(), {run.k, run.v});
  }
  return std::all_of(all.begin(), all.end(), has_aligned_rows);
}

Tensor widened(Device& device, const Tensor& t) {
  const Tensor wide = device.empty(DType::f32, t.shape());
  copy(device, {t, wide});
  return wide;
}

AttentionInputs widened(Device& device, const AttentionInputs& in) {
  AttentionInputs wide = in;
  for (Tensor* t : {&wide.q, &wide.k, &wide.v}) *t = widened(device, *t);
  return wide;
}

int64_t queries_of(int64_t head_dim) {
  return head_dim <= Narrow::kDim ? Narrow::kQueries : Wide::kQueries;
}

void forward_tiles(Device& device, const AttentionForward& a, const AttentionPlaces& places) {
  const Forward args = {places.view, Rows<const bf16>(a.in.q), Rows<bf16>(a.z),
                        a.lse ? a.lse.data<float>() : nullptr, places.view.scale * kLog2e};
  const auto run = [&]<class S>(S) {
    launch_granted(device, name_of(a.kOp), tiles_kernel<S>,
                   grid_of(places.query_tiles, a.in.n_heads), kThreads,
                   2 * sizeof(typename S::Stage), args);
  };
  if (a.in.head_dim() <= Narrow::kDim) run(Narrow());
  else run(Wide());
}

}  // namespace elapse::cuda::mma
