// SPDX-License-Identifier: Apache-2.0
// What chunks of a sequence hand on to each other; selective_scan.cuh says how.
//
// Bound: where states decay slowly, as one pass of the scan without its outputs: an exponential and
// three multiply-adds a state and token. Where they decay by 2^-48 within a chunk, less.
#include "elapse/backends/cuda/selective_scan.cuh"

namespace elapse::cuda::scan {
namespace {

// Where a chunk's tail is taken: of the state that it ends in, or of the gradient of the state that
// it starts from.
template <class T>
struct Tails {
  Inputs<T> in;
  Rows<const T> dout;  // backward
  float* tail;         // (rows, d_inner, d_state), assigned
  float* decay;        // likewise: of a whole chunk
};

template <bool kBackward>
__device__ bool needs_tail(const Chunk& chunk) {
  return chunk.exists() && (kBackward ? !chunk.is_first() : !chunk.is_last());
}

// Where a thread stands: neighbours at the same states of a block's channels, so that a warp can
// stop where its own states have decayed. Which warp has which states changes from block to block:
// a quarter of a multiprocessor would else have the slowest of all its blocks.
template <int kLanes, int kStates>
struct Across {
  static constexpr int kChannels = kThreads / kLanes;

  int g, c;
  int64_t e;
  bool active;

  __device__ Across(int64_t first_channel, int64_t d_inner)
      : g(turned() / kChannels),
        c(turned() % kChannels),
        e(min(first_channel + c, d_inner - 1)),
        active(first_channel + c < d_inner) {}
  __device__ int state(int i) const { return g * kStates + i; }

 private:
  __device__ static int turned() {
    constexpr unsigned kAtATime = 128;  // blocks, or about
    const unsigned turn = (blockIdx.y * gridDim.x + blockIdx.x) / kAtATime;
    return static_cast<int>((threadIdx.x + 32 * turn) % kThreads);
  }
};

template <class T, int kLanes, int kStates, bool kBackward>
__global__ void __launch_bounds__(kThreads) tails_kernel(const __grid_constant__ Tails<T> a) {
  using At = Across<kLanes, kStates>;
  using Staged = Stage<T, kLanes * kStates>;
  __shared__ Staged stages[2];
  __shared__ ChannelStage<T, 3, Staged::kTokens, At::kChannels> own_stages[2];
  constexpr int kTokens = Staged::kTokens < kTile ? Staged::kTokens : kTile;
  __shared__ float2 values[At::kChannels][kTokens + 1];  // rows apart in the banks
  const Chunk chunk(a.in, blockIdx.x);
  if (!needs_tail<kBackward>(chunk)) return;
  const int64_t first_channel = blockIdx.y * int64_t{At::kChannels};
  const At at(first_channel, a.in.d_inner);
  float A2[kStates], tail[kStates] = {}, slowest = -INFINITY;
  load_A(a.in, at, A2);
#pragma unroll
  for (int i = 0; i < kStates; ++i) {
    if (at.state(i) < a.in.d_state) slowest = fmaxf(slowest, A2[i]);
  }
  const float bias = a.in.dt_bias[at.e];
  const int len = static_cast<int>(chunk.end - chunk.begin);
  // Stages, and the tokens of each, from the first on backward, from the last on forward. Of those
  // places the first may be beyond the last token.
  const int count = (len + Staged::kTokens - 1) / Staged::kTokens;
  const auto first_of = [&](int stage) {
    return (kBackward ? stage : count - 1 - stage) * Staged::kTokens;
  };
  const auto fetch = [&](int stage) {
    auto& own = own_stages[stage % 2];
    const int first = first_of(stage);
    own.fetch(0, a.in.dt_raw, a.in, first_channel, chunk.begin, first, len - 1);
    own.fetch(1, kBackward ? a.dout : a.in.x, a.in, first_channel, chunk.begin, first, len - 1);
    if (kBackward) own.fetch(2, a.in.z, a.in, first_channel, chunk.begin, first, len - 1);
    stages[stage % 2].fetch(a.in, chunk.begin, first, len - 1);
  };
  float steps = 0;
  bool decayed = false;
  fetch(0);
  for (int stage = 0; stage < count; ++stage) {
    if (stage + 1 < count) fetch(stage + 1);
    __pipeline_wait_prior(stage + 1 < count ? 1 : 0);
    __syncthreads();
    const Staged& staged = stages[stage % 2];
    const auto& own = own_stages[stage % 2].of;
    const auto place_of = [](int i) { return kBackward ? i : Staged::kTokens - 1 - i; };
    // A step, and what it writes into each state, but for B; backward, what it reads, but for C.
    // The values of all are chosen before the first goes through a function, so that chains run
    // side by side.
    const auto prepare = [&](int i) {
      constexpr int kMine = (kTokens + kLanes - 1) / kLanes;
      float dt[kMine], v[kMine], z[kMine];
#pragma unroll
      for (int k = 0; k < kMine; ++k) {
        const int place = place_of(i + min(k * kLanes + at.g, kTokens - 1));
        dt[k] = static_cast<float>(own[0][place][at.c]) + bias;
        v[k] = static_cast<float>(own[1][place][at.c]);
        if (kBackward) z[k] = static_cast<float>(own[2][place][at.c]);
        if (first_of(stage) + place < len) continue;
        dt[k] = -INFINITY;  // a step of 0
        v[k] = 0;
        z[k] = 0;
      }
      __syncwarp();
#pragma unroll
      for (int k = 0; k < kMine; ++k) {
        const float step = fast_softplus(dt[k]);
        v[k] *= kBackward ? z[k] * fast_sigmoid(z[k]) : step;
        if (k * kLanes + at.g < kTokens) values[at.c][k * kLanes + at.g] = {step, v[k]};
      }
    };
    for (int i = 0; i < Staged::kTokens; i += kTokens) {
      __syncthreads();
      prepare(i);
      __syncthreads();
      if (decayed) continue;
#pragma unroll
      for (int j = 0; j < kTokens; ++j) {
        float factor[kStates];
        const int place = place_of(i + j);
        load_factors(kBackward ? staged.C[place] : staged.B[place], at, factor);
        const float2 v = values[at.c][j];
        const float after = kBackward ? steps + v.x : steps;
#pragma unroll
        for (int n = 0; n < kStates; ++n) {
          tail[n] = fmaf(exp2_fast(A2[n] * after), v.y * factor[n], tail[n]);
        }
        steps += v.x;
      }
      decayed = __all_sync(~0u, !at.active || slowest * steps < kNegligible);
    }
    if (__syncthreads_and(decayed)) break;
  }
  __pipeline_wait_prior(0);
  if (!at.active) return;
  store_states(a.tail + state_row(a.in, chunk.row, at.e), at, a.in.d_state, a.in.vectors, tail);
  float decay[kStates];
#pragma unroll
  for (int n = 0; n < kStates; ++n) decay[n] = decayed ? 0.0f : exp2_fast(A2[n] * steps);
  store_states(a.decay + state_row(a.in, chunk.row, at.e), at, a.in.d_state, a.in.vectors, decay);
}

// One state's tails, `step` apart in chunks' order, give place to carries. Loads of some chunks go
// together: the sum itself is a chain.
__device__ void hand_on(float* carries, const float* decays, int64_t step, int64_t chunks,
                        float carry) {
  constexpr int kAtOnce = 8;
  for (int64_t c = 0; c < chunks; c += kAtOnce) {
    float tail[kAtOnce] = {}, decay[kAtOnce] = {};
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (c + k + 1 >= chunks) break;
      tail[k] = carries[(c + k) * step];
      decay[k] = decays[(c + k) * step];
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (c + k >= chunks) break;
      carries[(c + k) * step] = carry;
      carry = fmaf(decay[k], carry, tail[k]);
    }
  }
}

// A thread a state: a sequence's chunks in their order.
template <class T>
__global__ void carry_forward_kernel(Inputs<T> a, const float* pool, const float* decays,
                                     float* carries) {
  const int64_t width = a.d_inner * a.d_state, s = blockIdx.x;
  const int64_t i = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  if (i >= width) return;
  const int64_t slot = a.start_slots[s], len = a.cu[s + 1] - a.cu[s];
  float carry = slot < 0 ? 0.0f : pool[slot * width + i];
  const int64_t first = first_row(a, s) * width + i, chunks = len > 0 ? (len - 1) / a.chunk + 1 : 1;
  hand_on(carries + first, decays + first, width, chunks, carry);
}

template <class T>
__global__ void carry_backward_kernel(Inputs<T> a, float* dpool, const float* decays, bool edited,
                                      float* carries, float* dstart) {
  const int64_t width = a.d_inner * a.d_state, s = blockIdx.x;
  const int64_t i = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  if (i >= width) return;
  const int64_t slot = a.end_slots[s], len = a.cu[s + 1] - a.cu[s];
  float carry = 0;
  if (dpool != nullptr && slot >= 0) {
    carry = dpool[slot * width + i];
    dpool[slot * width + i] = 0;
  }
  if (len == 0 && dstart != nullptr) dstart[s * width + i] = carry;
  const int64_t chunks = len > 0 ? (len - 1) / a.chunk + 1 : 0;
  const int64_t last = (first_row(a, s) + chunks - 1) * width + i;
  if (!edited) return hand_on(carries + last, decays + last, -width, chunks, carry);
  for (int64_t c = 0; c < chunks; ++c) carries[last - c * width] = carry;
}

__global__ void give_starts_kernel(const int64_t* start_slots, int64_t n_seqs, int64_t width,
                                   float* dpool, const float* dstart) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= width) return;
  for (int64_t s = 0; s < n_seqs; ++s) {
    const int64_t slot = start_slots[s];
    if (slot >= 0) dpool[slot * width + i] += dstart[s * width + i];
  }
}

template <bool kBackward, class T>
void tails(Device& device, const Tails<T>& args, int64_t rows) {
  with_layout(args.in.d_state, [&](auto lanes, auto states) {
    constexpr int kLanes = decltype(lanes)::value, kStates = decltype(states)::value;
    const int64_t across = divide_up(args.in.d_inner, kThreads / kLanes);
    launch(device, "selective_scan: tails", tails_kernel<T, kLanes, kStates, kBackward>,
           grid_of(rows, across), kThreads, 0, args);
  });
}

template <class T>
__global__ void pad_kernel(Rows<const T> factors, int64_t tokens, int d_state, int padded, T* out) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i >= tokens * padded) return;
  const int n = static_cast<int>(i % padded);
  out[i] = n < d_state ? factors(i / padded, n) : T(0.0f);
}

// What states are padded to, and the channels of a warp.
struct Sizes {
  int64_t padded = 0, channels = 0;
  explicit Sizes(int64_t d_state) {
    with_layout(d_state, [&](auto lanes, auto states) {
      padded = lanes * states;
      channels = 32 / lanes;
    });
  }
};

// Whether its rows can be read 16 bytes at a time.
bool has_runs(const Tensor& t) {
  const int64_t size = size_of(t.dtype());
  return is_aligned(t) && t.stride(0) * size % 16 == 0 && t.dim(1) * size % 16 == 0;
}

Tensor padded(Device& device, const Tensor& factors) {
  const int64_t tokens = factors.dim(0), width = Sizes(factors.dim(1)).padded;
  if (factors.dim(1) == width && has_runs(factors)) return factors;
  const Tensor out = device.empty(factors.dtype(), {tokens, width});
  with_type(factors.dtype(), [&](auto element) {
    using T = decltype(element);
    launch(device, "selective_scan: padding", pad_kernel<T>, grid_of(divide_up(out.numel(), 256)),
           256, 0, Rows<const T>(factors), tokens, static_cast<int>(factors.dim(1)),
           static_cast<int>(width), static_cast<T*>(out.raw()));
  });
  return out;
}

template <class T>
Rows<const T> rows_of(const Tensor& t) {
  ELAPSE_CHECK(t.stride(0) < INT32_MAX / 4, "selective_scan: device cuda counts a row in 32 bits");
  return Rows<const T>(t);
}

}  // namespace

Factors::Factors(Device& device, const ScanInputs& in)
    : B(padded(device, in.B)), C(padded(device, in.C)) {}

int64_t chunk_for(const ScanInputs& in, int64_t blocks) {
  constexpr int64_t kLeast = 128, kStep = ScanForward::kCheckpointEvery;
  const int64_t across = divide_up(in.A.dim(0), Sizes(in.A.dim(1)).channels);
  const int64_t at_once = std::max(int64_t{1}, kWarpsAtATime / across);  // chunks
  const int64_t share = divide_up(in.seqs.tokens, at_once);
  const bool whole = 2 * in.seqs.max_len <= 3 * share;
  const int64_t cut = divide_up(in.seqs.tokens, blocks * at_once);
  const int64_t tokens = std::max(kLeast, whole ? in.seqs.max_len : cut);
  return divide_up(tokens, kStep) * kStep;
}

template <class T>
Inputs<T> inputs_of(const ScanInputs& in, const Factors& factors, int64_t chunk,
                    std::initializer_list<Tensor> tables, std::initializer_list<Tensor> more) {
  bool vectors = in.A.dim(1) % 4 == 0 && is_aligned(in.A);
  for (const Tensor& table : tables) vectors = vectors && is_aligned(table);
  bool runs = has_runs(in.x) && has_runs(in.dt_raw) && has_runs(in.z);
  for (const Tensor& rows : more) runs = runs && has_runs(rows);
  return {.x = rows_of<T>(in.x),
          .dt_raw = rows_of<T>(in.dt_raw),
          .z = rows_of<T>(in.z),
          .B = rows_of<T>(factors.B),
          .C = rows_of<T>(factors.C),
          .dt_bias = in.dt_bias.data<float>(),
          .A = in.A.data<float>(),
          .D = in.D.data<float>(),
          .cu = in.seqs.cu_seqlens.data<int64_t>(),
          .start_slots = in.seqs.start_slots.data<int64_t>(),
          .end_slots = in.seqs.end_slots.data<int64_t>(),
          .n_seqs = in.seqs.count(),
          .d_inner = in.A.dim(0),
          .d_state = static_cast<int>(in.A.dim(1)),
          .chunk = chunk,
          .whole = is_whole(in, chunk),
          .vectors = vectors,
          .runs = runs};
}
template Inputs<float> inputs_of(const ScanInputs&, const Factors&, int64_t,
                                 std::initializer_list<Tensor>, std::initializer_list<Tensor>);
template Inputs<__half> inputs_of(const ScanInputs&, const Factors&, int64_t,
                                  std::initializer_list<Tensor>, std::initializer_list<Tensor>);
template Inputs<__nv_bfloat16> inputs_of(const ScanInputs&, const Factors&, int64_t,
                                         std::initializer_list<Tensor>,
                                         std::initializer_list<Tensor>);

Tensor carry_forward(Device& device, const ScanInputs& in, const Factors& factors,
                     const Tensor& pool, int64_t chunk) {
  const int64_t rows = chunk_rows(in, chunk), width = in.A.numel();
  const Tensor carries = device.empty(DType::f32, {rows, width});
  const Tensor decays = device.empty(DType::f32, {rows, width});
  with_type(in.x.dtype(), [&](auto element) {
    using T = decltype(element);
    const Inputs<T> inputs = inputs_of<T>(in, factors, chunk);
    tails<false>(device, Tails<T>{inputs, {}, carries.data<float>(), decays.data<float>()}, rows);
    launch(device, "selective_scan: carries", carry_forward_kernel<T>,
           grid_of(inputs.n_seqs, divide_up(width, kThreads)), kThreads, 0, inputs,
           pool ? pool.data<float>() : nullptr, decays.data<float>(), carries.data<float>());
  });
  return carries;
}

Tensor carry_backward(Device& device, const ScanBackward& args, const Factors& factors,
                      int64_t chunk, bool edited, float* dstart) {
  const ScanInputs& in = args.in;
  const int64_t rows = chunk_rows(in, chunk), width = in.A.numel();
  const Tensor carries = device.empty(DType::f32, {rows, width});
  const Tensor decays = device.empty(DType::f32, {rows, width});
  with_type(in.x.dtype(), [&](auto element) {
    using T = decltype(element);
    const Inputs<T> inputs = inputs_of<T>(in, factors, chunk, {}, {args.dout});
    if (in.seqs.max_len > chunk && !edited) {
      tails<true>(
          device,
          Tails<T>{inputs, rows_of<T>(args.dout), carries.data<float>(), decays.data<float>()},
          rows);
    }
    launch(device, "selective_scan: carries", carry_backward_kernel<T>,
           grid_of(inputs.n_seqs, divide_up(width, kThreads)), kThreads, 0, inputs,
           args.dpool ? args.dpool.data<float>() : nullptr, decays.data<float>(), edited,
           carries.data<float>(), dstart);
  });
  return carries;
}

void give_starts(Device& device, const ScanBackward& args, const float* dstart) {
  const int64_t width = args.in.A.numel();
  launch(device, "selective_scan: starts", give_starts_kernel, grid_of(divide_up(width, kThreads)),
         kThreads, 0, args.in.seqs.start_slots.data<int64_t>(), args.in.seqs.count(), width,
         args.dpool.data<float>(), dstart);
}

}  // namespace elapse::cuda::scan
