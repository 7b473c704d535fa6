// SPDX-License-Identifier: Apache-2.0
// What the selective scan's two directions share: how the work is cut into tasks, states kept with
// channels in lanes, taps. Included once per target, after hwy/highway.h.
#if defined(ELAPSE_BACKENDS_CPU_SELECTIVE_SCAN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ELAPSE_BACKENDS_CPU_SELECTIVE_SCAN_INL_H_
#undef ELAPSE_BACKENDS_CPU_SELECTIVE_SCAN_INL_H_
#else
#define ELAPSE_BACKENDS_CPU_SELECTIVE_SCAN_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <type_traits>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/backends/cpu/lanes-inl.h"
#include "elapse/backends/cpu/simd_math-inl.h"
#include "elapse/backends/cpu/taps.h"
#include "elapse/ops/selective_scan.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;

inline constexpr int64_t kLanes = hn::MaxLanes(D());              // channels in a vector
inline constexpr int64_t kChunk = ScanForward::kCheckpointEvery;  // tokens

inline constexpr int64_t kLineFloats = 16;  // in a cache line
inline constexpr int64_t kMostStates = 16;  // in a block of states, of either direction

// to[j * to_stride + i] = from[i * from_stride + j] for i < rows, j < columns.
inline void Transpose(const float* from, int64_t from_stride, int64_t rows, int64_t columns,
                      float* to, int64_t to_stride) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) to[j * to_stride + i] = from[i * from_stride + j];
  }
}

#if HWY_TARGET != HWY_SCALAR
HWY_INLINE void Transpose4x4(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  const hn::FixedTag<float, 4> d;
  const auto a = hn::LoadU(d, from), b = hn::LoadU(d, from + from_stride);
  const auto c = hn::LoadU(d, from + 2 * from_stride), e = hn::LoadU(d, from + 3 * from_stride);
  const auto ac_low = hn::InterleaveLower(d, a, c), ac_high = hn::InterleaveUpper(d, a, c);
  const auto be_low = hn::InterleaveLower(d, b, e), be_high = hn::InterleaveUpper(d, b, e);
  hn::StoreU(hn::InterleaveLower(d, ac_low, be_low), d, to);
  hn::StoreU(hn::InterleaveUpper(d, ac_low, be_low), d, to + to_stride);
  hn::StoreU(hn::InterleaveLower(d, ac_high, be_high), d, to + 2 * to_stride);
  hn::StoreU(hn::InterleaveUpper(d, ac_high, be_high), d, to + 3 * to_stride);
}
#endif

// The same in blocks of 4 x 4, as far as they go.
inline void TransposeBlocks(const float* from, int64_t from_stride, int64_t rows, int64_t columns,
                            float* to, int64_t to_stride) {
  int64_t whole_rows = 0, whole_columns = 0;
#if HWY_TARGET != HWY_SCALAR
  whole_rows = rows / 4 * 4;
  whole_columns = columns / 4 * 4;
  for (int64_t i = 0; i < whole_rows; i += 4) {
    for (int64_t j = 0; j < whole_columns; j += 4) {
      Transpose4x4(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
    }
  }
#endif
  Transpose(from + whole_columns, from_stride, whole_rows, columns - whole_columns,
            to + whole_columns * to_stride, to_stride);
  Transpose(from + whole_rows * from_stride, from_stride, rows - whole_rows, columns,
            to + whole_rows, to_stride);
}

// The channels one task works on. Their states are kept as (vectors, padded, kLanes), zero where
// there is no channel or no state: `padded` is d_state rounded up to whole blocks.
struct Group {
  int64_t first, count;
  int64_t d_inner, d_state, padded;

  int64_t vectors() const { return divide_up(count, kLanes); }
  int64_t channel(int64_t v) const { return first + v * kLanes; }
  int64_t lanes(int64_t v) const { return std::min(kLanes, count - v * kLanes); }
  int64_t vector_floats() const { return padded * kLanes; }
  int64_t floats() const { return vectors() * vector_floats(); }
  bool has_padding() const { return padded != d_state || count % kLanes != 0; }

  // `matrix`: (d_inner, d_state)
  void load(const float* matrix, float* states) const {
    if (has_padding()) std::fill_n(states, floats(), 0.0f);
    for (int64_t v = 0; v < vectors(); ++v) {
      TransposeBlocks(matrix + channel(v) * d_state, d_state, lanes(v), d_state,
                      states + v * vector_floats(), kLanes);
    }
  }
  void store(const float* states, float* matrix) const {
    for (int64_t v = 0; v < vectors(); ++v) {
      TransposeBlocks(states + v * vector_floats(), kLanes, d_state, lanes(v),
                      matrix + channel(v) * d_state, d_state);
    }
  }

  // The same for checkpoints, which only the other direction of the scan reads: where there is no
  // padding in either they keep the order that states have here.
  bool keeps_order() const { return d_state % kMostStates == 0 && d_inner % kLanes == 0; }
  void load_checkpoint(const float* checkpoint, float* states) const {
    if (keeps_order()) std::copy_n(checkpoint + first * d_state, floats(), states);
    else load(checkpoint, states);
  }
  void store_checkpoint(const float* states, float* checkpoint) const {
    if (keeps_order()) std::copy_n(states, floats(), checkpoint + first * d_state);
    else store(states, checkpoint);
  }
};

// Tasks are groups of channels by ranges of sequences: ranges of at least kRangeTokens on average,
// so that A is not laid out anew for every sequence of one token.
struct Partition {
  static constexpr int64_t kRangeTokens = 64;

  Partition(const ScanInputs& in, int64_t group_vectors, int64_t block_states)
      : group_channels(group_vectors * kLanes),
        d_inner(in.A.dim(0)),
        d_state(in.A.dim(1)),
        padded(divide_up(d_state, block_states) * block_states),
        groups(divide_up(d_inner, group_channels)),
        sequences(in.seqs.count()),
        range_sequences(
            std::clamp<int64_t>(kRangeTokens * sequences / std::max<int64_t>(1, in.seqs.tokens), 1,
                                std::max<int64_t>(1, sequences))),
        ranges(divide_up(sequences, range_sequences)) {}

  int64_t tasks() const { return groups * ranges; }
  int64_t range_of(int64_t task) const { return task / groups; }
  int64_t range_begin(int64_t range) const { return range * range_sequences; }
  int64_t range_end(int64_t range) const { return std::min(sequences, range_begin(range + 1)); }
  int64_t group_of(int64_t task) const { return task % groups; }
  Group group(int64_t g) const {
    const int64_t first = g * group_channels;
    return {first, std::min(group_channels, d_inner - first), d_inner, d_state, padded};
  }

  int64_t group_channels, d_inner, d_state, padded;
  int64_t groups, sequences, range_sequences, ranges;
};

// Whether a tap of those per state, or of the others, has to do with elements of the box.
template <bool kBack>
bool AnyMeets(const ScanTaps& taps, bool per_state, const TapBox& box) {
  for (size_t i = 0; i < taps.size(); ++i) {
    const bool of_kind = is_per_state(static_cast<ScanPoint>(i)) == per_state;
    if (of_kind && (kBack ? meets_backward(taps[i], box) : meets_forward(taps[i], box)))
      return true;
  }
  return false;
}

// Calls body(std::true_type) where a part of the work meets a tap, body(std::false_type) elsewhere,
// for the same results at full speed. Without kTaps, always the latter.
template <bool kTaps, class Meets, class Body>
HWY_INLINE void WhereTapped(Meets&& meets, Body&& body) {
  if constexpr (kTaps) {
    if (meets()) return body(std::true_type());
  }
  body(std::false_type());
}

// One call's taps as one vector of channels meets them: slowly, lane by lane; without kTaps, not at
// all.
template <bool kTaps>
class TapLanes {
 public:
  TapLanes(const ScanTaps& taps, const Group& group, int64_t v)
      : taps_(taps), group_(group), first_(group.channel(v)), count_(group.lanes(v)) {}

  bool edits(ScanPoint p) const { return kTaps && tap(taps_, p).is_edited(); }

  HWY_INLINE V through(ScanPoint p, int64_t token, V value) const {
    return change<false>(p, token, value);
  }
  HWY_INLINE V through(ScanPoint p, int64_t token, int64_t n, V value) const {
    return change<false>(p, token, n, value);
  }
  // The gradient of the unedited value from that of the edited one, which is written down.
  HWY_INLINE V back(ScanPoint p, int64_t token, V gradient) const {
    return change<true>(p, token, gradient);
  }
  HWY_INLINE V back(ScanPoint p, int64_t token, int64_t n, V gradient) const {
    return change<true>(p, token, n, gradient);
  }

 private:
  template <bool kBack>
  HWY_INLINE V change(ScanPoint p, int64_t token, V value) const {
    if constexpr (kTaps) return lanes<kBack>(tap(taps_, p), place(token), 1, value);
    return value;
  }
  template <bool kBack>
  HWY_INLINE V change(ScanPoint p, int64_t token, int64_t n, V value) const {
    if constexpr (kTaps) {
      const int64_t d_state = group_.d_state;
      if (n < d_state) {
        return lanes<kBack>(tap(taps_, p), place(token) * d_state + n, d_state, value);
      }
    }
    return value;
  }

  int64_t place(int64_t token) const { return token * group_.d_inner + first_; }

  template <bool kBack>
  HWY_NOINLINE V lanes(const Tap& tap, int64_t place, int64_t step, V value) const {
    if (!(kBack ? tap.is_active_backward() : tap.is_active_forward())) return value;
    HWY_ALIGN float lanes[kLanes];
    hn::Store(value, D(), lanes);
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t at = place + i * step;
      lanes[i] = kBack ? back_through_tap(tap, at, lanes[i]) : through_tap(tap, at, lanes[i]);
    }
    return hn::Load(D(), lanes);
  }

  const ScanTaps& taps_;
  const Group& group_;
  int64_t first_, count_;
};

// One state of one token, for TapLanes.
template <bool kTaps>
struct StateAt {
  const TapLanes<kTaps>& taps;
  int64_t token, n;

  HWY_INLINE V through(ScanPoint p, V value) const { return taps.through(p, token, n, value); }
  HWY_INLINE V back(ScanPoint p, V gradient) const { return taps.back(p, token, n, gradient); }
};

// What the states of one vector of channels read at one token.
struct TokenValues {
  V x, dt, dtx;
};

template <bool kTaps>
HWY_INLINE V Write(const StateAt<kTaps>& at, const TokenValues& in, V B) {
  const V plain = hn::Mul(in.dtx, B);
  if constexpr (!kTaps) return plain;
  const V B_bar = hn::Mul(in.dt, B);
  const V edited = at.through(ScanPoint::B_bar, B_bar);
  const V write = hn::IfThenElse(hn::Eq(edited, B_bar), plain, hn::Mul(edited, in.x));
  return at.through(ScanPoint::write, write);
}

// One state's token: changes h, adds to y, returns the decay. A is times log2(e).
template <bool kTaps>
HWY_INLINE V Advance(const StateAt<kTaps>& at, const TokenValues& in, V A, float B, float C, V& h,
                     V& y) {
  const D d;
  const V decay = at.through(ScanPoint::decay, Exp2OfProduct(d, in.dt, A));
  h = at.through(ScanPoint::h, hn::MulAdd(decay, h, Write(at, in, hn::Set(d, B))));
  y = hn::MulAdd(at.through(ScanPoint::readout_h, h), hn::Set(d, C), y);
  return decay;
}

// Rows [token, token + len) of a (tokens, d_state) matrix, as (len, padded); zero beyond d_state.
inline void CopyRows(const Tensor& matrix, int64_t token, int64_t len, int64_t padded, float* to) {
  const D d;
  const int64_t d_state = matrix.dim(1);
  for (int64_t t = 0; t < len; ++t, to += padded) {
    const float* from = row(matrix, token + t);
    int64_t n = 0;
    for (; n + kLanes <= d_state; n += kLanes) hn::StoreU(hn::LoadU(d, from + n), d, to + n);
    for (; n < padded; ++n) to[n] = n < d_state ? from[n] : 0.0f;
  }
}

// What a task of either direction keeps for its group, of at most kVectors: A times log2(e), and B
// and C of one chunk.
template <int kVectors>
class GroupScan {
 protected:
  static int64_t state_floats(int64_t padded) { return kVectors * kLanes * padded; }
  static int64_t shared_floats(int64_t padded) {
    return state_floats(padded) + 2 * kChunk * padded;
  }

  GroupScan(const ScanInputs& in, const Group& group, float* scratch)
      : in_(in),
        group_(group),
        A_(scratch),
        B_(A_ + state_floats(group.padded)),
        C_(B_ + kChunk * group.padded) {
    const D d;
    group_.load(in_.A.data<float>(), A_);
    for (int64_t i = 0; i < group_.floats(); i += kLanes) {
      hn::Store(hn::Mul(hn::Load(d, A_ + i), hn::Set(d, kLog2e)), d, A_ + i);
    }
  }

  void load_chunk(int64_t token, int64_t len) {
    CopyRows(in_.B, token, len, group_.padded, B_);
    CopyRows(in_.C, token, len, group_.padded, C_);
  }

  // What taps may meet of `len` tokens and vector v; the second, of a block of its states.
  TapBox box(int64_t token, int64_t len, int64_t v) const {
    return {token, token + len, group_.channel(v), group_.channel(v) + group_.lanes(v)};
  }
  TapBox box(int64_t token, int64_t len, int64_t v, int64_t first_state, int64_t states) const {
    TapBox box = this->box(token, len, v);
    box.state_begin = first_state;
    box.state_end = std::min(first_state + states, group_.d_state);
    return box;
  }

  template <class Body>
  void for_each_vector(Body&& body) const {
    const int64_t whole = group_.count / kLanes, rest = group_.count % kLanes;
    for (int64_t v = 0; v < whole; ++v) body(WholeLanes<D>{D()}, v);
    if (rest != 0) body(FirstLanes<D>{D(), static_cast<size_t>(rest)}, whole);
  }

  // Rows lie too far apart for the hardware to see them coming. Asks for a part of row `token` of
  // one tensor; the calls with v = 0, 1, ... ask for the group's part of all of them (but for some
  // of a last group's, whose vectors are no multiple of kParts).
  template <size_t kTensors>
  HWY_INLINE void prefetch(int64_t token, int64_t v,
                           const Tensor* const (&tensors)[kTensors]) const {
    constexpr int64_t kParts = 4;  // as many vectors of a row at once, and at least as many tensors
    static_assert(kTensors <= kParts);
    const int64_t tensor = v % kParts, part = v / kParts;
    if (token < 0 || token >= in_.seqs.tokens || tensor >= int64_t{kTensors}) return;
    const float* at = row(*tensors[tensor], token) + group_.channel(part * kParts);
    for (int64_t f = 0; f < kParts * kLanes; f += kLineFloats) PrefetchToL2(at + f);
  }

  // The group's rows of next_checkpoint_, a cache line for each block of states, vector and token.
  HWY_INLINE void prefetch_checkpoint(int64_t block, int64_t v, int64_t t) const {
    if (next_checkpoint_ == nullptr) return;
    const int64_t at = ((block * kVectors + v) * kChunk + t) * kLineFloats;
    if (at >= group_.count * group_.d_state) return;
    PrefetchToL2(next_checkpoint_ + group_.first * group_.d_state + at);
  }

  const ScanInputs& in_;
  const Group group_;
  const float* next_checkpoint_ = nullptr;  // (d_inner, d_state): used after this chunk; or null
  float* const A_;                          // as Group keeps states
  float* const B_;                          // (kChunk, padded)
  float* const C_;                          // (kChunk, padded)
};

// Few tokens are not worth a second thread.
inline int ThreadsFor(const Device& device, const ScanInputs& in) {
  constexpr int64_t kWorthThreads = 1 << 16;
  return in.A.numel() * in.seqs.tokens < kWorthThreads ? 1 : device.threads();
}

inline float* SlotOf(const Tensor& pool, int64_t slot) {
  return pool.data<float>() + slot * pool.dim(1) * pool.dim(2);
}

}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
