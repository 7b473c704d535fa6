// SPDX-License-Identifier: Apache-2.0
// The small operations of compositions, a thread an element or a chain of them. Bound: memory, 8
// bytes an element of a shift, 12 of a recurrence and 20 of its backward, whose threads are as many
// as there are states, and wait for each token.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/launch.cuh"
#include "elapse/backends/cuda/sequences.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void shift_kernel(Rows<const float> x, Rows<float> out, const int64_t* cu,
                             int64_t n_seqs, int64_t d_inner, int64_t by) {
  const int64_t e = blockIdx.y * int64_t{kThreads} + threadIdx.x, t = blockIdx.x;
  if (e >= d_inner) return;
  const int64_t s = sequence_of_token(cu, n_seqs, t), from = t - by;
  out(t, e) = from >= cu[s] && from < cu[s + 1] ? x(from, e) : 0.0f;
}

__global__ void recurrence_kernel(const float* decay, const float* write, const int64_t* cu,
                                  int64_t states, float* h) {
  const int64_t i = blockIdx.y * int64_t{kThreads} + threadIdx.x, s = blockIdx.x;
  if (i >= states) return;
  float state = 0;
  for (int64_t t = cu[s]; t < cu[s + 1]; ++t) {
    state = fmaf(decay[t * states + i], state, write[t * states + i]);
    h[t * states + i] = state;
  }
}

__global__ void recurrence_backward_kernel(const float* dh, const float* decay, const float* h,
                                           const int64_t* cu, int64_t states, float* ddecay,
                                           float* dwrite) {
  const int64_t i = blockIdx.y * int64_t{kThreads} + threadIdx.x, s = blockIdx.x;
  if (i >= states) return;
  float later = 0;
  for (int64_t t = cu[s + 1] - 1; t >= cu[s]; --t) {
    const float gradient = dh[t * states + i] + later;
    ddecay[t * states + i] = t > cu[s] ? gradient * h[(t - 1) * states + i] : 0.0f;
    dwrite[t * states + i] = gradient;
    later = gradient * decay[t * states + i];
  }
}

}  // namespace

void causal_shift(Device& device, const CausalShift& a) {
  launch(device, name_of(a.kOp), shift_kernel,
         grid_of(a.seqs.tokens, divide_up(a.x.dim(1), kThreads)), kThreads, 0,
         Rows<const float>(a.x), Rows<float>(a.out), a.seqs.cu_seqlens.data<int64_t>(),
         a.seqs.count(), a.x.dim(1), a.by);
}

void recurrence(Device& device, const Recurrence& a) {
  const int64_t states = a.h.dim(1) * a.h.dim(2);
  launch(device, name_of(a.kOp), recurrence_kernel,
         grid_of(a.seqs.count(), divide_up(states, kThreads)), kThreads, 0, a.decay.data<float>(),
         a.write.data<float>(), a.seqs.cu_seqlens.data<int64_t>(), states, a.h.data<float>());
}

void recurrence_backward(Device& device, const RecurrenceBackward& a) {
  const int64_t states = a.h.dim(1) * a.h.dim(2);
  launch(device, name_of(a.kOp), recurrence_backward_kernel,
         grid_of(a.seqs.count(), divide_up(states, kThreads)), kThreads, 0, a.dh.data<float>(),
         a.decay.data<float>(), a.h.data<float>(), a.seqs.cu_seqlens.data<int64_t>(), states,
         a.ddecay.data<float>(), a.dwrite.data<float>());
}

}  // namespace elapse::cuda
