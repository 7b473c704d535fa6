// SPDX-License-Identifier: Apache-2.0
// Attention, forward. Keys and values are first packed by head (attention_plan.cc), each residue
// of a dilation's as a sequence of its own. A task is then kQueries queries of one head, which walk
// the keys that they see in blocks of kKeys, with a softmax whose largest score and sum are those
// so far (Milakov and Gimelshein, 2018; Dao et al., 2022):
//   1. S = q k^T / sqrt(head_dim)
//   2. m' = max(m, S);  P = exp(S - m');  l = exp(m - m') l + sum P;  z = exp(m - m') z
//   3. z += P v
// and z / l in the end. No more than kQueries x kKeys scores stand in memory a thread.
//
// Bound: 2 head_dim multiply-adds a pair of a query and a position that it sees, at what the
// products reach, and an exponential. Half a block of keys a block of queries is in vain: 32 of len
// / 2.
//
// A sequence of one token, as in decoding, goes by attention_step.cc.
#include <cmath>
#include <utility>

#include "elapse/backends/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/attention_forward.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

// Step 2 for one query: `scores` of the block's `count` keys, of which it sees `seen`.
void SoftmaxStep(float* scores, int64_t count, KeyRange seen, int64_t head_dim, float& largest,
                 float& sum, float* z) {
  std::fill(scores, scores + seen.begin, 0.0f);
  std::fill(scores + seen.end, scores + count, 0.0f);
  const int64_t n = seen.end - seen.begin;
  if (n == 0) return;
  const float before = largest;
  largest = LargestOf(scores + seen.begin, n, before);
  const float kept = ExpOf(before - largest);
  sum = kept * sum + ExpOfDifferences(scores + seen.begin, n, largest);
  if (kept != 1) ScaleBy(kept, head_dim, z);
}

void ForwardBlock(const AttentionForward& args, const AttentionPlan& plan,
                  const AttentionBlock& block, const float* keys, const float* values,
                  float* scratch) {
  const int64_t head_dim = args.in.head_dim();
  const int64_t rows = divide_up(block.count, kAttentionRows) * kAttentionRows;
  const AttentionStream& s = plan.stream(block.stream);
  const auto take = [&](int64_t count) { return std::exchange(scratch, scratch + count); };
  float *q = take(kQueries * head_dim), *z = take(kQueries * head_dim);
  float *scores = take(kQueries * kKeys), *largest = take(kQueries), *sum = take(kQueries);
  LoadRows(args.in.q, plan, block, head_dim, rows, 1 / std::sqrt(static_cast<float>(head_dim)), q);
  std::fill_n(z, rows * head_dim, 0.0f);
  std::fill_n(largest, rows, kNoScore);
  std::fill_n(sum, rows, 0.0f);
  const KeyRange range = plan.keys_of(block);
  for (int64_t j = range.begin; j < range.end; j += kKeys) {
    const int64_t count = std::min(kKeys, range.end - j);
    MultiplyWithKeys(q, keys + j * head_dim, rows, count, head_dim, scores);
    for (int64_t i = 0; i < block.count; ++i) {
      const KeyRange seen = SeenOf(s.past + block.begin + i, plan.window(), j, count);
      SoftmaxStep(scores + i * kKeys, count, seen, head_dim, largest[i], sum[i], z + i * head_dim);
    }
    AddWeighted(scores, values + j * head_dim, rows, count, head_dim, z);
  }
  for (int64_t i = 0; i < block.count; ++i) {
    const int64_t token = plan.token(s, s.past + block.begin + i);
    ScaleBy(1 / sum[i], head_dim, z + i * head_dim);
    std::copy_n(z + i * head_dim, head_dim, row(args.z, token) + block.head * head_dim);
    if (args.lse) row(args.lse, token)[block.head] = largest[i] + std::log(sum[i]);
  }
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {
HWY_EXPORT(ForwardBlock);
}  // namespace

void attention_forward(Device& device, const AttentionForward& args) {
  attention_of_singles(device, args);
  const AttentionPlan plan(args.in, false);
  if (plan.streams().empty()) return;
  const int64_t head_dim = args.in.head_dim();
  const Tensor keys = plan.keys(device), values = plan.values(device);
  const int64_t scratch_floats = kQueries * (2 * head_dim + kKeys + 2);
  const Tensor scratch = device.empty(DType::f32, {device.threads(), scratch_floats});
  const std::vector<AttentionBlock> blocks = plan.blocks();
  parallel_for(std::ssize(blocks), device.threads(), [&](int64_t i, int worker) {
    const AttentionBlock& block = blocks[static_cast<size_t>(i)];
    const int64_t at =
        (args.in.kv_head_of(block.head) * plan.rows() + plan.stream(block.stream).row) * head_dim;
    HWY_DYNAMIC_DISPATCH(ForwardBlock)
    (args, plan, block, keys.data<float>() + at, values.data<float>() + at, row(scratch, worker));
  });
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE
