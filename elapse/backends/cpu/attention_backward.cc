// SPDX-License-Identifier: Apache-2.0
// Attention, backward. Keys and values are packed as forward's are. A task is one head of one
// sequence (of a residue of its dilation), whose blocks of queries walk the blocks of keys that
// they see, from the sum that forward left (Dao et al., 2022):
//   1. P = exp(q k^T / sqrt(head_dim) - lse)
//   2. dv += P^T dz
//   3. dS = P o (dz v^T - dz . z)
//   4. dq += dS k;  dk += dS^T q / sqrt(head_dim)
// The gradients of the heads that share a key are then added in their order.
//
// Bound: 5 head_dim multiply-adds a pair of a query and a position that it sees, at what the
// products reach, and an exponential.
#include <cmath>
#include <utility>

#include "elapse/backends/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/attention_backward.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

// out (count, head_dim) += weights^T x, for weights (rows, kKeys)
void AddTransposed(const float* weights, const float* x, int64_t rows, int64_t count,
                   int64_t head_dim, float* out) {
  multiply({.m = count,
            .n = head_dim,
            .k = rows,
            .a = {1, kKeys},
            .b = {head_dim, 1},
            .c_row = head_dim,
            .accumulates = true},
           weights, x, out);
}

// Step 1 for one query: scores become weights, 0 where it does not see.
void Weights(float* scores, int64_t count, KeyRange seen, float lse) {
  std::fill(scores, scores + seen.begin, 0.0f);
  std::fill(scores + seen.end, scores + count, 0.0f);
  ExpOfDifferences(scores + seen.begin, seen.end - seen.begin, lse);
}

// Step 3 for one query: `dweights` become those of the scores.
void ScoreGradients(const float* weights, float mean, int64_t count, float* dweights) {
  const D d;
  ForLanes(d, count, [&](int64_t j, auto lanes) HWY_ATTR {
    const V above = hn::Sub(lanes.load(dweights + j), hn::Set(d, mean));
    lanes.store(hn::Mul(lanes.load(weights + j), above), dweights + j);
  });
}

float Dot(const float* a, const float* b, int64_t n) {
  return SumLanes(WholeLanes<D>{D()}, n, [&](int64_t i, auto lanes, V sum) HWY_ATTR {
    return hn::MulAdd(lanes.load(a + i), lanes.load(b + i), sum);
  });
}

class BackwardTask {
 public:
  static int64_t scratch_floats(int64_t head_dim) {
    return kQueries * (3 * head_dim + 2 * kKeys + 2);
  }

  BackwardTask(const AttentionBackward& args, const AttentionPlan& plan, float* scratch)
      : args_(args),
        plan_(plan),
        head_dim_(args.in.head_dim()),
        scale_(1 / std::sqrt(static_cast<float>(head_dim_))) {
    const auto take = [&](int64_t count) { return std::exchange(scratch, scratch + count); };
    q_ = take(kQueries * head_dim_);
    dz_ = take(kQueries * head_dim_);
    dq_ = take(kQueries * head_dim_);
    weights_ = take(kQueries * kKeys);
    dscores_ = take(kQueries * kKeys);
    lse_ = take(kQueries);
    mean_ = take(kQueries);
  }

  void run(const AttentionBlock& block, const StreamOfHead& head) const {
    const int64_t rows = divide_up(block.count, kAttentionRows) * kAttentionRows;
    load(block, rows);
    const KeyRange range = plan_.keys_of(block);
    for (int64_t j = range.begin; j < range.end; j += kKeys) {
      keys(block, head, rows, j, std::min(kKeys, range.end - j));
    }
    ScaleBy(scale_, block.count * head_dim_, dq_);
    for (int64_t i = 0; i < block.count; ++i) {
      std::copy_n(dq_ + i * head_dim_, head_dim_,
                  row(args_.dq, token(block, i)) + block.head * head_dim_);
    }
  }

 private:
  int64_t token(const AttentionBlock& block, int64_t i) const {
    const AttentionStream& s = plan_.stream(block.stream);
    return plan_.token(s, s.past + block.begin + i);
  }

  void load(const AttentionBlock& block, int64_t rows) const {
    LoadRows(args_.in.q, plan_, block, head_dim_, rows, scale_, q_);
    LoadRows(args_.dz, plan_, block, head_dim_, rows, 1, dz_);
    std::fill_n(dq_, rows * head_dim_, 0.0f);
    for (int64_t i = 0; i < block.count; ++i) {
      const int64_t t = token(block, i);
      lse_[i] = row(args_.lse, t)[block.head];
      mean_[i] = Dot(dz_ + i * head_dim_, row(args_.z, t) + block.head * head_dim_, head_dim_);
    }
  }

  // Keys [first, first + count).
  void keys(const AttentionBlock& block, const StreamOfHead& head, int64_t rows, int64_t first,
            int64_t count) const {
    const int64_t at = first * head_dim_;
    MultiplyWithKeys(q_, head.keys + at, rows, count, head_dim_, weights_);
    MultiplyWithKeys(dz_, head.values + at, rows, count, head_dim_, dscores_);
    for (int64_t i = 0; i < block.count; ++i) {
      const int64_t place = plan_.stream(block.stream).past + block.begin + i;
      float* weights = weights_ + i * kKeys;
      Weights(weights, count, SeenOf(place, plan_.window(), first, count), lse_[i]);
      ScoreGradients(weights, mean_[i], count, dscores_ + i * kKeys);
    }
    AddTransposed(weights_, dz_, rows, count, head_dim_, head.dvalues + at);
    AddWeighted(dscores_, head.keys + at, rows, count, head_dim_, dq_);
    AddTransposed(dscores_, q_, rows, count, head_dim_, head.dkeys + at);
  }

  const AttentionBackward& args_;
  const AttentionPlan& plan_;
  const int64_t head_dim_;
  const float scale_;
  float *q_, *dz_, *dq_;       // (kQueries, head_dim): q is scaled
  float *weights_, *dscores_;  // (kQueries, kKeys)
  float *lse_, *mean_;         // (kQueries): mean is dz . z
};

void BackwardHead(const AttentionBackward& args, const AttentionPlan& plan, int64_t stream,
                  int64_t head, const StreamOfHead& arrays, float* scratch) {
  const int64_t tokens = plan.stream(stream).tokens;
  const int64_t elements = plan.stream(stream).rows * args.in.head_dim();
  std::fill_n(arrays.dkeys, elements, 0.0f);
  std::fill_n(arrays.dvalues, elements, 0.0f);
  const BackwardTask task(args, plan, scratch);
  for (int64_t begin = 0; begin < tokens; begin += kQueries) {
    task.run({stream, head, begin, std::min(kQueries, tokens - begin)}, arrays);
  }
}

int64_t BackwardScratch(int64_t head_dim) { return BackwardTask::scratch_floats(head_dim); }

// to = or += the sum of `count` rows, which are `apart`.
void SumRows(const float* rows, int64_t count, int64_t apart, int64_t n, bool accumulates,
             float* to) {
  const D d;
  ForLanes(d, n, [&](int64_t i, auto lanes) HWY_ATTR {
    V sum = lanes.load(rows + i);
    for (int64_t r = 1; r < count; ++r) sum = hn::Add(sum, lanes.load(rows + r * apart + i));
    if (accumulates) sum = hn::Add(lanes.load(to + i), sum);
    lanes.store(sum, to + i);
  });
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {
HWY_EXPORT(BackwardHead);
HWY_EXPORT(BackwardScratch);
HWY_EXPORT(SumRows);

// The sums over heads of `packed` (n_heads, rows, head_dim), into the rows of `own` and of `past`.
// Sequences may share a past: they are added in their order.
void unpack(Device& device, const AttentionBackward& args, const AttentionPlan& plan,
            const Tensor& packed, const Tensor& own, Tensor KeyValueRows::*part) {
  const int64_t head_dim = args.in.head_dim(), apart = plan.rows() * head_dim;
  const int64_t group = args.in.n_heads / args.in.n_kv_heads;
  for (const AttentionStream& s : plan.streams()) {
    const std::vector<float*> rows = plan.rows_of(s, own, args.dpast, part);
    for_each_block(device, std::ssize(rows), rows_per_block(args.in.n_heads * head_dim),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) {
                       float* to = rows[static_cast<size_t>(i)];
                       for (int64_t h = 0; to != nullptr && h < args.in.n_kv_heads; ++h) {
                         HWY_DYNAMIC_DISPATCH(SumRows)
                         (packed.data<float>() + h * group * apart + (s.row + i) * head_dim, group,
                          apart, head_dim, i < s.past, to + h * head_dim);
                       }
                     }
                   });
  }
}

}  // namespace

void attention_backward(Device& device, const AttentionBackward& args) {
  const AttentionPlan plan(args.in, true);
  const int64_t head_dim = args.in.head_dim(), n_heads = args.in.n_heads;
  const Tensor keys = plan.keys(device), values = plan.values(device);
  const Shape packed = {n_heads, plan.rows(), head_dim};
  const Tensor dkeys = device.empty(DType::f32, packed), dvalues = device.empty(DType::f32, packed);
  const int64_t scratch_floats = HWY_DYNAMIC_DISPATCH(BackwardScratch)(head_dim);
  const Tensor scratch = device.empty(DType::f32, {device.threads(), scratch_floats});
  const int64_t tasks = std::ssize(plan.streams()) * n_heads;
  parallel_for(tasks, device.threads(), [&](int64_t i, int worker) {
    const int64_t stream = i / n_heads, head = i % n_heads, first = plan.stream(stream).row;
    const int64_t read = (args.in.kv_head_of(head) * plan.rows() + first) * head_dim;
    const int64_t written = (head * plan.rows() + first) * head_dim;
    HWY_DYNAMIC_DISPATCH(BackwardHead)
    (args, plan, stream, head,
     {keys.data<float>() + read, values.data<float>() + read, dkeys.data<float>() + written,
      dvalues.data<float>() + written},
     row(scratch, worker));
  });
  unpack(device, args, plan, dkeys, args.dk, &KeyValueRows::k);
  unpack(device, args, plan, dvalues, args.dv, &KeyValueRows::v);
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE
