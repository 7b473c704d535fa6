// SPDX-License-Identifier: Apache-2.0
// Drawing a token of each row, a block a row. Bound: latency, and what one multiprocessor reads: a
// row is read twice, and for each of top_k and top_p three times or more.
//
// A candidate's rank is one number, greater for the likelier: its logit's bits, in their order,
// then those of its token, turned. Who is kept is decided by the least rank that is: it is found
// digit by digit, each from what the candidates of every digit weigh together. Weights are counted
// in units of 2^-44 of the likeliest's, so that sums are exact in any order, atomics' too.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/launch.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32;
constexpr int kAhead = 8;  // logits that a thread reads before it looks at them
constexpr int kDigits = 2048;
constexpr float kUnits = 17592186044416.0f;  // 2^44: 2^19 classes weigh less than 2^63
constexpr int64_t kMostClasses = int64_t{1} << 19;
constexpr int kMostSpans = static_cast<int>(kMostClasses / kThreads);  // of a row, a token a thread
using Count = unsigned long long;

struct Draw {
  Rows<const float> logits;
  int classes;
  const double* uniform;
  float inverse_temperature;
  int64_t top_k;
  double top_p, min_p;
  int64_t* index;
};

// What the threads of a block share. Of sums by digit there are halves: atomics of 64 bits are many
// times slower in a block's memory.
struct Memory {
  unsigned low[kDigits], high[kDigits];  // halves of what candidates of a digit weigh
  unsigned counts[kDigits];              // and how many they are
  Count of_span[kMostSpans];
  Count of_warp[kWarps];
  float highest_of_warp[kWarps];
  struct {
    Count digit, before, weight;
    unsigned count;  // 0 where none was found
  } found;
  Count target;  // of the span
  int span;
};

__device__ inline float infinity() { return __int_as_float(0x7f800000); }

__device__ inline Count rank_of(float logit, int token) {
  const unsigned bits = __float_as_uint(logit + 0.0f);  // one zero
  const unsigned ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return Count{ordered} << 32 | ~static_cast<unsigned>(token);
}

// exp(by * (logit - highest)) in units.
__device__ inline float ratio(float logit, float highest, float by) {
  return logit == highest ? 1.0f : expf((logit - highest) * by);
}
__device__ inline Count units(float ratio) { return static_cast<Count>(ratio * kUnits); }

// Calls visit(span, logit) for each span of the row, on every thread with the logit of its token:
// -inf where there is none.
template <class Visit>
__device__ void for_each_span(const float* row, int classes, Visit&& visit) {
  const int thread = static_cast<int>(threadIdx.x);
  for (int first = 0; first * kThreads < classes; first += kAhead) {
    float ahead[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int token = (first + k) * kThreads + thread;
      ahead[k] = token < classes ? row[token] : -infinity();
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if ((first + k) * kThreads < classes) visit(first + k, ahead[k]);
    }
  }
}
// The same for tokens, on the threads that have them: visit(token, logit).
template <class Visit>
__device__ void for_each_logit(const float* row, int classes, Visit&& visit) {
  for_each_span(row, classes, [&](int span, float logit) {
    const int token = span * kThreads + static_cast<int>(threadIdx.x);
    if (token < classes) visit(token, logit);
  });
}

// The sum over a warp, of values below 2^45.
__device__ inline Count warp_sum(Count value) {
  constexpr int kLow = 24;
  const unsigned low = static_cast<unsigned>(value) & ((1u << kLow) - 1);
  const unsigned high = static_cast<unsigned>(value >> kLow);
  return (Count{__reduce_add_sync(~0u, high)} << kLow) + __reduce_add_sync(~0u, low);
}

// The sum of the values of all threads up to this one; `total`, of all.
__device__ Count sums_up_to(Memory& memory, Count value, Count& total) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  for (int step = 1; step < 32; step *= 2) {
    const Count before = __shfl_up_sync(~0u, value, step);
    if (lane >= step) value += before;
  }
  if (lane == 31) memory.of_warp[warp] = value;
  __syncthreads();
  total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w == warp) value += total;
    total += memory.of_warp[w];
  }
  __syncthreads();
  return value;
}

// The greatest rank such that the candidates from it on weigh `need` or more; 0 where all weigh
// less. weigh(token, logit) is 0 for what is no candidate.
template <class Weigh>
__device__ Count least_rank(Memory& memory, const float* row, int classes, Count need,
                            Weigh&& weigh) {
  constexpr int kShifts[] = {53, 42, 32, 21, 10, 0}, kBits[] = {11, 11, 10, 11, 11, 10};
  auto& found = memory.found;
  Count rank = 0;
#pragma unroll 1
  for (int digit = 0; digit < 6; ++digit) {
    const int shift = kShifts[digit], digits = 1 << kBits[digit], known = shift + kBits[digit];
    for (int d = static_cast<int>(threadIdx.x); d < digits; d += kThreads) {
      memory.low[d] = memory.high[d] = memory.counts[d] = 0;
    }
    if (threadIdx.x == 0) found.count = 0;
    __syncthreads();
    for_each_logit(row, classes, [&](int token, float logit) {
      const Count own = rank_of(logit, token);
      if (known < 64 && (own ^ rank) >> known != 0) return;
      const Count weight = weigh(token, logit);
      if (weight == 0) return;
      const int d = static_cast<int>(own >> shift) & (digits - 1);
      const auto low = static_cast<unsigned>(weight);
      const bool carries = atomicAdd(&memory.low[d], low) > ~low;
      const unsigned high = static_cast<unsigned>(weight >> 32) + carries;
      if (high > 0) atomicAdd(&memory.high[d], high);
      atomicAdd(&memory.counts[d], 1u);
    });
    __syncthreads();
    const auto weight_of = [&](int d) { return Count{memory.high[d]} << 32 | memory.low[d]; };
    // A thread two digits, the greatest first.
    const int high = digits - 1 - 2 * static_cast<int>(threadIdx.x);
    const Count own = high > 0 ? weight_of(high) + weight_of(high - 1) : 0;
    Count total = 0, before = sums_up_to(memory, own, total) - own;
    for (int d = high; d >= 0 && d >= high - 1; --d) {
      const Count weight = weight_of(d);
      if (before < need && before + weight >= need) {
        found = {static_cast<Count>(d), before, weight, memory.counts[d]};
      }
      before += weight;
    }
    __syncthreads();
    if (found.count == 0) return 0;
    rank |= found.digit << shift;
    need -= found.before;
    if (found.count == 1 || found.weight == need) return rank;
    __syncthreads();
  }
  return rank;
}

__global__ void __launch_bounds__(kThreads) draw_kernel(const __grid_constant__ Draw a) {
  const float* row = a.logits.row(blockIdx.x);
  __shared__ Memory memory;
  float highest = -infinity();
  bool cannot = false;
  for_each_logit(row, a.classes, [&](int, float logit) {
    if (!(logit < infinity())) cannot = true;
    highest = fmaxf(highest, logit);
  });
  highest = warp_max(highest);
  if (threadIdx.x % 32 == 0) memory.highest_of_warp[threadIdx.x / 32] = highest;
  cannot = __syncthreads_or(cannot);
  for (int w = 0; w < kWarps; ++w) highest = fmaxf(highest, memory.highest_of_warp[w]);
  if (cannot || highest == -infinity()) {
    if (threadIdx.x == 0) a.index[blockIdx.x] = -1;
    return;
  }
  Count least = 0, total = 0;
  const auto is_kept = [&](int token, float logit) {
    return logit > -infinity() && rank_of(logit, token) >= least;
  };
  if (a.top_k > 0 && a.top_k < a.classes) {
    least = least_rank(memory, row, a.classes, static_cast<Count>(a.top_k),
                       [&](int, float logit) { return Count{logit > -infinity()}; });
  }
  if (a.top_p < 1) {
    const auto weigh = [&](int token, float logit) {
      return is_kept(token, logit) ? units(ratio(logit, highest, 1)) : 0;
    };
    Count own = 0;
    for_each_logit(row, a.classes, [&](int t, float logit) { own += weigh(t, logit); });
    sums_up_to(memory, own, total);
    const Count enough = static_cast<Count>(ceil(a.top_p * static_cast<double>(total)));
    const Count need = min(max(enough, Count{1}), total);
    least = max(least, least_rank(memory, row, a.classes, need, weigh));
  }
  const auto weigh = [&](int token, float logit) {
    if (!is_kept(token, logit)) return Count{0};
    if (a.min_p > 0 && static_cast<double>(ratio(logit, highest, 1)) < a.min_p) return Count{0};
    return units(ratio(logit, highest, a.inverse_temperature));
  };
  // Which span of the row has what is drawn, and then which of its tokens.
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kMostSpans) memory.of_span[thread] = 0;
  __syncthreads();
  for_each_span(row, a.classes, [&](int span, float logit) {
    const int token = span * kThreads + thread;
    const Count of_warp = warp_sum(token < a.classes ? weigh(token, logit) : 0);
    if (thread % 32 == 0 && of_warp > 0) atomicAdd(&memory.of_span[span], of_warp);
  });
  __syncthreads();
  Count own = thread < kMostSpans ? memory.of_span[thread] : 0;
  Count up_to = sums_up_to(memory, own, total);
  const Count drawn = static_cast<Count>(a.uniform[blockIdx.x] * static_cast<double>(total));
  const auto has = [&](Count number) { return number < up_to && number >= up_to - own; };
  if (has(min(drawn, total - 1))) {
    memory.span = thread;
    memory.target = min(drawn, total - 1) - (up_to - own);
  }
  __syncthreads();
  const int token = memory.span * kThreads + thread;
  own = token < a.classes ? weigh(token, row[token]) : 0;
  up_to = sums_up_to(memory, own, total);
  if (has(memory.target)) a.index[blockIdx.x] = token;
}

}  // namespace

void sample(Device& device, const Sample& a) {
  const int64_t classes = a.logits.dim(1);
  ELAPSE_CHECK(classes <= kMostClasses, "sample: device cuda takes up to {} classes, not {}",
               kMostClasses, classes);
  const double inverse = std::min(1 / a.how.temperature, 3e38);
  launch(device, name_of(a.kOp), draw_kernel, grid_of(a.logits.dim(0)), kThreads, 0,
         Draw{.logits = Rows<const float>(a.logits),
              .classes = static_cast<int>(classes),
              .uniform = a.uniform.data<double>(),
              .inverse_temperature = static_cast<float>(inverse),
              .top_k = a.how.top_k,
              .top_p = a.how.top_p,
              .min_p = a.how.min_p,
              .index = a.index.data<int64_t>()});
}

}  // namespace elapse::cuda
