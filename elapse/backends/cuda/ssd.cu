// SPDX-License-Identifier: Apache-2.0
// The steps dt, a thread a token and head, and then chunks (ssd_chunks.cuh). Short sequences, as in
// decoding, whoever watches or edits the recurrence, and chunks of more than 64 tokens go through
// the scan of outer products (outer_scan.cuh) with a decay a head. Backward that leaves two numbers
// a token and state of every 32 channels, which are summed here over the heads of a group: 16
// bytes.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/matrix_parts.h"
#include "elapse/backends/cuda/outer_scan.cuh"
#include "elapse/backends/cuda/slots.h"
#include "elapse/backends/cuda/ssd_chunks.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kTokensOfPart = 64;
constexpr int64_t kLeastChunk = 16;  // tokens of the longest sequence from which chunks pay

template <class T>
struct Steps {
  Rows<const T> dt_raw;
  const float* dt_bias;
  const float* A;
  float dt_min, dt_max;
  int64_t tokens, n_heads;
  TapView dt_pre_tap, dt_tap, decay_tap;
  float* dt_pre;  // (tokens, n_heads), as are
  float* dt;
  float* decay;
  int* edited;  // set to 1 where an edit changes a decay; or null
};

template <class T>
__global__ void steps_kernel(const __grid_constant__ Steps<T> a) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= a.tokens * a.n_heads) return;
  const int64_t t = i / a.n_heads, k = i % a.n_heads;
  bool changed = false;
  const float pre =
      a.dt_pre_tap.through(static_cast<float>(a.dt_raw(t, k)) + a.dt_bias[k], t, k, 0, changed);
  const float within = fminf(fmaxf(softplus(pre), a.dt_min), a.dt_max);
  const float dt = a.dt_tap.through(within, t, k, 0, changed);
  a.dt_pre[i] = pre;
  a.dt[i] = dt;
  changed = false;
  a.decay[i] = a.decay_tap.through(expf(dt * a.A[k]), t, k, 0, changed);
  if (changed && a.edited != nullptr) *a.edited = 1;
}

// The steps of a call, made on the device, and its scan.
template <class T>
struct Made {
  Tensor memory;
  Steps<T> steps;
  OuterScan<T> scan;
};

template <class T>
Made<T> make(Device& device, const SsdInputs& in, const SsdTaps& taps, TapViews& views,
             int* edited = nullptr) {
  const int64_t tokens = in.seqs.tokens, n_heads = in.n_heads(), d_inner = in.d_inner(),
                d_state = in.d_state();
  const auto view = [&](SsdPoint p, int64_t channels, int64_t states = 1) {
    return views.view(tap(taps, p), channels, states);
  };
  Made<T> made;
  made.memory = device.empty(DType::f32, Shape{3, tokens * n_heads});
  auto* memory = static_cast<float*>(made.memory.raw());
  made.steps = {.dt_raw = Rows<const T>(in.dt_raw),
                .dt_bias = in.dt_bias.data<float>(),
                .A = in.A.data<float>(),
                .dt_min = static_cast<float>(in.dt_min),
                .dt_max = static_cast<float>(in.dt_max),
                .tokens = tokens,
                .n_heads = n_heads,
                .dt_pre_tap = view(SsdPoint::dt_pre, n_heads),
                .dt_tap = view(SsdPoint::dt, n_heads),
                .decay_tap = view(SsdPoint::decay, n_heads),
                .dt_pre = memory,
                .dt = memory + tokens * n_heads,
                .decay = memory + 2 * tokens * n_heads,
                .edited = edited};
  made.scan = {.q = Rows<const T>(in.C),
               .k = Rows<const T>(in.B),
               .v = Rows<const T>(in.x),
               .decay = made.steps.decay,
               .dt = made.steps.dt,
               .D = in.D.data<float>(),
               .D_by_channel = in.D.numel() == d_inner,
               .cu = in.seqs.cu_seqlens.data<int64_t>(),
               .start_slots = in.seqs.start_slots.data<int64_t>(),
               .end_slots = in.seqs.end_slots.data<int64_t>(),
               .n_seqs = in.seqs.count(),
               .tokens = tokens,
               .n_heads = n_heads,
               .heads_of_group = n_heads / in.n_groups,
               .d_k = d_state,
               .d_v = in.head_dim(),
               .d_inner = d_inner,
               .chunk = in.chunk,
               .B_bar_tap = view(SsdPoint::B_bar, n_heads, d_state),
               .write_tap = view(SsdPoint::write, d_inner, d_state),
               .h_tap = view(SsdPoint::h, d_inner, d_state),
               .readout_tap = view(SsdPoint::readout_h, d_inner, d_state),
               .y_tap = view(SsdPoint::y, d_inner),
               .edited = edited};
  launch(device, "ssd steps", steps_kernel<T>, grid_of(divide_up(tokens * n_heads, kThreads)),
         kThreads, 0, made.steps);
  return made;
}

template <class T>
SsdChunks<T> chunks_of(const Made<T>& made, const SsdInputs& in) {
  const OuterScan<T>& scan = made.scan;
  return {.sizes = {.cu = scan.cu,
                    .start_slots = scan.start_slots,
                    .end_slots = scan.end_slots,
                    .n_seqs = scan.n_seqs,
                    .tokens = scan.tokens,
                    .n_heads = scan.n_heads,
                    .head_dim = scan.d_v,
                    .d_state = scan.d_k,
                    .chunk = in.chunk},
          .x = scan.v,
          .B = scan.k,
          .C = scan.q,
          .dt = scan.dt,
          .A = made.steps.A,
          .D = scan.D,
          .D_by_channel = scan.D_by_channel,
          .heads_of_group = scan.heads_of_group};
}

template <class T>
bool by_chunks(const SsdInputs& in) {
  return in.chunk <= kTile && in.seqs.max_len >= kLeastChunk && can_run_chunks<T>();
}

// What a token's dt passes on: the gradient of dt_raw, and its shares of A's and dt_bias's.
template <class T>
struct StepGradients {
  Steps<T> steps;
  Rows<T> ddt_raw;
  float* dA;       // (tokens, n_heads)
  float* ddt_pre;  // likewise: ddt_raw before it is rounded

  // From those of dt, but for the exponent dt A, and of that.
  __device__ void put(int64_t t, int64_t head, double ddt, double dexponent) const {
    const int64_t i = t * steps.n_heads + head;
    const float A = steps.A[head], dt = steps.dt[i], pre = steps.dt_pre[i];
    dA[i] = static_cast<float>(dexponent * dt);
    const float limited = softplus(pre);
    const bool in_limits = limited >= steps.dt_min && limited <= steps.dt_max;
    const float dwithin = steps.dt_tap.back(static_cast<float>(ddt + dexponent * A), t, head, 0);
    const float of_pre =
        steps.dt_pre_tap.back(in_limits ? dwithin * softplus_slope(pre) : 0.0f, t, head, 0);
    ddt_pre[i] = of_pre;
    ddt_raw(t, head) = static_cast<T>(of_pre);
  }
};

template <class T>
struct Gather {
  OuterScanBackward<T> scan;
  StepGradients<T> steps;
  Rows<T> dB, dC;

  // The gradient of dt B, of one head, before its tap.
  __device__ float dB_bar(int64_t t, int64_t head, int64_t n) const {
    const OuterScan<T>& in = scan.in;
    float sum = 0;
    for (int64_t tile = 0; tile < in.tiles(); ++tile) {
      sum += scan.dk[((head * in.tiles() + tile) * in.tokens + t) * in.d_k + n];
    }
    return sum;
  }
};

// A thread a token, group and state.
template <class T>
__global__ void groups_kernel(const __grid_constant__ Gather<T> a) {
  const OuterScan<T>& in = a.scan.in;
  const int64_t t = blockIdx.x, column = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  if (column >= in.n_heads / in.heads_of_group * in.d_k) return;
  const int64_t group = column / in.d_k, n = column % in.d_k;
  TapView edits = in.B_bar_tap;
  edits.gradient = nullptr;  // heads_kernel keeps it
  float dB = 0, dC = 0;
  for (int64_t i = 0; i < in.heads_of_group; ++i) {
    const int64_t head = group * in.heads_of_group + i;
    dB += edits.back(a.dB_bar(t, head, n), t, head, n) * in.dt[t * in.n_heads + head];
    for (int64_t tile = 0; tile < in.tiles(); ++tile) {
      dC += a.scan.dq[((head * in.tiles() + tile) * in.tokens + t) * in.d_k + n];
    }
  }
  a.dB(t, column) = static_cast<T>(dB);
  a.dC(t, column) = static_cast<T>(dC);
}

// A warp a token and head: what reaches dt.
template <class T>
__global__ void heads_kernel(const __grid_constant__ Gather<T> a) {
  const OuterScan<T>& in = a.scan.in;
  const int64_t i = (blockIdx.x * int64_t{kThreads} + threadIdx.x) / 32;
  if (i >= in.tokens * in.n_heads) return;
  const int64_t t = i / in.n_heads, head = i % in.n_heads;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const T* B = in.k.row(t) + head / in.heads_of_group * in.d_k;
  const int64_t warps = in.warps();
  double ddt = 0, ddecay = 0;
  for (int64_t n = lane; n < in.d_k; n += 32) {
    ddt += double(in.B_bar_tap.back(a.dB_bar(t, head, n), t, head, n)) * static_cast<float>(B[n]);
  }
  for (int64_t j = lane; j < in.tiles() * warps; j += 32) {
    const int64_t block = head * in.tiles() + j / warps;
    ddecay += a.scan.ddecay[(block * in.tokens + t) * warps + j % warps];
  }
  for (int step = 16; step > 0; step /= 2) {
    ddt += __shfl_xor_sync(~0u, ddt, step);
    ddecay += __shfl_xor_sync(~0u, ddecay, step);
  }
  if (lane > 0) return;
  const Steps<T>& steps = a.steps.steps;
  const float decay = expf(steps.dt[i] * steps.A[head]);
  a.steps.put(t, head, ddt,
              double(steps.decay_tap.back(static_cast<float>(ddecay), t, head, 0)) * decay);
}

// A thread a token and head: the same after chunks.
template <class T>
__global__ void chunk_heads_kernel(const __grid_constant__ StepGradients<T> a, int64_t tiles,
                                   const float* ddt, const float* dexponent) {
  const int64_t tokens = a.steps.tokens, i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= tokens * a.steps.n_heads) return;
  const int64_t t = i / a.steps.n_heads, head = i % a.steps.n_heads;
  double of_dt = 0, of_exponent = 0;
  for (int64_t block = head * tiles; block < (head + 1) * tiles; ++block) {
    of_dt += ddt[block * tokens + t];
    of_exponent += dexponent[block * tokens + t];
  }
  a.put(t, head, of_dt, of_exponent);
}

// Sums of dout x over kTokensOfPart tokens and the channels that share a D.
template <class T>
__global__ void skip_parts_kernel(Rows<const T> dout, Rows<const T> x, int64_t tokens,
                                  int64_t count, int64_t channels, float* partial) {
  const int64_t i = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  if (i >= count) return;
  const int64_t begin = blockIdx.x * kTokensOfPart;
  const int64_t end = begin + kTokensOfPart < tokens ? begin + kTokensOfPart : tokens;
  float sum = 0;
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t c = i * channels; c < (i + 1) * channels; ++c) {
      sum += static_cast<float>(dout(t, c)) * static_cast<float>(x(t, c));
    }
  }
  partial[blockIdx.x * count + i] = sum;
}

template <class T>
void add_skip_gradient(Device& device, const SsdBackward& a) {
  const int64_t count = a.dD.numel(), parts = divide_up(a.in.seqs.tokens, kTokensOfPart);
  const Tensor partial = device.empty(DType::f32, Shape{parts, count});
  launch(device, name_of(a.kOp), skip_parts_kernel<T>, grid_of(parts, divide_up(count, kThreads)),
         kThreads, 0, Rows<const T>(a.dout), Rows<const T>(a.in.x), a.in.seqs.tokens, count,
         a.in.d_inner() / count, partial.data<float>());
  add_parts(device, partial.data<float>(), parts, count, a.dD.data<float>());
}

template <class T>
void forward_by_chunks(Device& device, const SsdForward& a, const Made<T>& made) {
  float* pool = a.pool ? a.pool.data<float>() : nullptr;
  const SsdChunks<T> in = chunks_of(made, a.in);
  Tensor states = a.checkpoints;
  if (!states)
    states =
        device.empty(DType::f32, Shape{in.sizes.rows(), in.sizes.d_inner() * in.sizes.d_state});
  ssd_chunks_forward<T>(device, {in, pool, pool, states.template data<float>(), Rows<T>(a.out)});
}

template <class T>
void forward_by_tokens(Device& device, const SsdForward& a, const Made<T>& made, bool tapped) {
  float* pool = a.pool ? a.pool.data<float>() : nullptr;
  const OuterScanForward<T> args = {
      .in = made.scan,
      .start = pool,
      .end = pool,
      .checkpoints = a.checkpoints ? a.checkpoints.data<float>() : nullptr,
      .y = Rows<T>(a.out)};
  outer_scan_forward(device, a.kOp, args, true, tapped);
}

// What is watched, token by token from the same starts, and whether edits change it; the states and
// outputs are let go.
template <class T>
void watch_by_tokens(Device& device, const SsdForward& a, const Made<T>& made) {
  const Tensor out = device.empty(a.out.dtype(), a.out.shape());
  const OuterScanForward<T> args = {.in = made.scan,
                                    .start = a.pool ? a.pool.data<float>() : nullptr,
                                    .end = nullptr,
                                    .checkpoints = nullptr,
                                    .y = Rows<T>(out)};
  outer_scan_forward(device, a.kOp, args, true, true);
}

template <class T>
void forward(Device& device, const SsdForward& a) {
  TapViews views(device);
  const Tap& y = tap(a.taps, SsdPoint::y);
  const bool tapped = recurrence_is_active_forward(a.taps) || y.is_active_forward();
  const bool chunks = by_chunks<T>(a.in);
  const bool edits = recurrence_is_edited(a.taps) || y.is_edited();
  const EditFlag edited(device, edits && chunks);
  const Made made = make<T>(device, a.in, a.taps, views, edited.pointer());
  if (!chunks) return forward_by_tokens(device, a, made, tapped);
  if (tapped) watch_by_tokens(device, a, made);
  if (edits && edited.is_set()) return forward_by_tokens(device, a, made, tapped);
  forward_by_chunks(device, a, made);
}

// The gradients of the states at the sequences' ends and starts, where they are wanted.
struct StateGradients {
  Tensor end, start;

  StateGradients(Device& device, const SsdBackward& a) {
    if (!a.dpool) return;
    end = take_end_gradients(device, a.dpool, a.in.seqs);
    start = device.empty(DType::f32, end.shape());
  }
  const float* of_end() const { return end ? end.data<float>() : nullptr; }
  float* of_start() const { return start ? start.data<float>() : nullptr; }
};

template <class T>
void backward_by_chunks(Device& device, const SsdBackward& a, const Made<T>& made,
                        const StateGradients& states, const StepGradients<T>& steps) {
  const SsdChunks<T> in = chunks_of(made, a.in);
  const Tensor sums = device.empty(DType::f32, Shape{2, in.sizes.blocks() * in.sizes.tokens});
  const int64_t parts = in.D_by_channel ? in.sizes.rows() : in.sizes.rows() * in.sizes.tiles();
  const Tensor dD = device.zeros(DType::f32, Shape{parts, a.dD.numel()});
  float* ddt = sums.data<float>();
  float* dexponent = ddt + sums.dim(1);
  ssd_chunks_backward<T>(device, {.in = in,
                                  .dout = Rows<const T>(a.dout),
                                  .states = a.checkpoints.data<float>(),
                                  .dend = states.of_end(),
                                  .dstart = states.of_start(),
                                  .dx = Rows<T>(a.dx),
                                  .dB = Rows<T>(a.dB),
                                  .dC = Rows<T>(a.dC),
                                  .ddt = ddt,
                                  .dexponent = dexponent,
                                  .dD = dD.data<float>()});
  launch(device, name_of(a.kOp), chunk_heads_kernel<T>,
         grid_of(divide_up(in.sizes.tokens * in.sizes.n_heads, kThreads)), kThreads, 0, steps,
         in.sizes.tiles(), ddt, dexponent);
  add_parts(device, dD.data<float>(), parts, a.dD.numel(), a.dD.data<float>());
}

template <class T>
void backward_by_tokens(Device& device, const SsdBackward& a, const Made<T>& made,
                        const StateGradients& states, const StepGradients<T>& steps, bool tapped) {
  const OuterScan<T>& in = made.scan;
  const int64_t blocks = in.n_heads * in.tiles();
  const Tensor sums = device.empty(DType::f32, Shape{2, blocks * in.tokens * in.d_k});
  const Tensor ddecay = device.empty(DType::f32, Shape{blocks * in.tokens * in.warps()});
  const Tensor kept = device.empty(DType::f32, Shape{outer_scan_kept(in)});
  const OuterScanBackward<T> scan = {.in = in,
                                     .dy = Rows<const T>(a.dout),
                                     .checkpoints = a.checkpoints.data<float>(),
                                     .dend = states.of_end(),
                                     .dstart = states.of_start(),
                                     .kept = kept.data<float>(),
                                     .dq = sums.data<float>(),
                                     .dk = sums.data<float>() + sums.dim(1),
                                     .ddecay = ddecay.data<float>(),
                                     .dv = Rows<T>(a.dx)};
  outer_scan_backward(device, a.kOp, scan, true, tapped);
  const Gather<T> gather = {scan, steps, Rows<T>(a.dB), Rows<T>(a.dC)};
  launch(device, name_of(a.kOp), groups_kernel<T>,
         grid_of(in.tokens, divide_up(a.in.n_groups * in.d_k, kThreads)), kThreads, 0, gather);
  launch(device, name_of(a.kOp), heads_kernel<T>,
         grid_of(divide_up(in.tokens * in.n_heads * 32, kThreads)), kThreads, 0, gather);
  add_skip_gradient<T>(device, a);
}

template <class T>
void backward(Device& device, const SsdBackward& a) {
  TapViews views(device);
  const Made made = make<T>(device, a.in, a.taps, views);
  const Tensor dA = device.empty(DType::f32, Shape{a.in.seqs.tokens, a.in.n_heads()});
  const Tensor ddt_pre = device.empty(DType::f32, dA.shape());
  const StepGradients<T> steps = {made.steps, Rows<T>(a.ddt_raw), dA.data<float>(),
                                  ddt_pre.data<float>()};
  const StateGradients states(device, a);
  const bool tapped =
      recurrence_is_active_backward(a.taps) || tap(a.taps, SsdPoint::y).is_active_backward();
  if (tapped || !by_chunks<T>(a.in)) backward_by_tokens(device, a, made, states, steps, tapped);
  else backward_by_chunks(device, a, made, states, steps);
  add_column_sums(device, dA, a.dA.data<float>());
  add_column_sums(device, ddt_pre, a.ddt_bias.data<float>());
  if (a.dpool) give_start_gradients(device, states.start, a.in.seqs, a.dpool);
}

}  // namespace

void ssd_forward(Device& device, const SsdForward& a) {
  if (a.in.x.dtype() == DType::bf16) forward<bf16>(device, a);
  else forward<float>(device, a);
}

void ssd_backward(Device& device, const SsdBackward& a) {
  if (a.in.x.dtype() == DType::bf16) backward<bf16>(device, a);
  else backward<float>(device, a);
}

}  // namespace elapse::cuda
