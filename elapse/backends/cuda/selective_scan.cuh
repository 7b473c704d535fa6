// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>

#include <initializer_list>
#include <type_traits>

#include "elapse/backends/cuda/tap.cuh"
#include "elapse/ops/selective_scan.h"

// What the kernels of the selective scan share.
//
// x, dt_raw, z, B, C, out and their gradients are of one type T: float, __half or __nv_bfloat16.
// Everything else, the state above all, is float, and so is all arithmetic.
//
// A warp takes 32 / kLanes channels; kLanes lanes hold a channel's states, kStates each, in
// registers. It walks tokens four at a time: lane g computes what one token has once (dt, gate,
// out) for token g % 4 of the four, and lanes pass dt and dt x on through shared memory, where what
// the block reads is copied ahead of time.
//
// Long sequences are cut into chunks that are walked at the same time. What a chunk hands to the
// next is P carry + tail: P = exp(A sum dt), and the tail is the state that the chunk ends in from
// zeros. As a sum, tail = sum_t exp(A (dt after t)) write_t, it is taken from the chunk's last
// token back, and stops where every further term has decayed by 2^-48 or more; so does the gradient
// that a chunk hands to the one before, from its first token on.
namespace elapse::cuda::scan {

inline constexpr int kGroup = 4;                          // tokens
inline constexpr int kWarps = 4, kThreads = 32 * kWarps;  // a block; its warps share B and C
inline constexpr int kTile = static_cast<int>(ScanForward::kCheckpointEvery);  // tokens
inline constexpr int kWideStates = 16;     // up to as many selective_scan_wide.cuh is for
inline constexpr float kNegligible = -48;  // as a power of two

template <class T>
struct Inputs {
  Rows<const T> x, dt_raw, z;
  Rows<const T> B, C;  // (tokens, kLanes kStates), aligned: 16 bytes can be read at a time
  const float* dt_bias;
  const float* A;
  const float* D;
  const int64_t* cu;
  const int64_t* start_slots;
  const int64_t* end_slots;
  int64_t n_seqs, d_inner;
  int d_state;
  int64_t chunk;  // tokens; a multiple of those between checkpoints
  bool whole;     // no sequence is cut
  bool vectors;   // rows of states can be read four at a time
  bool runs;      // rows of x and what goes with it can be read 16 bytes at a time
};

// Rows of a chunk, from its first token on, at one column: 32 bits count them and their bytes.
template <class T>
struct Column {
  char* first;
  int stride;  // in bytes

  __device__ Column(const Rows<T>& rows, int64_t begin, int64_t column)
      : first(
            reinterpret_cast<char*>(const_cast<std::remove_const_t<T>*>(rows.row(begin) + column))),
        stride(static_cast<int>(rows.stride) * static_cast<int>(sizeof(T))) {}
  __device__ T& operator[](int i) const {
    return *reinterpret_cast<T*>(first + int64_t{i} * stride);
  }
};

// Calls body(k) for k = 0 ... kCount - 1, shared by a block's threads.
template <int kCount, class Body>
__device__ inline void for_each_of(const Body& body) {
  const int first = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int k = 0; k < kCount; k += kThreads) {
    if (kCount % kThreads == 0 || first + k < kCount) body(first + k);
  }
}

// Tokens of B and C that a block's threads copy into shared memory at a time, while they walk those
// before.
template <class T, int kPadded,
          int kCount = (kPadded < 64    ? 32
                        : kPadded < 256 ? 8
                                        : 4)>
struct Stage {
  static constexpr int kTokens = kCount;
  alignas(16) T B[kTokens][kPadded];
  alignas(16) T C[kTokens][kPadded];

  // Starts copying tokens [i, i + kTokens) of the chunk that begins at `begin`; the last of its
  // tokens stands for those beyond.
  __device__ void fetch(const Inputs<T>& a, int64_t begin, int i, int last) {
    constexpr int kPart = 16 / sizeof(T), kParts = kPadded / kPart;
    for_each_of<2 * kTokens * kParts>([&](int k) {
      const int part = k % kParts * kPart, j = k / kParts % kTokens;
      const bool is_B = k < kTokens * kParts;
      const Rows<const T>& from = is_B ? a.B : a.C;
      __pipeline_memcpy_async(is_B ? &B[j][part] : &C[j][part],
                              from.row(begin + min(i + j, last)) + part, 16);
    });
    __pipeline_commit();
  }
};

// Tokens of a block's channels of x, dt_raw and the like, copied likewise.
template <class T, int kArrays, int kTokens, int kChannels, int kPad = 8>
struct ChannelStage {
  static constexpr int kRun =
      kChannels * sizeof(T) < 16 ? kChannels : 16 / static_cast<int>(sizeof(T));
  alignas(16) T of[kArrays][kTokens][kChannels + kPad];  // rows apart in the banks

  // As Stage::fetch, which is to follow, of the channels from `channel` on; tokens beyond the last
  // are left as they are.
  __device__ void fetch(int array, const Rows<const T>& rows, const Inputs<T>& a, int64_t channel,
                        int64_t begin, int i, int last) {
    if (a.runs) copy<kRun>(array, rows, a, channel, begin, i, last);
    else copy<1>(array, rows, a, channel, begin, i, last);
  }

 private:
  template <int kSize>
  __device__ void copy(int array, const Rows<const T>& rows, const Inputs<T>& a, int64_t channel,
                       int64_t begin, int i, int last) {
    constexpr int kPieces = kChannels / kSize;
    const int channels = static_cast<int>(min(a.d_inner - channel, int64_t{kChannels}));
    for_each_of<kTokens * kPieces>([&](int k) {
      const int e = k % kPieces * kSize, j = k / kPieces;
      if (i + j > last || e >= channels) return;
      const T* from = rows.row(begin + i + j) + channel + e;
      if constexpr (kSize == 1) of[array][j][e] = *from;
      else __pipeline_memcpy_async(&of[array][j][e], from, kSize * sizeof(T));
    });
  }
};

// The row of sequence s's first chunk; the others follow.
template <class T>
__device__ inline int64_t first_row(const Inputs<T>& a, int64_t s) {
  return a.whole ? s : a.cu[s] / a.chunk + s;
}

// A chunk of one sequence.
struct Chunk {
  int64_t s, row, first, last;  // of the sequence
  int64_t begin, end;           // of the chunk

  template <class T>
  __device__ Chunk(const Inputs<T>& a, int64_t r) : row(r) {
    s = a.whole ? row : sequence_of_row(a.cu, a.n_seqs, a.chunk, row);
    first = a.cu[s];
    last = a.cu[s + 1];
    begin = first + (row - first_row(a, s)) * a.chunk;
    end = begin + a.chunk < last ? begin + a.chunk : last;
  }
  // Rows that no chunk needs; an empty sequence has one chunk, which hands its state on.
  __device__ bool exists() const { return begin < last || begin == first; }
  __device__ bool is_first() const { return begin == first; }
  __device__ bool is_last() const { return end >= last; }
};

// Where a thread stands.
template <int kLanes, int kStates>
struct Lane {
  static constexpr int kChannels = 32 / kLanes;

  int lane, g, c;
  int own;  // token of a group of four that the lane computes for
  int64_t e;
  bool active;

  template <class T>
  __device__ Lane(const Inputs<T>& a, int64_t first_channel) {
    lane = static_cast<int>(threadIdx.x) % 32;
    g = lane % kLanes;
    c = lane / kLanes;
    own = g % kGroup;
    e = first_channel + c;
    active = e < a.d_inner;
    if (!active) e = a.d_inner - 1;  // reads what is there, and writes nothing
  }
  // The lane's i-th state.
  __device__ int state(int i) const { return g * kStates + i; }
};

// ln(1 + exp(x)) = max(x, 0) + log1p(e) with e = exp(-|x|) in [0, 1], where log1p(e) / e is a
// polynomial to 1.1e-7: its values at the Chebyshev nodes of [0, 1].
__device__ inline float softplus_of(float x, float e) {
  float p = -0.00317605701f;
  p = fmaf(p, e, 0.0195425265f);
  p = fmaf(p, e, -0.0563736111f);
  p = fmaf(p, e, 0.105436236f);
  p = fmaf(p, e, -0.152696669f);
  p = fmaf(p, e, 0.196632743f);
  p = fmaf(p, e, -0.249516159f);
  p = fmaf(p, e, 0.333297104f);
  p = fmaf(p, e, -0.499998927f);
  p = fmaf(p, e, 1.0f);
  return fmaf(p, e, x < 0 ? 0.0f : x);
}
__device__ inline float fast_softplus(float x) {
  return softplus_of(x, exp2_fast(-kLog2e * fabsf(x)));
}

// Four that follow each other in shared memory.
__device__ inline void load_four(const float* from, float (&out)[kGroup]) {
  const float4 v = *reinterpret_cast<const float4*>(from);
  out[0] = v.x;
  out[1] = v.y;
  out[2] = v.z;
  out[3] = v.w;
}
__device__ inline void store_four(float* to, const float (&in)[kGroup]) {
  *reinterpret_cast<float4*>(to) = {in[0], in[1], in[2], in[3]};
}

// The lane's states of a row of B or C in shared memory, and of a table in the device's.
template <class T, class At, int kStates>
__device__ inline void load_factors(const T* row, const At& at, float (&out)[kStates]) {
  struct alignas(4 * sizeof(T)) Four {
    T of[4];
  };
#pragma unroll
  for (int i = 0; i < kStates; i += 4) {
    const Four four = *reinterpret_cast<const Four*>(row + at.state(i));
#pragma unroll
    for (int k = 0; k < 4; ++k) out[i + k] = static_cast<float>(four.of[k]);
  }
}

template <class At, int kStates>
__device__ inline void load_states(const float* row, const At& at, int d_state, bool vectors,
                                   float (&out)[kStates]) {
  if (vectors) {
#pragma unroll
    for (int i = 0; i < kStates; i += 4) {
      float4 v = {0, 0, 0, 0};
      if (at.state(i) < d_state) v = *reinterpret_cast<const float4*>(row + at.state(i));
      out[i] = v.x;
      out[i + 1] = v.y;
      out[i + 2] = v.z;
      out[i + 3] = v.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kStates; ++i) out[i] = at.state(i) < d_state ? row[at.state(i)] : 0.0f;
  }
}

template <class At, int kStates>
__device__ inline void store_states(float* row, const At& at, int d_state, bool vectors,
                                    const float (&in)[kStates]) {
  if (vectors) {
#pragma unroll
    for (int i = 0; i < kStates; i += 4) {
      const float4 v = {in[i], in[i + 1], in[i + 2], in[i + 3]};
      if (at.state(i) < d_state) *reinterpret_cast<float4*>(row + at.state(i)) = v;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kStates; ++i) {
      if (at.state(i) < d_state) row[at.state(i)] = in[i];
    }
  }
}

// A channel's row of a table (rows, d_inner, d_state).
template <class T>
__device__ inline int64_t state_row(const Inputs<T>& a, int64_t row, int64_t e) {
  return (row * a.d_inner + e) * a.d_state;
}

// The lane's share of A, times log2(e).
template <class T, class At, int kStates>
__device__ inline void load_A(const Inputs<T>& a, const At& at, float (&A2)[kStates]) {
  load_states(a.A + at.e * a.d_state, at, a.d_state, a.vectors, A2);
#pragma unroll
  for (int i = 0; i < kStates; ++i) A2[i] *= kLog2e;
}

// Four sums over the lanes of a channel, one of each of four tokens: lane g gets token g % 4's.
template <int kLanes>
__device__ inline float sum_lanes(const float (&y)[kGroup], int lane) {
  static_assert(kLanes >= kGroup);
  const bool high = lane & 2, odd = lane & 1;
  float a = high ? y[2] : y[0], b = high ? y[3] : y[1];
  a += __shfl_xor_sync(~0u, high ? y[0] : y[2], 2);
  b += __shfl_xor_sync(~0u, high ? y[1] : y[3], 2);
  float sum = odd ? b : a;
  sum += __shfl_xor_sync(~0u, odd ? a : b, 1);
#pragma unroll
  for (int step = 4; step < kLanes; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
  return sum;
}

// Taps of a call, all of them.
struct Taps {
  TapView of[static_cast<size_t>(ScanPoint::count)];
  bool edited = false;

  __device__ float through(ScanPoint p, float v, int64_t t, int64_t e, int n, bool& changed) const {
    return of[static_cast<size_t>(p)].through(v, t, e, n, changed);
  }
  __device__ float back(ScanPoint p, float v, int64_t t, int64_t e, int n) const {
    return of[static_cast<size_t>(p)].back(v, t, e, n);
  }
};

inline Taps view_taps(TapViews& views, const ScanTaps& taps, int64_t d_inner, int64_t d_state) {
  Taps out;
  for (size_t p = 0; p < taps.size(); ++p) {
    out.of[p] = views.view(taps[p], d_inner, is_per_state(static_cast<ScanPoint>(p)) ? d_state : 1);
    out.edited = out.edited || taps[p].is_edited();
  }
  return out;
}

// Calls body with a number of the type that x and what goes with it have.
template <class Body>
void with_type(DType dtype, Body&& body) {
  if (dtype == DType::bf16) body(__nv_bfloat16());
  else if (dtype == DType::f16) body(__half());
  else body(float());
}

// Calls body(std::integral_constant of kLanes, of kStates) with the layout for d_state.
template <class Body>
void with_layout(int64_t d_state, Body&& body) {
  ELAPSE_CHECK(d_state <= 256, "selective_scan: device cuda takes up to 256 states, not {}",
               d_state);
  if (d_state <= 16) {
    body(std::integral_constant<int, 4>(), std::integral_constant<int, 4>());
  } else if (d_state <= 64) {
    body(std::integral_constant<int, 16>(), std::integral_constant<int, 4>());
  } else {
    body(std::integral_constant<int, 32>(), std::integral_constant<int, 8>());
  }
}

// B and C as kernels read them: as they are, or copied, with zeros for the states that are not.
struct Factors {
  Tensor B, C;
  Factors(Device& device, const ScanInputs& in);
};

// What a large GPU runs at a time, in warps: 132 multiprocessors with three blocks each.
inline constexpr int64_t kWarpsAtATime = 132 * 3 * kWarps;
// Tokens of a chunk, as shapes alone say: sequences are cut where there are too few for those
// warps, and then into as many chunks as run at a time with `blocks` wide blocks a multiprocessor.
int64_t chunk_for(const ScanInputs& in, int64_t blocks);
inline bool is_whole(const ScanInputs& in, int64_t chunk) { return in.seqs.max_len <= chunk; }
inline int64_t chunk_rows(const ScanInputs& in, int64_t chunk) {
  return (is_whole(in, chunk) ? 0 : in.seqs.tokens / chunk) + in.seqs.count();
}
// `tables`, of states, are those that a kernel reads and writes; `more` stand beside x.
template <class T>
Inputs<T> inputs_of(const ScanInputs& in, const Factors& factors, int64_t chunk,
                    std::initializer_list<Tensor> tables = {},
                    std::initializer_list<Tensor> more = {});

// What every chunk starts from, (chunk rows, d_inner, d_state), from the pool's states on.
Tensor carry_forward(Device& device, const ScanInputs& in, const Factors& factors,
                     const Tensor& pool, int64_t chunk);

// The gradient that every chunk's last state gets from later ones, likewise. Takes the gradients of
// end slots out of dpool (unless that is empty), and gives them on for sequences without tokens:
// dstart is (n_seqs, d_inner, d_state).
Tensor carry_backward(Device& device, const ScanBackward& args, const Factors& factors,
                      int64_t chunk, bool edited, float* dstart);

// Decoding: computes it where each sequence has one token, none is watched or edited, and there are
// no checkpoints; else gives false.
bool step_forward(Device& device, const ScanForward& args);

// dstart added to the start slots of dpool, in the order of sequences.
void give_starts(Device& device, const ScanBackward& args, const float* dstart);

}  // namespace elapse::cuda::scan
