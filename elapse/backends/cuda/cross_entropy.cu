// SPDX-License-Identifier: Apache-2.0
// A block a token. Bound: memory; the logits are read twice forward (the second time mostly from
// the L2 cache), and read and written once backward: 8 bytes an element each way at best.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/launch.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 512;

__device__ float block_max(float value) {
  __shared__ float of_warp[32];
  for (int step = 16; step > 0; step /= 2) {
    value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
  }
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

}  // namespace

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
  launch(device, name_of(a.kOp), total_kernel, grid_of(1), kThreads, 0, nullptr,
         a.targets.data<int64_t>(), tokens, nullptr, count.data<double>());
  launch(device, name_of(a.kOp), backward_kernel, grid_of(tokens), kThreads, 0,
         a.dloss.data<float>(), count.data<double>(), Rows<const float>(a.logits),
         a.targets.data<int64_t>(), a.logsumexp.data<float>(), a.logits.dim(1),
         Rows<float>(a.dlogits));
}

}  // namespace elapse::cuda
