// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/backends/cuda/tap.cuh"
#include "elapse/ops/sequences.h"

// The recurrence that Mamba-2 and gated linear attention share: states are outer products of a
// head's channels (v) and keys (k), decayed and read by queries (q). Per sequence, channel e of a
// head and state n:
//   h[t] = decay h[t-1] + v[e] k[n];  y = sum_n q[n] h
//
// A block walks the tokens of a sequence for 32 channels of a head, a lane each; a warp has
// kScanStates of the states, in registers, and a block kSliceStates: where a head has more, each
// slice of them is a walk of its own, which adds to y. Bound: instructions, some 6 a state and
// token forward and 30 backward. Tokens follow each other: a single long sequence does not fill a
// GPU.
namespace elapse::cuda {

constexpr int kScanLanes = 32;
constexpr int kScanStates = 8;
constexpr int kMostScanWarps = 16;
constexpr int kSliceStates = kMostScanWarps * kScanStates;
constexpr int kScanTokens = 8;  // whose sums over warps meet together; whose states backward keeps

// A form of it, on activations of T, float or bf16. Where decays are a head's (Mamba-2's), keys are
// dt B, made here. Decays are after their edits.
template <class T>
struct OuterScan {
  Rows<const T> q, k;  // (tokens, groups d_k)
  Rows<const T> v;     // (tokens, d_inner)
  const float* decay;  // (tokens, n_heads), or (tokens, n_heads d_k)
  const float* dt;     // (tokens, n_heads) where decays are a head's
  const float* D;      // likewise: (n_heads) or (d_inner)
  bool D_by_channel;
  const int64_t* cu;
  const int64_t* start_slots;
  const int64_t* end_slots;
  int64_t n_seqs, tokens, n_heads, heads_of_group, d_k, d_v, d_inner, chunk;
  TapView B_bar_tap, write_tap, h_tap, readout_tap, y_tap;

  int* edited = nullptr;    // set to 1 where an edit changes a value; or null
  int64_t first_state = 0;  // of the slice

  __host__ __device__ int64_t tiles() const { return (d_v + kScanLanes - 1) / kScanLanes; }
  __host__ __device__ int64_t warps() const { return (d_k + kScanStates - 1) / kScanStates; }
  __device__ bool is_last_slice() const { return first_state + kSliceStates >= d_k; }
  // Called with what TapView::through() said.
  __device__ void note(bool changed) const {
    if (changed && edited != nullptr) *edited = 1;
  }
  __device__ int64_t D_at(int64_t channel) const { return D_by_channel ? channel : channel / d_v; }
};

// The device's number that a scan sets where an edit changes a value, if it is wanted.
class EditFlag {
 public:
  EditFlag(Device& device, bool wanted) : device_(device) {
    if (wanted) flag_ = device.upload(std::vector<int32_t>{0}, Shape{1});
  }
  int32_t* pointer() const { return flag_ ? static_cast<int32_t*>(flag_.raw()) : nullptr; }
  bool is_set() const {  // waits
    int32_t value = 0;
    device_.download_bytes(flag_, &value);
    return value != 0;
  }

 private:
  Device& device_;
  Tensor flag_;
};

template <class T>
struct OuterScanForward {
  OuterScan<T> in;
  const float* start;  // the pool, (slots, d_inner, d_k), or null
  float* end;          // likewise; null: no end is kept
  float* checkpoints;  // or null
  Rows<T> y;           // with D v where there is a D
  Rows<float> y_sum;   // (tokens, d_inner) over slices, where there are several; made by the call
};

template <class T>
struct OuterScanBackward {
  OuterScan<T> in;
  Rows<const T> dy;
  const float* checkpoints;
  const float* dend;  // (n_seqs, d_inner, d_k), or null
  float* dstart;      // likewise, or null
  float* kept;        // states within a chunk, of each block
  // Of each block's channels, (n_heads tiles, tokens, d_k): the gradients of q, k and decay; where
  // decays are a head's, ddecay is (n_heads tiles, tokens, warps()).
  float* dq;
  float* dk;
  float* ddecay;
  Rows<T> dv;
  Rows<float> dv_sum;  // as y_sum
};

// Whether decays are a head's, or each a state's; and whether some tap is active.
template <class T>
void outer_scan_forward(Device& device, Op op, OuterScanForward<T> args, bool by_head, bool tapped);
template <class T>
void outer_scan_backward(Device& device, Op op, OuterScanBackward<T> args, bool by_head,
                         bool tapped);
template <class T>
int64_t outer_scan_kept(const OuterScan<T>& in);  // floats of `kept`

// Calls run(threads) with each slice of the states in turn.
template <class T, class Run>
void for_each_slice(OuterScan<T>& in, Run&& run) {
  for (in.first_state = 0; in.first_state < in.d_k; in.first_state += kSliceStates) {
    const int64_t states = std::min<int64_t>(kSliceStates, in.d_k - in.first_state);
    run(static_cast<int>(32 * divide_up(states, kScanStates)));
  }
}

// Rows (tokens, d_inner) in which slices add up, where there are several: the result's own where it
// is float32, else `memory`.
template <class T>
Rows<float> sums_of_slices(Device& device, const OuterScan<T>& in, const Rows<T>& result,
                           Tensor& memory) {
  if constexpr (std::is_same_v<T, float>) {
    return result;
  } else {
    if (in.d_k > kSliceStates) memory = device.empty(DType::f32, Shape{in.tokens, in.d_inner});
    return Rows<float>(memory);
  }
}

// The first `count` of a lane's numbers, zeros after them.
template <class T>
__device__ void load_states(const T* from, int64_t count, float (&v)[kScanStates]) {
  constexpr int kOfLoad = sizeof(float4) / sizeof(T);
  if (count >= kScanStates && reinterpret_cast<uintptr_t>(from) % sizeof(float4) == 0) {
#pragma unroll
    for (int n = 0; n < kScanStates; n += kOfLoad) {
      alignas(float4) T of_load[kOfLoad];
      *reinterpret_cast<float4*>(of_load) = *reinterpret_cast<const float4*>(from + n);
#pragma unroll
      for (int i = 0; i < kOfLoad; ++i) v[n + i] = static_cast<float>(of_load[i]);
    }
  } else {
#pragma unroll
    for (int n = 0; n < kScanStates; ++n) v[n] = n < count ? static_cast<float>(from[n]) : 0.0f;
  }
}

// What a lane has: one channel, and kScanStates states from `state` on.
template <class T, bool kByHead, bool kTapped>
struct ScanLane {
  int64_t s, head, tile, channel, state, first, last;
  int warp, lane;
  bool active;  // a channel of the head

  __device__ explicit ScanLane(const OuterScan<T>& in) {
    const int64_t blocks = in.n_heads * in.tiles(), block = blockIdx.x % blocks;
    s = blockIdx.x / blocks;
    head = block / in.tiles();
    tile = block % in.tiles();
    warp = static_cast<int>(threadIdx.x) / 32;
    lane = static_cast<int>(threadIdx.x) % 32;
    const int64_t within = tile * kScanLanes + lane;
    active = within < in.d_v;
    channel = head * in.d_v + within;
    state = in.first_state + int64_t{warp} * kScanStates;
    first = in.cu[s];
    last = in.cu[s + 1];
  }

  __device__ int64_t block(const OuterScan<T>& in) const { return head * in.tiles() + tile; }
  __device__ int64_t keys(const OuterScan<T>& in) const {
    return head / in.heads_of_group * in.d_k + state;
  }

  // Of (rows, d_inner, d_k).
  __device__ void load(const OuterScan<T>& in, const float* rows, int64_t row,
                       float (&h)[kScanStates]) const {
    load_states(rows + (row * in.d_inner + channel) * in.d_k + state, active ? in.d_k - state : 0,
                h);
  }
  __device__ void store(const OuterScan<T>& in, float* rows, int64_t row,
                        const float (&h)[kScanStates]) const {
    float* to = rows + (row * in.d_inner + channel) * in.d_k + state;
#pragma unroll
    for (int n = 0; n < kScanStates; ++n) {
      if (active && state + n < in.d_k) to[n] = h[n];
    }
  }

  __device__ float value(const OuterScan<T>& in, int64_t t) const {
    return active ? static_cast<float>(in.v(t, channel)) : 0.0f;
  }
  __device__ void queries(const OuterScan<T>& in, int64_t t, float (&q)[kScanStates]) const {
    load_states(in.q.row(t) + keys(in), in.d_k - state, q);
  }

  // What a token's states decay by, and its keys; edited where they are tapped.
  __device__ void decays_and_keys(const OuterScan<T>& in, int64_t t, float (&decay)[kScanStates],
                                  float (&k)[kScanStates]) const {
    load_states(in.k.row(t) + keys(in), in.d_k - state, k);
    if constexpr (kByHead) {
      const float dt = in.dt[t * in.n_heads + head], of_head = in.decay[t * in.n_heads + head];
#pragma unroll
      for (int n = 0; n < kScanStates; ++n) {
        decay[n] = of_head;
        k[n] = dt * k[n];
        if (kTapped && state + n < in.d_k) k[n] = of_head_past_tap(in, k[n], t, n);
      }
    } else {
      load_states(in.decay + (t * in.n_heads + head) * in.d_k + state, in.d_k - state, decay);
    }
  }

  // h after token t.
  __device__ void step(const OuterScan<T>& in, int64_t t, float v,
                       const float (&decay)[kScanStates], const float (&k)[kScanStates],
                       float (&h)[kScanStates]) const {
#pragma unroll
    for (int n = 0; n < kScanStates; ++n) {
      h[n] = kTapped
                 ? passed(in.h_tap, fmaf(decay[n], h[n], passed(in.write_tap, v * k[n], t, n, in)),
                          t, n, in)
                 : fmaf(decay[n], h[n], v * k[n]);
    }
  }
  __device__ void advance(const OuterScan<T>& in, int64_t t, float (&h)[kScanStates]) const {
    float decay[kScanStates], k[kScanStates];
    decays_and_keys(in, t, decay, k);
    step(in, t, value(in, t), decay, k, h);
  }

  // A value of this channel and state n past its tap, and the gradient back.
  __device__ float passed(const TapView& tap, float v, int64_t t, int n,
                          const OuterScan<T>& in) const {
    if (!active || state + n >= in.d_k) return v;
    bool changed = false;
    v = tap.through(v, t, channel, state + n, changed);
    in.note(changed);
    return v;
  }
  __device__ float passed_back(const TapView& tap, float v, int64_t t, int n,
                               const OuterScan<T>& in) const {
    return active && state + n < in.d_k ? tap.back(v, t, channel, state + n) : v;
  }

 private:
  // A key, which all channels of a head have: one writes it down.
  __device__ float of_head_past_tap(const OuterScan<T>& in, float v, int64_t t, int n) const {
    TapView mine = in.B_bar_tap;
    if (lane != 0 || tile != 0) mine.watch = nullptr;
    bool changed = false;
    v = mine.through(v, t, head, state + n, changed);
    in.note(changed);
    return v;
  }
};

}  // namespace elapse::cuda
