// SPDX-License-Identifier: Apache-2.0
// A block a token. Bound: memory; the logits are read twice forward (the second time mostly from
// the L2 cache), and read and written once backward: 8 bytes an element each way at best.
//
// With the head's product: parts of some thousand tokens, whose logits are written by the product,
// read into a block's shared memory, replaced by their gradient and read by two products more. A
// block takes a row after another, and the next one's logits come in while gradients go out. Rows
// that do not fit there are read twice. Bound: the three products; memory, 4 + 4 bytes an element
// and, in bf16, 2 + 2 + 2.
#include <cuda_pipeline.h>

#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/launch.cuh"
#include "elapse/backends/cuda/linear.h"
#include "elapse/backends/cuda/matrix_parts.h"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kHeadThreads = 1024, kHeadAhead = 4;  // the head's, and loads of a thread at a time
// Of the head's parts: the fewer there are, the less often all of dweight is read and written.
constexpr int64_t kLogitsOfPart = int64_t{1} << 27;

__device__ float block_max(float value) {
  __shared__ float of_warp[32];
  value = warp_max(value);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  for (int w = 0; w < static_cast<int>(blockDim.x) / 32; ++w) value = fmaxf(value, of_warp[w]);
  __syncthreads();
  return value;
}

__global__ void forward_kernel(Rows<const float> logits, const int64_t* targets, int64_t vocab,
                               float* logsumexp, double* losses) {
  const int64_t t = blockIdx.x;
  const float* row = logits.row(t);
  float largest = -INFINITY;
  bool bad = false;  // fmaxf passes over what is not a number
  for (int64_t v = threadIdx.x; v < vocab; v += kThreads) {
    largest = fmaxf(largest, row[v]);
    bad = bad || isnan(row[v]);
  }
  largest = block_max(largest);
  double sum = 0;
  for (int64_t v = threadIdx.x; v < vocab; v += kThreads) sum += expf(row[v] - largest);
  sum = block_sum(bad ? static_cast<double>(NAN) : sum);
  if (threadIdx.x > 0) return;
  const double lse = largest + log(sum);
  logsumexp[t] = static_cast<float>(lse);
  losses[t] = targets[t] == kIgnoredTarget ? 0 : lse - row[targets[t]];
}

// One block: the loss of all tokens, or, without `losses`, how many targets count.
__global__ void total_kernel(const double* losses, const int64_t* targets, int64_t tokens,
                             float* loss, double* count_out) {
  double total = 0, count = 0;
  for (int64_t t = threadIdx.x; t < tokens; t += kThreads) {
    if (losses != nullptr) total += losses[t];
    count += targets[t] == kIgnoredTarget ? 0 : 1;
  }
  total = block_sum(total);
  count = block_sum(count);
  if (threadIdx.x > 0) return;
  if (loss != nullptr) *loss = static_cast<float>(count == 0 ? 0 : total / count);
  if (count_out != nullptr) *count_out = count;
}

__global__ void backward_kernel(const float* dloss, const double* count, Rows<const float> logits,
                                const int64_t* targets, const float* logsumexp, int64_t vocab,
                                Rows<float> dlogits) {
  const int64_t t = blockIdx.x, target = targets[t];
  const float share = static_cast<float>(*dloss / fmax(1.0, *count)), lse = logsumexp[t];
  for (int64_t v = threadIdx.x; v < vocab; v += kThreads) {
    const float slope = expf(logits(t, v) - lse) - (v == target ? 1.0f : 0.0f);
    dlogits(t, v) = target == kIgnoredTarget ? 0.0f : share * slope;
  }
}

// The largest of some numbers and the sum of 2^(number - largest), as numbers come. Powers of two
// are what the GPU has: logits are multiplied by log2(e), which is rounded with the difference.
struct LogSumExp2 {
  // Less than all that are not excluded: of these the difference is -inf, their term 0.
  static constexpr float kLowest = -8e37f;
  float largest = kLowest, sum = 0;

  __device__ void add(float4 v) {
    const float most = kLog2e * fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w));
    if (most > largest) {
      sum *= exp2_fast(largest - most);
      largest = most;
    }
    sum += (term(v.x, largest) + term(v.y, largest)) + (term(v.z, largest) + term(v.w, largest));
  }
  __device__ static float term(float v, float shift) { return exp2_fast(fmaf(kLog2e, v, -shift)); }
};

// Four logits of a row, from v on; those past its end as excluded classes.
__device__ float4 logits_at(const float* row, int64_t v, int64_t vocab) {
  float4 x = *reinterpret_cast<const float4*>(row + v);
  if (v + 4 > vocab) {
    if (v + 1 >= vocab) x.y = -INFINITY;
    if (v + 2 >= vocab) x.z = -INFINITY;
    x.w = -INFINITY;
  }
  return x;
}

__device__ void store_four(float* at, float4 v) { *reinterpret_cast<float4*>(at) = v; }
__device__ void store_four(bf16* at, float4 v) {
  uint2 packed;
  auto* const pairs = reinterpret_cast<__nv_bfloat162*>(&packed);
  pairs[0] = __float22bfloat162_rn({v.x, v.y});
  pairs[1] = __float22bfloat162_rn({v.z, v.w});
  *reinterpret_cast<uint2*>(at) = packed;
}

// The same of all that a block's threads have, in every thread.
struct BlockLogSumExp2 {
  float largest[32];
  double sum[32];

  // With one barrier: another one is to be used before the same again.
  __device__ void of_threads(const LogSumExp2& own, float& most, double& total) {
    static_assert(kHeadThreads == 32 * 32);
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    most = warp_max(own.largest);
    total = warp_sum(double{exp2_fast(own.largest - most)} * own.sum);
    if (lane == 0) {
      largest[warp] = most;
      sum[warp] = total;
    }
    __syncthreads();
    const float of_warp = largest[lane];
    most = warp_max(of_warp);
    total = warp_sum(double{exp2_fast(of_warp - most)} * sum[lane]);
  }
};

// What blocks do with a row of logits, whose stride is a multiple of eight: a thread has four from
// each v = first() + k kStep on.
template <bool kKeeps>
struct HeadRow {
  static constexpr int64_t kStep = 4 * kHeadThreads;
  static constexpr int64_t kLate = 4 * kStep;  // asked for last, waited for last

  Rows<const float> logits;
  int64_t tokens, vocab;
  float4* kept;  // (vocab), where kKeeps

  __device__ static int64_t first() { return 4 * int64_t{threadIdx.x}; }
  __device__ int64_t late() const { return vocab - kLate; }

  // Has a row's logits from v on copied to where they are kept.
  __device__ void fetch(int64_t t, int64_t v) const {
    if (t < tokens) __pipeline_memcpy_async(kept + v / 4, logits.row(t) + v, sizeof(float4));
  }
  __device__ float4 at(int64_t t, int64_t v) const {
    return logits_at(kKeeps ? reinterpret_cast<const float*>(kept) : logits.row(t), v, vocab);
  }

  __device__ LogSumExp2 sum(int64_t t) const {
    LogSumExp2 sum;
    int64_t v = first();
    if constexpr (kKeeps) {
      __pipeline_wait_prior(1);
      for (; v < late(); v += kStep) sum.add(at(t, v));
      __pipeline_wait_prior(0);
      for (; v < vocab; v += kStep) sum.add(at(t, v));
    } else {
      for (; v < vocab; v += kStep * kHeadAhead) {
        float4 ahead[kHeadAhead];
#pragma unroll
        for (int k = 0; k < kHeadAhead; ++k) {
          if (v + k * kStep < vocab) ahead[k] = at(t, v + k * kStep);
        }
#pragma unroll
        for (int k = 0; k < kHeadAhead; ++k) {
          if (v + k * kStep < vocab) sum.add(ahead[k]);
        }
      }
    }
    return sum;
  }

  // Calls visit(v) for what the thread has, after which the same of row `next` is fetched.
  template <class Visit>
  __device__ void for_each(int64_t next, Visit&& visit) const {
    int64_t v = first();
    const auto walk = [&](int64_t end) {
      for (; v < end; v += kStep) {
        visit(v);
        if constexpr (kKeeps) fetch(next, v);
      }
      if constexpr (kKeeps) __pipeline_commit();
    };
    walk(late());
    walk(vocab);
  }
};

// Where rows are kept their gradients may take their places in memory, and float32 may in any
// case; the next row comes while one's gradient goes. Without `dlogits` the loss alone.
template <class T, bool kKeeps>
__global__ void __launch_bounds__(kHeadThreads)
    head_kernel(Rows<const float> logits, const int64_t* targets, const double* count,
                int64_t tokens, int64_t vocab, double* losses, Rows<T> dlogits) {
  extern __shared__ float4 kept[];
  __shared__ BlockLogSumExp2 sums[2];
  const HeadRow<kKeeps> row = {logits, tokens, vocab, kept};
  if constexpr (kKeeps) row.for_each(blockIdx.x, [](int64_t) {});
  const float of_one = static_cast<float>(1 / fmax(1.0, *count));
  for (int64_t t = blockIdx.x, turn = 0; t < tokens; t += gridDim.x, turn = 1 - turn) {
    const int64_t target = targets[t];
    const bool counts = target != kIgnoredTarget;
    // Read before the barrier, after which gradients are written.
    const float of_target = counts && threadIdx.x == 0 ? logits(t, target) : 0.0f;
    float most;
    double total;
    sums[turn].of_threads(row.sum(t), most, total);
    constexpr double kLn2 = 0.69314718055994530942;
    if (threadIdx.x == 0) losses[t] = counts ? most * kLn2 + log(total) - of_target : 0;
    if (dlogits.data == nullptr) continue;
    const float shift = most + log2f(static_cast<float>(total)), share = counts ? of_one : 0.0f;
    T* out = dlogits.row(t);
    row.for_each(t + gridDim.x, [&](int64_t v) {
      const float4 x = row.at(t, v);
      float4 slope = {LogSumExp2::term(x.x, shift), LogSumExp2::term(x.y, shift),
                      LogSumExp2::term(x.z, shift), LogSumExp2::term(x.w, shift)};
      if (const int64_t i = target - v; i >= 0 && i < 4) {
        if (i == 0) slope.x -= 1.0f;
        if (i == 1) slope.y -= 1.0f;
        if (i == 2) slope.z -= 1.0f;
        if (i == 3) slope.w -= 1.0f;
      }
      store_four(out + v, {share * slope.x, share * slope.y, share * slope.z, share * slope.w});
    });
  }
}

template <class T, bool kAdds>
__global__ void scale_kernel(const float* dloss, const T* unit, int64_t n, T* out) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += step) {
    const float product = *dloss * static_cast<float>(unit[i]);
    out[i] = static_cast<T>(kAdds ? static_cast<float>(out[i]) + product : product);
  }
}

void count_targets(Device& device, Op op, const Tensor& targets, const Tensor& count) {
  launch(device, name_of(op), total_kernel, grid_of(1), kThreads, 0, nullptr,
         targets.data<int64_t>(), targets.numel(), nullptr, count.data<double>());
}

// Shared memory for a row of a block, where it has that; else none.
int bytes_kept(int64_t stride) {
  int most = 0;
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0),
        "asking for the GPU");
  constexpr int64_t kOfSums = 1024;  // BlockLogSumExp2's
  const int64_t bytes = stride * int64_t{sizeof(float)};
  return bytes + kOfSums <= most ? static_cast<int>(bytes) : 0;
}

// In the memory of the logits, whose rows T needs no more of, or in its own.
template <class T>
Tensor place_of_dlogits(Device& device, const Tensor& logits, bool kept) {
  constexpr DType dtype = std::is_same_v<T, float> ? DType::f32 : DType::bf16;
  constexpr int64_t kShare = sizeof(float) / sizeof(T);
  if (!kept && kShare > 1) return device.empty(dtype, logits.shape());
  return Tensor::wrap(logits.raw(), dtype, {logits.dim(0), kShare * logits.dim(1)});
}

template <class T>
auto head_kernel_for(int bytes) {
  if (bytes == 0) return head_kernel<T, false>;
  check(cudaFuncSetAttribute(head_kernel<T, true>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             bytes),
        name_of(Op::linear_cross_entropy_forward));
  return head_kernel<T, true>;
}

// As many blocks as run at a time.
template <class Kernel>
int64_t resident_blocks(Kernel kernel, int threads, int shared_bytes) {
  int of_one = 0, multiprocessors = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&of_one, kernel, threads,
                                                      static_cast<size_t>(shared_bytes)),
        "asking for a kernel");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0),
        "asking for the GPU");
  return int64_t{of_one} * multiprocessors;
}

}  // namespace

template <class T>
void linear_cross_entropy_forward(Device& device, const LinearCrossEntropyForward& a) {
  const int64_t tokens = a.x.dim(0), d_model = a.x.dim(1), vocab = a.weight.dim(0);
  const int64_t stride = divide_up(vocab, 8) * 8;
  const int64_t rows = std::clamp<int64_t>(kLogitsOfPart / stride / 128 * 128, 128, tokens + 128);
  const Tensor losses = device.empty(DType::f64, {tokens}), count = device.empty(DType::f64, {1});
  const Tensor weight = converted(device, a.weight, a.x.dtype());
  const Tensor all_logits = device.empty(DType::f32, {std::min(rows, tokens), stride});
  const int kept = a.dx ? bytes_kept(stride) : 0;
  const auto kernel = head_kernel_for<T>(kept);
  const int64_t most_blocks = resident_blocks(kernel, kHeadThreads, kept);
  const Tensor all_dlogits = a.dx ? place_of_dlogits<T>(device, all_logits, kept > 0) : Tensor();
  count_targets(device, a.kOp, a.targets, count);
  if (a.dx && tokens == 0) fill_rows(device, {}, a.dweight);
  for (int64_t begin = 0; begin < tokens; begin += rows) {
    const int64_t part = std::min(rows, tokens - begin);
    const Tensor x = a.x.rows(begin, begin + part);
    const Tensor logits = all_logits.rows(0, part).columns(0, vocab);
    multiply(device, a.kOp, vocab, part, d_model, {CUBLAS_OP_T, weight}, {CUBLAS_OP_N, x}, 0,
             logits);
    const Tensor dlogits = a.dx ? all_dlogits.rows(0, part).columns(0, vocab) : Tensor();
    launch(device, name_of(a.kOp), kernel, grid_of(std::min(part, most_blocks)), kHeadThreads, kept,
           Rows<const float>(logits), a.targets.data<int64_t>() + begin, count.data<double>(), part,
           vocab, losses.data<double>() + begin, Rows<T>(dlogits));
    if (!a.dx) continue;
    multiply(device, a.kOp, d_model, part, vocab, {CUBLAS_OP_N, weight}, {CUBLAS_OP_N, dlogits}, 0,
             a.dx.rows(begin, begin + part));
    multiply(device, a.kOp, d_model, vocab, part, {CUBLAS_OP_N, x}, {CUBLAS_OP_T, dlogits},
             begin == 0 ? 0 : 1, a.dweight);
  }
  launch(device, name_of(a.kOp), total_kernel, grid_of(1), kThreads, 0, losses.data<double>(),
         a.targets.data<int64_t>(), tokens, a.loss.data<float>(), nullptr);
}

template <class T>
void linear_cross_entropy_backward(Device& device, const LinearCrossEntropyBackward& a) {
  launch(device, name_of(a.kOp), scale_kernel<T, false>, grid_for(a.dx.numel(), kThreads), kThreads,
         0, a.dloss.data<float>(), static_cast<const T*>(a.unit_dx.raw()), a.dx.numel(),
         static_cast<T*>(a.dx.raw()));
  if (!a.dweight) return;
  launch(device, name_of(a.kOp), scale_kernel<float, true>, grid_for(a.dweight.numel(), kThreads),
         kThreads, 0, a.dloss.data<float>(), a.unit_dweight.data<float>(), a.dweight.numel(),
         a.dweight.data<float>());
}

template void linear_cross_entropy_forward<float>(Device&, const LinearCrossEntropyForward&);
template void linear_cross_entropy_forward<bf16>(Device&, const LinearCrossEntropyForward&);
template void linear_cross_entropy_backward<float>(Device&, const LinearCrossEntropyBackward&);
template void linear_cross_entropy_backward<bf16>(Device&, const LinearCrossEntropyBackward&);

void cross_entropy_forward(Device& device, const CrossEntropyForward& a) {
  const int64_t tokens = a.logits.dim(0);
  const Tensor losses = device.empty(DType::f64, {tokens});
  launch(device, name_of(a.kOp), forward_kernel, grid_of(tokens), kThreads, 0,
         Rows<const float>(a.logits), a.targets.data<int64_t>(), a.logits.dim(1),
         a.logsumexp.data<float>(), losses.data<double>());
  launch(device, name_of(a.kOp), total_kernel, grid_of(1), kThreads, 0, losses.data<double>(),
         a.targets.data<int64_t>(), tokens, a.loss.data<float>(), nullptr);
}

void cross_entropy_backward(Device& device, const CrossEntropyBackward& a) {
  const int64_t tokens = a.logits.dim(0);
  const Tensor count = device.empty(DType::f64, {1});
  count_targets(device, a.kOp, a.targets, count);
  launch(device, name_of(a.kOp), backward_kernel, grid_of(tokens), kThreads, 0,
         a.dloss.data<float>(), count.data<double>(), Rows<const float>(a.logits),
         a.targets.data<int64_t>(), a.logsumexp.data<float>(), a.logits.dim(1),
         Rows<float>(a.dlogits));
}

}  // namespace elapse::cuda
