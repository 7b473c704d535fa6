// SPDX-License-Identifier: Apache-2.0
// A block a row. Bound: memory, 4 (1 + width) bytes an element of x each way; a row that stands
// beside `width` tokens is read from memory once, by dilations that the L2 cache holds. The queues
// of sequences that end in a slot are written when all have been read.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/launch.cuh"
#include "elapse/backends/cuda/sequences.cuh"
#include "elapse/backends/cuda/slots.h"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 128;

struct View {
  Delays delays;
  const int64_t* cu;
  const int64_t* start_slots;
  const int64_t* end_slots;
  const int64_t* positions;  // (n_seqs), or null: zeros
  int64_t n_seqs, d_model;

  __device__ int64_t rows() const { return (delays.width - 1) * delays.dilation; }
  __device__ int64_t delay(int64_t block) const {
    return (delays.width - 1 - block) * delays.dilation;
  }
  // Of time t of sequence s, counted from its first token here, in a slot's ring.
  __device__ int64_t queue_row(int64_t s, int64_t t) const {
    const int64_t position = t + (positions == nullptr ? 0 : positions[s]);
    const int64_t r = position % rows();
    return r < 0 ? r + rows() : r;
  }
  // Of (slots or n_seqs, rows, d_model).
  __device__ int64_t queue_at(int64_t slot, int64_t s, int64_t t, int64_t e) const {
    return (slot * rows() + queue_row(s, t)) * d_model + e;
  }
  __device__ int64_t sequence_of(int64_t token) const {
    return sequence_of_token(cu, n_seqs, token);
  }
};

// x of time t of sequence s, which may be before its first token.
template <class T>
__device__ float input_at(const View& a, const Rows<const T>& x, const float* pool, int64_t s,
                          int64_t t, int64_t e) {
  if (t >= 0) return static_cast<float>(x(a.cu[s] + t, e));
  const int64_t slot = a.start_slots[s];
  return slot < 0 ? 0.0f : pool[a.queue_at(slot, s, t, e)];
}

template <class T>
__global__ void forward_kernel(const __grid_constant__ View a, Rows<const T> x, const float* pool,
                               Rows<T> out) {
  const int64_t token = blockIdx.x, s = a.sequence_of(token), t = token - a.cu[s];
  for (int64_t i = threadIdx.x; i < a.delays.width * a.d_model; i += kThreads) {
    const int64_t block = i / a.d_model;
    out(token, i) = static_cast<T>(input_at(a, x, pool, s, t - a.delay(block), i % a.d_model));
  }
}

// A block a row of a sequence's end queue. What a sequence keeps in the slot it starts from stands
// there already.
template <class T>
__global__ void end_kernel(const __grid_constant__ View a, Rows<const T> x, float* pool) {
  const int64_t s = blockIdx.x / a.rows(), slot = a.end_slots[s];
  const int64_t t = a.cu[s + 1] - a.cu[s] - 1 - blockIdx.x % a.rows();
  if (slot < 0 || (t < 0 && slot == a.start_slots[s])) return;
  for (int64_t e = threadIdx.x; e < a.d_model; e += kThreads) {
    pool[a.queue_at(slot, s, t, e)] = input_at(a, x, pool, s, t, e);
  }
}

// The gradient of time t's row: from every token that has it beside itself, and from the end's
// queue, dend (n_seqs, rows, d_model), or null.
template <class T>
__device__ float gradient_at(const View& a, const Rows<const T>& dout, const float* dend, int64_t s,
                             int64_t t, int64_t e) {
  const int64_t len = a.cu[s + 1] - a.cu[s];
  const bool remains = dend != nullptr && t >= len - a.rows();
  double sum = remains ? dend[a.queue_at(s, s, t, e)] : 0.0f;
  for (int64_t block = 0; block < a.delays.width; ++block) {
    const int64_t reader = t + a.delay(block);
    if (reader < 0 || reader >= len) continue;
    sum += static_cast<float>(dout(a.cu[s] + reader, block * a.d_model + e));
  }
  return static_cast<float>(sum);
}

template <class T>
__global__ void backward_kernel(const __grid_constant__ View a, Rows<const T> dout,
                                const float* dend, Rows<T> dx) {
  const int64_t token = blockIdx.x, s = a.sequence_of(token), t = token - a.cu[s];
  for (int64_t e = threadIdx.x; e < a.d_model; e += kThreads) {
    dx(token, e) = static_cast<T>(gradient_at(a, dout, dend, s, t, e));
  }
}

// A block a row of a sequence's start queue: dstart (n_seqs, rows, d_model).
template <class T>
__global__ void start_kernel(const __grid_constant__ View a, Rows<const T> dout, const float* dend,
                             float* dstart) {
  const int64_t s = blockIdx.x / a.rows(), t = -1 - blockIdx.x % a.rows();
  for (int64_t e = threadIdx.x; e < a.d_model; e += kThreads) {
    dstart[a.queue_at(s, s, t, e)] = gradient_at(a, dout, dend, s, t, e);
  }
}

template <class Args>
View view_of(Device& device, const Args& a, int64_t d_model, Tensor& positions) {
  if (!a.seqs.positions.empty()) positions = device.upload(a.seqs.positions, {a.seqs.count()});
  return {a.delays,
          a.seqs.cu_seqlens.template data<int64_t>(),
          a.seqs.start_slots.template data<int64_t>(),
          a.seqs.end_slots.template data<int64_t>(),
          positions ? positions.data<int64_t>() : nullptr,
          a.seqs.count(),
          d_model};
}

template <class T>
void forward(Device& device, const DelayedForward& a) {
  Tensor positions;
  const View view = view_of(device, a, a.x.dim(1), positions);
  float* pool = a.pool ? a.pool.data<float>() : nullptr;
  launch(device, name_of(a.kOp), forward_kernel<T>, grid_of(a.seqs.tokens), kThreads, 0, view,
         Rows<const T>(a.x), pool, Rows<T>(a.out));
  if (pool == nullptr) return;
  launch(device, name_of(a.kOp), end_kernel<T>, grid_of(a.delays.queue_rows() * a.seqs.count()),
         kThreads, 0, view, Rows<const T>(a.x), pool);
}

template <class T>
void backward(Device& device, const DelayedBackward& a) {
  Tensor positions, dend;
  const View view = view_of(device, a, a.dx.dim(1), positions);
  const Rows<const T> dout(a.dout);
  if (a.dpool) dend = take_end_gradients(device, a.dpool, a.seqs);
  const float* ends = dend ? dend.data<float>() : nullptr;
  launch(device, name_of(a.kOp), backward_kernel<T>, grid_of(a.seqs.tokens), kThreads, 0, view,
         dout, ends, Rows<T>(a.dx));
  if (!a.dpool) return;
  const Tensor dstart = device.empty(DType::f32, dend.shape());
  launch(device, name_of(a.kOp), start_kernel<T>, grid_of(a.delays.queue_rows() * a.seqs.count()),
         kThreads, 0, view, dout, ends, dstart.data<float>());
  give_start_gradients(device, dstart, a.seqs, a.dpool);
}

}  // namespace

void delayed_forward(Device& device, const DelayedForward& a) {
  if (a.x.dtype() == DType::bf16) forward<bf16>(device, a);
  else forward<float>(device, a);
}

void delayed_backward(Device& device, const DelayedBackward& a) {
  if (a.dx.dtype() == DType::bf16) backward<bf16>(device, a);
  else backward<float>(device, a);
}

}  // namespace elapse::cuda
