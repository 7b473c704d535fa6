// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "elapse/backends/cuda/runtime.h"

// What kernels of the cuda backend share on the device's side, and how they are started.
namespace elapse::cuda {

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Starts a kernel on the device's stream; an empty grid starts nothing.
template <class... Parameters, class... Args>
void launch(const Device& device, std::string_view name, void (*kernel)(Parameters...), dim3 grid,
            int threads, int shared_bytes, Args&&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  Context& context = context_of(device);
  kernel<<<grid, static_cast<unsigned>(threads), static_cast<size_t>(shared_bytes),
           context.stream>>>(std::forward<Args>(args)...);
  context.in_chain = false;
  check(cudaGetLastError(), name);
}

// Kernels of a chain start while the one before is still running, so that neither their launch nor
// what they read first takes time of its own. Each calls start_next(), may read what no kernel of a
// chain writes (parameters, slots) and the states that it starts from, and calls wait_for_earlier()
// before it touches anything else. Other kernels, copies and products of cuBLAS in between end a
// chain.
__device__ inline void start_next() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ inline void wait_for_earlier() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Whether the code that runs here was compiled with the two, and graphs record such launches.
template <class Kernel>
bool can_wait(Kernel kernel) {
  cudaFuncAttributes attributes = {};
  check(cudaFuncGetAttributes(&attributes, kernel), "asking for a kernel");
  return CUDART_VERSION >= 12030 && attributes.ptxVersion >= 90;
}

// How a kernel of a chain is started.
struct ChainShape {
  dim3 grid;
  int threads;
  int shared_bytes = 0;
  const void* states = nullptr;  // the pool whose states it starts from or ends with
};

// launch() for a kernel of a chain, whose file CMakeLists.txt lists as one. One whose states
// another of the chain may have written starts a new chain, when all before has ended.
template <class... Parameters, class... Args>
void launch_in_chain(const Device& device, std::string_view name, void (*kernel)(Parameters...),
                     const ChainShape& shape, Args&&... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  static const bool waits = can_wait(kernel);
  Context& context = context_of(device);
  std::vector<const void*>& named = context.chain_states;
  if (std::find(named.begin(), named.end(), shape.states) != named.end()) context.in_chain = false;
  if (!context.in_chain) named.clear();
  if (shape.states != nullptr) named.push_back(shape.states);
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.attrs = &early;
  config.numAttrs = context.in_chain && waits ? 1 : 0;
  constexpr int kSharedUnasked = 40 << 10;  // of 48 KB: a kernel has arrays of its own besides
  if (shape.shared_bytes > kSharedUnasked) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               shape.shared_bytes),
          name);
  }
  config.gridDim = shape.grid;
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = context.stream;
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...), name);
  context.in_chain = true;
}

inline dim3 grid_of(int64_t x, int64_t y = 1) {
  return {static_cast<unsigned>(x), static_cast<unsigned>(y), 1};
}

// Blocks of `threads` for kernels that walk n elements a grid at a time.
inline dim3 grid_for(int64_t n, int threads) {
  constexpr int64_t kMost = 132 * 32;
  return grid_of(std::min(divide_up(n, threads), kMost));
}

// Two neighbouring elements, which stand aligned for one access.
__device__ inline float2 load_pair(const float* at) { return *reinterpret_cast<const float2*>(at); }
__device__ inline float2 load_pair(const bf16* at) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(at));
}
__device__ inline void store_pair(float* at, float2 v) { *reinterpret_cast<float2*>(at) = v; }
__device__ inline void store_pair(bf16* at, float2 v) {
  *reinterpret_cast<__nv_bfloat162*>(at) = __float22bfloat162_rn(v);
}

// The same as they lie in memory: what is read ahead in bf16 takes half the registers.
template <class T>
struct Pair;
template <>
struct Pair<float> {
  float2 of;
  __device__ float2 wide() const { return of; }
};
template <>
struct Pair<bf16> {
  __nv_bfloat162 of;
  __device__ float2 wide() const { return __bfloat1622float2(of); }
};
template <class T>
__device__ Pair<T> read_pair(const T* at) {
  return *reinterpret_cast<const Pair<T>*>(at);
}

// Whether 16 bytes can be read at a time from its first element on.
inline bool is_aligned(const Tensor& t) { return reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0; }

// A matrix whose rows may be strided. An empty tensor gives no data.
template <class T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;

  Rows() = default;
  explicit Rows(const Tensor& t)
      : data(static_cast<T*>(t.raw())), stride(t.shape().rank() > 0 ? t.stride(0) : 0) {}
  __device__ T* row(int64_t r) const { return data + r * stride; }
  __device__ T& operator()(int64_t r, int64_t c) const { return data[r * stride + c]; }
  // Whether load_pair and store_pair may take every row's even columns.
  bool has_pairs() const {
    return reinterpret_cast<uintptr_t>(data) % (2 * sizeof(T)) == 0 && stride % 2 == 0;
  }
};

inline constexpr float kLog2e = 1.4426950408889634f;

// To two units in the last place; what would be denormal is zero.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// 1 / (1 + exp(-x)).
__device__ inline float fast_sigmoid(float x) {
  return reciprocal_fast(1.0f + exp2_fast(-kLog2e * x));
}

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
// As exact as a value that is then rounded to T shows.
template <class T>
__device__ float sigmoid_for(float x) {
  if constexpr (std::is_same_v<T, float>) return sigmoid(x);
  else return fast_sigmoid(x);
}
template <class T = float>
__device__ float silu(float x) {
  return x * sigmoid_for<T>(x);
}
template <class T = float>
__device__ float silu_slope(float x) {
  const float s = sigmoid_for<T>(x);
  return fmaf(s, x * (1.0f - s), s);
}
__device__ inline float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }
__device__ inline float softplus_slope(float x) { return x > 20.0f ? 1.0f : sigmoid(x); }

// The greatest and the sum of a warp's values, in every lane.
__device__ inline float warp_max(float value) {
  for (int step = 16; step > 0; step /= 2) {
    value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
  }
  return value;
}
template <class T>
__device__ T warp_sum(T value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  return value;
}

// The sum of all threads' values, in an order that the size of the block fixes, in every thread.
template <class T>
__device__ T block_sum(T value) {
  __shared__ T of_warp[32];
  value = warp_sum(value);
  const int warp = static_cast<int>(threadIdx.x) / 32, warps = static_cast<int>(blockDim.x) / 32;
  if (threadIdx.x % 32 == 0) of_warp[warp] = value;
  __syncthreads();
  T sum = 0;
  for (int w = 0; w < warps; ++w) sum += of_warp[w];
  __syncthreads();
  return sum;
}

// Which sequence holds row `row` of a table in which sequence s has its rows from
// cu[s] / every + s on (checkpoint_begin, for any `every`).
__device__ inline int64_t sequence_of_row(const int64_t* cu, int64_t n_seqs, int64_t every,
                                          int64_t row) {
  int64_t low = 0, high = n_seqs - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (cu[middle] / every + middle <= row) low = middle;
    else high = middle - 1;
  }
  return low;
}

}  // namespace elapse::cuda
