// SPDX-License-Identifier: Apache-2.0
// By chunks (gla_chunks.cuh). Short sequences, as in decoding, whoever watches or edits the
// recurrence, and chunks of more than 64 tokens go through the scan of outer products
// (outer_scan.cuh) with a decay for each state of a head's keys, made before it: 8 bytes a token
// and state. Backward that leaves three numbers a token and state of every 32 channels, which are
// summed here: 24 bytes.
#include "elapse/backends/cuda/gla_chunks.cuh"
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/outer_scan.cuh"
#include "elapse/backends/cuda/slots.h"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kLeastChunk = 16;  // tokens of the longest sequence from which chunks pay

// A thread a token and state of a head's keys.
template <class T>
struct Decays {
  Rows<const T> log_decay;
  int64_t width;  // n_heads d_k
  TapView tap;
  float* decay;  // (tokens, width)
  int* edited;   // set to 1 where an edit changes one; or null
};
template <class T>
__global__ void decays_kernel(const __grid_constant__ Decays<T> a) {
  const int64_t t = blockIdx.x, column = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  if (column >= a.width) return;
  bool changed = false;
  a.decay[t * a.width + column] =
      a.tap.through(expf(static_cast<float>(a.log_decay(t, column))), t, column, 0, changed);
  if (changed && a.edited != nullptr) *a.edited = 1;
}

// The decays of a call, made on the device, and its scan.
template <class T>
struct Made {
  Tensor memory;
  Decays<T> decays;
  OuterScan<T> scan;
};

template <class T>
Made<T> make(Device& device, const GlaInputs& in, const GlaTaps& taps, TapViews& views,
             int* edited = nullptr) {
  const int64_t width = in.q.dim(1), d_inner = in.d_inner(), d_k = in.d_k();
  Made<T> made;
  made.memory = device.empty(DType::f32, Shape{in.seqs.tokens, width});
  made.decays = {Rows<const T>(in.log_decay), width, views.view(taps.decay, width),
                 static_cast<float*>(made.memory.raw()), edited};
  launch(device, "gla decays", decays_kernel<T>,
         grid_of(in.seqs.tokens, divide_up(width, kThreads)), kThreads, 0, made.decays);
  made.scan = {.q = Rows<const T>(in.q),
               .k = Rows<const T>(in.k),
               .v = Rows<const T>(in.v),
               .decay = made.decays.decay,
               .dt = nullptr,
               .D = nullptr,
               .D_by_channel = false,
               .cu = in.seqs.cu_seqlens.data<int64_t>(),
               .start_slots = in.seqs.start_slots.data<int64_t>(),
               .end_slots = in.seqs.end_slots.data<int64_t>(),
               .n_seqs = in.seqs.count(),
               .tokens = in.seqs.tokens,
               .n_heads = in.n_heads,
               .heads_of_group = 1,
               .d_k = d_k,
               .d_v = in.d_v(),
               .d_inner = d_inner,
               .chunk = in.chunk,
               .B_bar_tap = {},
               .write_tap = views.view(taps.write, d_inner, d_k),
               .h_tap = views.view(taps.h, d_inner, d_k),
               .readout_tap = views.view(taps.readout_h, d_inner, d_k),
               .y_tap = {},
               .edited = edited};
  return made;
}

// A thread a token and state: sums over the blocks of its head.
template <class T>
__global__ void gather_kernel(const __grid_constant__ OuterScanBackward<T> a,
                              const __grid_constant__ Decays<T> decays, Rows<T> dq, Rows<T> dk,
                              Rows<T> dlog_decay) {
  const OuterScan<T>& in = a.in;
  const int64_t t = blockIdx.x, column = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  if (column >= in.n_heads * in.d_k) return;
  const int64_t head = column / in.d_k, n = column % in.d_k;
  float q = 0, k = 0, decay = 0;
  for (int64_t tile = 0; tile < in.tiles(); ++tile) {
    const int64_t at = ((head * in.tiles() + tile) * in.tokens + t) * in.d_k + n;
    q += a.dq[at];
    k += a.dk[at];
    decay += a.ddecay[at];
  }
  dq(t, column) = static_cast<T>(q);
  dk(t, column) = static_cast<T>(k);
  dlog_decay(t, column) = static_cast<T>(decays.tap.back(decay, t, column, 0) *
                                         expf(static_cast<float>(decays.log_decay(t, column))));
}

template <class T>
bool by_chunks(const GlaInputs& in) {
  return in.chunk <= kTile && in.seqs.max_len >= kLeastChunk && can_run_gla_chunks<T>();
}

template <class T>
GlaChunks<T> chunks_of(const GlaInputs& in) {
  return {.sizes = {.cu = in.seqs.cu_seqlens.data<int64_t>(),
                    .start_slots = in.seqs.start_slots.data<int64_t>(),
                    .end_slots = in.seqs.end_slots.data<int64_t>(),
                    .n_seqs = in.seqs.count(),
                    .tokens = in.seqs.tokens,
                    .n_heads = in.n_heads,
                    .head_dim = in.d_v(),
                    .d_state = in.d_k(),
                    .chunk = in.chunk},
          .q = Rows<const T>(in.q),
          .k = Rows<const T>(in.k),
          .v = Rows<const T>(in.v),
          .log_decay = Rows<const T>(in.log_decay)};
}

template <class T>
void forward_by_chunks(Device& device, const GlaForward& a) {
  float* pool = a.pool ? a.pool.data<float>() : nullptr;
  const GlaChunks<T> in = chunks_of<T>(a.in);
  Tensor states = a.checkpoints;
  if (!states) {
    states =
        device.empty(DType::f32, Shape{in.sizes.rows(), in.sizes.d_inner() * in.sizes.d_state});
  }
  gla_chunks_forward<T>(device, {in, pool, pool, states.template data<float>(), Rows<T>(a.out)});
}

// Where its results are only watched, the outputs and the states at the end are let go.
template <class T>
void forward_by_tokens(Device& device, const GlaForward& a, bool only_watched,
                       int* edited = nullptr) {
  TapViews views(device);
  const Made made = make<T>(device, a.in, a.taps, views, edited);
  float* pool = a.pool ? a.pool.data<float>() : nullptr;
  const Tensor out = only_watched ? device.empty(a.out.dtype(), a.out.shape()) : a.out;
  const bool keeps = a.checkpoints && !only_watched;
  const OuterScanForward<T> args = {.in = made.scan,
                                    .start = pool,
                                    .end = only_watched ? nullptr : pool,
                                    .checkpoints = keeps ? a.checkpoints.data<float>() : nullptr,
                                    .y = Rows<T>(out)};
  outer_scan_forward(device, a.kOp, args, false, a.taps.active_forward());
}

template <class T>
void forward(Device& device, const GlaForward& a) {
  if (!by_chunks<T>(a.in)) return forward_by_tokens<T>(device, a, false);
  if (a.taps.active_forward()) {
    const EditFlag edited(device, a.taps.edited());
    forward_by_tokens<T>(device, a, true, edited.pointer());
    if (a.taps.edited() && edited.is_set()) return forward_by_tokens<T>(device, a, false);
  }
  forward_by_chunks<T>(device, a);
}

template <class T>
void backward_by_chunks(Device& device, const GlaBackward& a, const float* dend, float* dstart) {
  gla_chunks_backward<T>(device, {.in = chunks_of<T>(a.in),
                                  .dout = Rows<const T>(a.dout),
                                  .states = a.checkpoints.data<float>(),
                                  .dend = dend,
                                  .dstart = dstart,
                                  .dq = Rows<T>(a.dq),
                                  .dk = Rows<T>(a.dk),
                                  .dv = Rows<T>(a.dv),
                                  .dlog_decay = Rows<T>(a.dlog_decay)});
}

template <class T>
void backward_by_tokens(Device& device, const GlaBackward& a, const float* dend, float* dstart) {
  TapViews views(device);
  const Made made = make<T>(device, a.in, a.taps, views);
  const OuterScan<T>& in = made.scan;
  const Tensor sums =
      device.empty(DType::f32, Shape{3, in.n_heads * in.tiles() * in.tokens * in.d_k});
  const Tensor kept = device.empty(DType::f32, Shape{outer_scan_kept(in)});
  const OuterScanBackward<T> args = {.in = in,
                                     .dy = Rows<const T>(a.dout),
                                     .checkpoints = a.checkpoints.data<float>(),
                                     .dend = dend,
                                     .dstart = dstart,
                                     .kept = kept.data<float>(),
                                     .dq = sums.data<float>(),
                                     .dk = sums.data<float>() + sums.dim(1),
                                     .ddecay = sums.data<float>() + 2 * sums.dim(1),
                                     .dv = Rows<T>(a.dv)};
  outer_scan_backward(device, a.kOp, args, false, a.taps.active_backward());
  launch(device, name_of(a.kOp), gather_kernel<T>,
         grid_of(in.tokens, divide_up(in.n_heads * in.d_k, kThreads)), kThreads, 0, args,
         made.decays, Rows<T>(a.dq), Rows<T>(a.dk), Rows<T>(a.dlog_decay));
}

template <class T>
void backward(Device& device, const GlaBackward& a) {
  Tensor dend, dstart;
  if (a.dpool) {
    dend = take_end_gradients(device, a.dpool, a.in.seqs);
    dstart = device.empty(DType::f32, dend.shape());
  }
  const float* of_end = dend ? dend.data<float>() : nullptr;
  float* of_start = dstart ? dstart.data<float>() : nullptr;
  const bool tapped = a.taps.active_backward();
  if (tapped || !by_chunks<T>(a.in)) backward_by_tokens<T>(device, a, of_end, of_start);
  else backward_by_chunks<T>(device, a, of_end, of_start);
  if (a.dpool) give_start_gradients(device, dstart, a.in.seqs, a.dpool);
}

}  // namespace

void gla_forward(Device& device, const GlaForward& a) {
  if (a.in.q.dtype() == DType::bf16) forward<bf16>(device, a);
  else forward<float>(device, a);
}

void gla_backward(Device& device, const GlaBackward& a) {
  if (a.in.q.dtype() == DType::bf16) backward<bf16>(device, a);
  else backward<float>(device, a);
}

}  // namespace elapse::cuda
