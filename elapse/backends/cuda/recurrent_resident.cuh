// SPDX-License-Identifier: Apache-2.0
// Recurrent cells over all tokens by one kernel: a block a multiprocessor, which keeps the weight's
// rows of its channels in shared memory. A token: 8 sequences' h (backward dm) come to every block
// through the L2 cache, warps sum the products of four rows each over a share of the numbers, a
// thread finishes a channel of a sequence, and all blocks wait for each other. Floor, LSTM of 768
// channels, 8 sequences: 0.64 microseconds of multiplications at 128 a clock and multiprocessor;
// the wait, some 1.2; what comes, 3 MB forward and 13 MB backward at 5.5 TB/s, 0.6 and 2.4; so
// about 3 and 5 a token.
#pragma once
#include <cuda_pipeline.h>

#include "elapse/backends/cuda/recurrent.cuh"
#include "elapse/backends/cuda/shared_memory.cuh"

namespace elapse::cuda {

inline constexpr int kResidentSequences = 8;  // taken together
inline constexpr int kResidentWarps = 16;     // at most
inline constexpr int kRowsOfWarp = 4;
inline constexpr int kUnit = 128;  // numbers of a row that a warp takes at once, four a lane

// How a call lies on the multiprocessors.
struct ResidentPlan {
  int channels;                 // of a block
  int rows;                     // of the weight, of a block
  int width, tile;              // of a row, in units; and of what comes, at a time
  int groups, splits;           // of rows; of a row's units
  bool in_fours;                // what comes is aligned for four numbers
  unsigned long long* arrived;  // blocks, over all tokens

  __host__ __device__ int threads() const { return 32 * groups * splits; }
  __host__ __device__ int floats() const {
    return (rows * width + kResidentSequences * tile) * kUnit + threads();
  }
};

// Of all blocks, which run at the same time.
__device__ inline void arrive(unsigned long long* arrived) {
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("red.release.gpu.global.add.u64 [%0], 1;" ::"l"(arrived) : "memory");
  }
}
__device__ inline void wait_for(const unsigned long long* arrived, unsigned long long count) {
  if (threadIdx.x == 0) {
    unsigned long long seen;
    do {
      asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(seen) : "l"(arrived) : "memory");
    } while (seen < count);
  }
  __syncthreads();
}

// Sums of 32 numbers over the lanes: lane l ends with sums[0] that of number l.
template <int kStep>
__device__ void fold(float (&sums)[32], int lane) {
  const bool high = (lane & kStep) != 0;
#pragma unroll
  for (int i = 0; i < kStep; ++i) {
    const float given = high ? sums[i] : sums[i + kStep];
    sums[i] = (high ? sums[i + kStep] : sums[i]) + __shfl_xor_sync(~0u, given, kStep);
  }
  if constexpr (kStep > 1) fold<kStep / 2>(sums, lane);
}

// Shared memory of a block, and its products.
struct Resident {
  const ResidentPlan& plan;
  float* weight;  // (rows, width)
  float* coming;  // (8, tile)
  float* sums;    // (splits, groups, 4 rows, 8 sequences)

  __device__ Resident(const ResidentPlan& plan, float* memory)
      : plan(plan),
        weight(memory),
        coming(weight + plan.rows * plan.width * kUnit),
        sums(coming + kResidentSequences * plan.tile * kUnit) {}

  // Row r of the block from row_of(r), of `count` numbers; zeros beyond.
  template <class RowOf>
  __device__ void load_weight(int64_t count, RowOf&& row_of) {
    const int width = plan.width * kUnit;
    for (int r = 0; r < plan.rows; ++r) {
      const float* row = row_of(r);
      for (int k = static_cast<int>(threadIdx.x); k < width; k += static_cast<int>(blockDim.x)) {
        weight[r * width + k] = row != nullptr && k < count ? row[k] : 0.0f;
      }
    }
  }

  // sums = the block's rows times row_of(s), of sequence s, or zero where there is none.
  template <class RowOf>
  __device__ void multiply(int64_t count, RowOf&& row_of) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int group = warp % plan.groups, split = warp / plan.groups;
    const float* rows[kRowsOfWarp];
#pragma unroll
    for (int r = 0; r < kRowsOfWarp; ++r) {  // of rows beyond the last the sums are not used
      rows[r] =
          weight + min(group * kRowsOfWarp + r, plan.rows - 1) * plan.width * kUnit + 4 * lane;
    }
    float sum[kRowsOfWarp * kResidentSequences] = {};
    for (int first = 0; first < plan.width; first += plan.tile) {
      const int units = min(plan.tile, plan.width - first);
      __syncthreads();
      stage(first * kUnit, units * kUnit, count, row_of);
      __pipeline_wait_prior(0);
      __syncthreads();
      for (int u = split; u < units; u += plan.splits) {
        float4 w[kRowsOfWarp];
#pragma unroll
        for (int r = 0; r < kRowsOfWarp; ++r) w[r] = four(rows[r] + (first + u) * kUnit);
#pragma unroll
        for (int s = 0; s < kResidentSequences; ++s) {
          const float4 v = four(coming + (s * plan.tile + u) * kUnit + 4 * lane);
#pragma unroll
          for (int r = 0; r < kRowsOfWarp; ++r) {
            float& to = sum[r * kResidentSequences + s];
            to = fmaf(w[r].x, v.x, fmaf(w[r].y, v.y, fmaf(w[r].z, v.z, fmaf(w[r].w, v.w, to))));
          }
        }
      }
    }
    fold<16>(sum, lane);
    sums[threadIdx.x] = sum[0];
    __syncthreads();
  }
  __device__ float sum_of(int row, int sequence) const {
    float sum = 0;
    for (int split = 0; split < plan.splits; ++split) {
      const int warp = split * plan.groups + row / kRowsOfWarp;
      sum += sums[32 * warp + row % kRowsOfWarp * kResidentSequences + sequence];
    }
    return sum;
  }

 private:
  static __device__ float4 four(const float* at) { return *reinterpret_cast<const float4*>(at); }

  // Starts to bring numbers [first, first + n) of each sequence's row, which other multiprocessors
  // wrote: past this one's own cache.
  template <class RowOf>
  __device__ void stage(int first, int n, int64_t count, RowOf&& row_of) {
    const float* rows[kResidentSequences];
#pragma unroll
    for (int s = 0; s < kResidentSequences; ++s) rows[s] = row_of(s);
#pragma unroll
    for (int s = 0; s < kResidentSequences; ++s) {
      for (int k = 4 * static_cast<int>(threadIdx.x); k < n;
           k += 4 * static_cast<int>(blockDim.x)) {
        float* const to = coming + s * plan.tile * kUnit + k;
        const int64_t rest = rows[s] == nullptr ? 0 : count - first - k;
        if (rest > 0) bring(to, rows[s] + first + k, rest);
        else *reinterpret_cast<float4*>(to) = {};
      }
    }
    __pipeline_commit();
  }
  // Four numbers, zeros beyond the last of `rest`.
  __device__ void bring(float* to, const float* from, int64_t rest) const {
    if (plan.in_fours) return __pipeline_memcpy_async(to, from, 16);
    float4 v = {__ldcg(from), 0, 0, 0};
    if (rest > 1) v.y = __ldcg(from + 1);
    if (rest > 2) v.z = __ldcg(from + 2);
    if (rest > 3) v.w = __ldcg(from + 3);
    *reinterpret_cast<float4*>(to) = v;
  }
};

// The channel and the sequence of a group that a thread finishes, if any.
struct Own {
  int channel, sequence;
  int64_t e;
  bool is_one;

  __device__ Own(const ResidentPlan& plan, int64_t d_inner)
      : channel(static_cast<int>(threadIdx.x) / kResidentSequences),
        sequence(static_cast<int>(threadIdx.x) % kResidentSequences),
        e(blockIdx.x * int64_t{plan.channels} + channel),
        is_one(channel < plan.channels && e < d_inner) {}
};

template <Cell kCell, class T>
__global__ void __launch_bounds__(32 * kResidentWarps)
    resident_forward_kernel(const __grid_constant__ CellForward<kCell, T> a,
                            const __grid_constant__ ResidentPlan plan, float* state, float* next) {
  extern __shared__ float4 memory[];
  constexpr int kGates = a.kGates, kState = a.kState;
  const RecurrentCall& call = a.call;
  const int64_t d_inner = call.d_inner;
  Resident block(plan, reinterpret_cast<float*>(memory));
  const Own own(plan, d_inner);
  block.load_weight(d_inner, [&](int r) {
    const int64_t e = blockIdx.x * int64_t{plan.channels} + r / kGates;
    return e < d_inner ? call.weight + (r % kGates * d_inner + e) * d_inner : nullptr;
  });
  for (int64_t index = 0; index < call.max_len; ++index) {
    for (int64_t first = 0; first < call.n_seqs; first += kResidentSequences) {
      const int64_t s = first + own.sequence;
      const bool finishes = own.is_one && s < call.n_seqs;
      typename CellForward<kCell, T>::Loaded loaded = {};
      if (finishes) loaded = a.load(s, index, own.e, state);
      if (first == 0 && index > 0) wait_for(plan.arrived, index * gridDim.x);
      block.multiply(d_inner, [&](int of) -> const float* {
        return first + of < call.n_seqs ? state + (first + of) * kState * d_inner : nullptr;
      });
      if (!finishes) continue;
      float m[kGates];
#pragma unroll
      for (int g = 0; g < kGates; ++g) m[g] = block.sum_of(own.channel * kGates + g, own.sequence);
      a.finish(s, index, own.e, loaded, m, next);
    }
    arrive(plan.arrived);
    float* const before = state;
    state = next;
    next = before;
  }
}

template <Cell kCell, class T>
__global__ void __launch_bounds__(32 * kResidentWarps)
    resident_backward_kernel(const __grid_constant__ CellBackward<kCell, T> a,
                             const __grid_constant__ ResidentPlan plan, int64_t last) {
  extern __shared__ float4 memory[];
  const RecurrentCall& call = a.call;
  const int64_t d_inner = call.d_inner, width = a.kGates * d_inner;
  Resident block(plan, reinterpret_cast<float*>(memory));
  const Own own(plan, d_inner);
  block.load_weight(width, [&](int r) {
    const int64_t e = blockIdx.x * int64_t{plan.channels} + r;
    return e < d_inner ? call.weight + e * width : nullptr;
  });
  for (int64_t index = call.max_len - 1; index >= last; --index) {
    for (int64_t first = 0; first < call.n_seqs; first += kResidentSequences) {
      const int64_t s = first + own.sequence;
      const bool finishes = own.is_one && s < call.n_seqs;
      typename CellBackward<kCell, T>::Loaded loaded = {};
      if (finishes) loaded = a.load(s, index, own.e);
      if (first == 0 && index < call.max_len - 1) {
        wait_for(plan.arrived, (call.max_len - 1 - index) * gridDim.x);
      }
      block.multiply(width, [&](int of) -> const float* {
        return first + of < call.n_seqs ? a.after(first + of, index) : nullptr;
      });
      if (finishes) a.finish(s, index, own.e, loaded, block.sum_of(own.channel, own.sequence));
    }
    arrive(plan.arrived);
  }
}

// For `rows` of the weight a channel, of `width` numbers: false where the weight is too large, or
// sequences are so short that bringing it in would take longer than it saves.
inline bool make_plan(const RecurrentCall& call, int64_t rows, int64_t width, bool in_fours,
                      ResidentPlan& plan) {
  constexpr int64_t kLeastTokens = 8;
  int device = 0, blocks = 0, bytes = 0;
  check(cudaGetDevice(&device), "asking for the GPU");
  check(cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, device),
        "asking for the GPU");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "asking for the GPU");
  const int64_t channels = divide_up(call.d_inner, blocks), all = channels * rows,
                groups = divide_up(all, kRowsOfWarp), units = divide_up(width, kUnit);
  if (call.max_len < kLeastTokens || groups > kResidentWarps) return false;
  const int64_t splits = std::min(kResidentWarps / groups, units);
  const int64_t floats = bytes / 4 - 32 * groups * splits - all * units * kUnit;
  const int64_t tile = std::min(units, floats / (kResidentSequences * kUnit));
  if (tile < 1) return false;
  plan = {.channels = static_cast<int>(channels),
          .rows = static_cast<int>(all),
          .width = static_cast<int>(units),
          .tile = static_cast<int>(tile),
          .groups = static_cast<int>(groups),
          .splits = static_cast<int>(splits),
          .in_fours = in_fours,
          .arrived = nullptr};
  return true;
}

// The kernel on as many blocks as have channels, all of which must run at the same time.
template <class... Parameters, class... Args>
bool launch_resident(Device& device, std::string_view name, void (*kernel)(Parameters...),
                     ResidentPlan plan, const RecurrentCall& call, const auto& cell, Args... args) {
  const int bytes = plan.floats() * static_cast<int>(sizeof(float));
  if (!grant(kernel, bytes, name)) return false;
  const Tensor arrived = device.zeros(DType::f32, {2});
  plan.arrived = static_cast<unsigned long long*>(arrived.raw());
  cudaLaunchAttribute together = {};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid_of(divide_up(call.d_inner, plan.channels));
  config.blockDim = dim3(static_cast<unsigned>(plan.threads()));
  config.dynamicSmemBytes = static_cast<size_t>(bytes);
  config.stream = context_of(device).stream;
  config.attrs = &together;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, cell, plan, args...), name);
  context_of(device).in_chain = false;
  return true;
}

// All tokens, from `state` to whichever of both the last token's lies in; false where a launch a
// token is to do it.
template <Cell kCell, class T>
bool forward_resident(Device& device, const CellForward<kCell, T>& a, float* state, float* next) {
  ResidentPlan plan;
  if (!make_plan(a.call, a.kGates, a.call.d_inner, a.call.d_inner % 4 == 0, plan)) return false;
  return launch_resident(device, "recurrent_forward", resident_forward_kernel<kCell, T>, plan,
                         a.call, a, state, next);
}

// Tokens down to `last`.
template <Cell kCell, class T>
bool backward_resident(Device& device, const CellBackward<kCell, T>& a, int64_t last) {
  ResidentPlan plan;
  const int64_t width = a.kGates * a.call.d_inner;
  const bool in_fours = width % 4 == 0 && reinterpret_cast<uintptr_t>(a.dm) % 16 == 0;
  if (!make_plan(a.call, 1, width, in_fours, plan)) return false;
  return launch_resident(device, "recurrent_backward", resident_backward_kernel<kCell, T>, plan,
                         a.call, a, last);
}

}  // namespace elapse::cuda
