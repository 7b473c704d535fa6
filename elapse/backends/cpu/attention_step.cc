// SPDX-License-Identifier: Apache-2.0
// Attention of one query a sequence, as in decoding. What it sees stands in pieces: positions an
// equal step apart in one run of the past. A task is some kPart positions of one sequence for one
// head of keys and all heads that share it, with a softmax of its own; the parts are joined in
// order. Four positions go together, so that their sums over channels end in one vector.
//
// Bound: reading keys and values once, 8 bytes for 2 multiply-adds of each head that shares them.
#include <cmath>
#include <utility>

#include "elapse/backends/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/attention_step.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/attention-inl.h"

#ifndef ELAPSE_BACKENDS_CPU_ATTENTION_STEP_CC_
#define ELAPSE_BACKENDS_CPU_ATTENTION_STEP_CC_
namespace elapse::cpu {

// Positions whose rows are equally far apart.
struct AttentionPiece {
  const float *k, *v;
  int64_t k_step, v_step;
  int64_t count;
};

// Consecutive pieces of one sequence.
struct AttentionPart {
  int64_t sequence, token;
  std::vector<AttentionPiece> pieces;
  int64_t positions;
};

// A part's softmax for one head: z is not yet divided by the sum.
struct PartOfHead {
  float largest, sum;
};

// A part's scratch memory: scores (group, positions), queries (group, head_dim).
struct StepScratch {
  float *scores, *q;
};

}  // namespace elapse::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kTogether = 4;  // positions

// Up to kTogether rows from row i on; the last stands for those that are missing.
struct Rows {
  const float* row[kTogether];
  int64_t count;

  Rows(const float* first, int64_t step, int64_t i, int64_t of) {
    count = std::min(kTogether, of - i);
    for (int64_t r = 0; r < kTogether; ++r) {
      row[r] = first + (i + std::min(r, count - 1)) * step;
    }
  }
};

// The scores of a piece's positions for one query.
void Scores(const AttentionPiece& piece, const float* q, int64_t column, int64_t head_dim,
            float* scores) {
  const D d;
  for (int64_t i = 0; i < piece.count; i += kTogether) {
    const Rows k(piece.k + column, piece.k_step, i, piece.count);
    V sums[kTogether] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    ForLanes(d, head_dim, [&](int64_t e, auto lanes) HWY_ATTR {
      const V qe = lanes.load(q + e);
      HWY_UNROLL(4)
      for (int64_t r = 0; r < kTogether; ++r) {
        sums[r] = hn::MulAdd(qe, lanes.load(k.row[r] + e), sums[r]);
      }
    });
    float four[kTogether];
    SumsOf(d, sums, four);
    std::copy_n(four, k.count, scores + i);
  }
}

// z += the piece's values by their weights.
void AddValues(const AttentionPiece& piece, const float* weights, int64_t column, int64_t head_dim,
               float* z) {
  const D d;
  for (int64_t i = 0; i < piece.count; i += kTogether) {
    const Rows v(piece.v + column, piece.v_step, i, piece.count);
    float weight[kTogether] = {};
    std::copy_n(weights + i, v.count, weight);
    ForLanes(d, head_dim, [&](int64_t e, auto lanes) HWY_ATTR {
      V sum = lanes.load(z + e);
      HWY_UNROLL(4)
      for (int64_t r = 0; r < kTogether; ++r) {
        sum = hn::MulAdd(hn::Set(d, weight[r]), lanes.load(v.row[r] + e), sum);
      }
      lanes.store(sum, z + e);
    });
  }
}

// A part for the heads that share a head of keys: z (group, head_dim), `ends` (group).
void StepPart(const AttentionInputs& in, const AttentionPart& part, int64_t kv_head,
              const StepScratch& scratch, float* z, PartOfHead* ends) {
  const int64_t head_dim = in.head_dim(), group = in.n_heads / in.n_kv_heads;
  const int64_t column = kv_head * head_dim;
  std::copy_n(row(in.q, part.token) + kv_head * group * head_dim, group * head_dim, scratch.q);
  ScaleBy(1 / std::sqrt(static_cast<float>(head_dim)), group * head_dim, scratch.q);
  int64_t begin = 0;
  for (const AttentionPiece& piece : part.pieces) {
    for (int64_t h = 0; h < group; ++h) {
      Scores(piece, scratch.q + h * head_dim, column, head_dim,
             scratch.scores + h * part.positions + begin);
    }
    begin += piece.count;
  }
  for (int64_t h = 0; h < group; ++h) {
    float* scores = scratch.scores + h * part.positions;
    ends[h].largest = LargestOf(scores, part.positions, kNoScore);
    ends[h].sum = ExpOfDifferences(scores, part.positions, ends[h].largest);
  }
  std::fill_n(z, group * head_dim, 0.0f);
  begin = 0;
  for (const AttentionPiece& piece : part.pieces) {
    for (int64_t h = 0; h < group; ++h) {
      AddValues(piece, scratch.scores + h * part.positions + begin, column, head_dim,
                z + h * head_dim);
    }
    begin += piece.count;
  }
}

// The parts of one head of one sequence, whose z and ends are so far apart, joined in z.
float JoinParts(const float* parts_z, const PartOfHead* ends, int64_t count, int64_t apart_z,
                int64_t apart, int64_t head_dim, float* z) {
  const D d;
  float largest = kNoScore, sum = 0;
  for (int64_t p = 0; p < count; ++p) largest = std::max(largest, ends[p * apart].largest);
  std::fill_n(z, head_dim, 0.0f);
  for (int64_t p = 0; p < count; ++p) {
    const float weight = ExpOf(ends[p * apart].largest - largest);
    sum += weight * ends[p * apart].sum;
    ForLanes(d, head_dim, [&](int64_t e, auto lanes) HWY_ATTR {
      const V part = lanes.load(parts_z + p * apart_z + e);
      lanes.store(hn::MulAdd(hn::Set(d, weight), part, lanes.load(z + e)), z + e);
    });
  }
  ScaleBy(1 / sum, head_dim, z);
  return largest + std::log(sum);
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {
HWY_EXPORT(StepPart);
HWY_EXPORT(JoinParts);

constexpr int64_t kPart = 512;  // positions of a part, or a run's more

// What the one query of a sequence sees, in order: its positions in runs, `before` of them past.
std::vector<AttentionPiece> pieces_of(const AttentionInputs& in, int64_t sequence, int64_t token) {
  const int64_t dilation = in.pattern.dilation, before = in.past_length(sequence);
  const int64_t lowest =
      in.pattern.window == 0 ? 0 : std::max<int64_t>(0, before - in.pattern.window + 1);
  int64_t next = before - (before - lowest) / dilation * dilation, start = 0;
  std::vector<AttentionPiece> pieces;
  const auto add = [&](const Tensor& k, const Tensor& v, int64_t positions) {
    const int64_t end = start + positions;
    if (next < end) {
      const int64_t count = divide_up(end - next, dilation);
      pieces.push_back({row(k, next - start), row(v, next - start), dilation * k.stride(0),
                        dilation * v.stride(0), count});
      next += count * dilation;
    }
    start = end;
  };
  if (!in.past.empty()) {
    for (const KeyValueRows& run : in.past[static_cast<size_t>(sequence)]) {
      add(run.k, run.v, run.k.dim(0));
    }
  }
  add(in.k.rows(token, token + 1), in.v.rows(token, token + 1), 1);
  return pieces;
}

// By sequence of one token, in order.
std::vector<AttentionPart> parts_of(const AttentionInputs& in) {
  std::vector<AttentionPart> parts;
  int64_t token = 0;
  for (int64_t s = 0; s < in.seqs.count(); ++s) {
    const int64_t length = in.seqs.lengths[static_cast<size_t>(s)];
    if (length == 1) {
      parts.push_back({s, token, {}, 0});
      for (const AttentionPiece& piece : pieces_of(in, s, token)) {
        if (parts.back().positions >= kPart) parts.push_back({s, token, {}, 0});
        parts.back().pieces.push_back(piece);
        parts.back().positions += piece.count;
      }
    }
    token += length;
  }
  return parts;
}

// One thread for work too small to share.
int step_threads(const Device& device, const AttentionInputs& in, int64_t positions) {
  constexpr int64_t kLeastShared = 1 << 16;  // numbers read: some ten microseconds
  return positions * in.k.dim(1) < kLeastShared ? 1 : device.threads();
}

}  // namespace

void attention_of_singles(Device& device, const AttentionForward& args) {
  const AttentionInputs& in = args.in;
  const std::vector<AttentionPart> parts = parts_of(in);
  if (parts.empty()) return;
  const int64_t head_dim = in.head_dim(), group = in.n_heads / in.n_kv_heads;
  int64_t most = 0, positions = 0;
  for (const AttentionPart& part : parts) {
    most = std::max(most, part.positions);
    positions += part.positions;
  }
  const Tensor z = device.empty(DType::f32, {std::ssize(parts), in.n_heads * head_dim});
  std::vector<PartOfHead> ends(parts.size() * static_cast<size_t>(in.n_heads));
  const int threads = step_threads(device, in, positions);
  const Tensor scratch = device.empty(DType::f32, {threads, group * (most + head_dim)});
  parallel_for(std::ssize(parts) * in.n_kv_heads, threads, [&](int64_t i, int worker) {
    const int64_t p = i / in.n_kv_heads, kv_head = i % in.n_kv_heads, head = kv_head * group;
    float* scores = row(scratch, worker);
    HWY_DYNAMIC_DISPATCH(StepPart)
    (in, parts[static_cast<size_t>(p)], kv_head, {scores, scores + group * most},
     row(z, p) + head * head_dim, ends.data() + p * in.n_heads + head);
  });
  for (int64_t p = 0; p < std::ssize(parts);) {
    const AttentionPart& first = parts[static_cast<size_t>(p)];
    int64_t end = p + 1;
    while (end < std::ssize(parts) && parts[static_cast<size_t>(end)].token == first.token) ++end;
    for (int64_t h = 0; h < in.n_heads; ++h) {
      const float lse = HWY_DYNAMIC_DISPATCH(JoinParts)(
          row(z, p) + h * head_dim, ends.data() + p * in.n_heads + h, end - p,
          in.n_heads * head_dim, in.n_heads, head_dim, row(args.z, first.token) + h * head_dim);
      if (args.lse) row(args.lse, first.token)[h] = lse;
    }
    p = end;
  }
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE
