// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/attention.h"

#include <algorithm>

#include "elapse/ops/check.h"

namespace elapse {
namespace {

void check_rows(const ArgumentCheck& check, const std::string& name, const KeyValueRows& rows,
                Shape shape) {
  check.matrix(name + ".k", rows.k, shape);
  check.matrix(name + ".v", rows.v, shape);
}

void check_past(const ArgumentCheck& wide, const AttentionInputs& in) {
  wide.that(in.past.empty() || std::ssize(in.past) == in.seqs.count(),
            fmt::format("past: expected runs for {} sequences, found {}", in.seqs.count(),
                        in.past.size()));
  for (const auto& runs : in.past) {
    for (const KeyValueRows& run : runs) {
      const int64_t positions = run.k ? run.k.dim(0) : 0;
      check_rows(wide, "past", run, {positions, in.n_kv_heads * in.head_dim()});
    }
  }
}

// What forward and backward have in common.
void check_inputs(const ArgumentCheck& check, const ArgumentCheck& wide,
                  const AttentionInputs& in) {
  check.that(in.n_kv_heads >= 1 && in.n_heads >= 1 && in.n_heads % in.n_kv_heads == 0,
             fmt::format("n_heads: expected a multiple of n_kv_heads = {}, found {}", in.n_kv_heads,
                         in.n_heads));
  check.that(
      in.q.shape().rank() == 2 && in.q.dim(1) % in.n_heads == 0,
      fmt::format("q: expected columns for {} heads, found {}", in.n_heads, in.q.shape().str()));
  check.that(in.pattern.window >= 0 && in.pattern.dilation >= 1,
             fmt::format("pattern: expected a window of at least 0 and a dilation of at least 1, "
                         "found {} and {}",
                         in.pattern.window, in.pattern.dilation));
  const int64_t tokens = in.seqs.tokens;
  check.matrix("q", in.q, {tokens, in.n_heads * in.head_dim()});
  check.matrix("k", in.k, {tokens, in.n_kv_heads * in.head_dim()});
  check.matrix("v", in.v, {tokens, in.n_kv_heads * in.head_dim()});
  check_past(wide, in);
}

void check_dpast(const ArgumentCheck& check, const AttentionBackward& args) {
  if (args.dpast.empty()) return;
  check.that(args.dpast.size() == args.in.past.size(), "dpast: expected the sequences of past");
  for (size_t s = 0; s < args.dpast.size(); ++s) {
    check.that(args.dpast[s].size() == args.in.past[s].size(), "dpast: expected the runs of past");
    for (size_t i = 0; i < args.dpast[s].size(); ++i) {
      const KeyValueRows& rows = args.dpast[s][i];
      if (rows.k || rows.v) check_rows(check, "dpast", rows, args.in.past[s][i].k.shape());
    }
  }
}

}  // namespace

int64_t AttentionInputs::past_length(int64_t sequence) const {
  if (past.empty()) return 0;
  int64_t positions = 0;
  for (const KeyValueRows& run : past[static_cast<size_t>(sequence)]) positions += run.k.dim(0);
  return positions;
}

int64_t attention_pairs(const AttentionPattern& pattern, int64_t past, int64_t length) {
  const auto up = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  // A query with n positions up to its own sees one in `dilation` of them, or of the window.
  const auto sum_of_ceilings = [&](int64_t n) {  // of i / dilation, for i = 1 ... n
    const int64_t d = pattern.dilation, whole = n / d;
    return d * whole * (whole + 1) / 2 + (n % d) * (whole + 1);
  };
  const int64_t end = past + length;
  if (pattern.window == 0) return sum_of_ceilings(end) - sum_of_ceilings(past);
  const int64_t growing = std::min(end, pattern.window), before = std::min(past, growing);
  return sum_of_ceilings(growing) - sum_of_ceilings(before) +
         (end - std::max(past, growing)) * up(pattern.window, pattern.dilation);
}

void attention_forward(Device& device, const AttentionForward& args) {
  const DType dtype = args.in.q.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  check_inputs(check, wide, args.in);
  check.contiguous("z", args.z, {args.in.seqs.tokens, args.in.q.dim(1)});
  if (args.lse) wide.contiguous("lse", args.lse, {args.in.seqs.tokens, args.in.n_heads});
  device.launch(dtype, args);
}

void attention_backward(Device& device, const AttentionBackward& args) {
  const DType dtype = args.dz.dtype();
  const ArgumentCheck check(device, args.kOp, dtype), wide(args.kOp, wide_dtype(dtype));
  check_inputs(check, wide, args.in);
  const int64_t tokens = args.in.seqs.tokens;
  const Shape query = {tokens, args.in.q.dim(1)}, key = {tokens, args.in.k.dim(1)};
  check.matrix("dz", args.dz, query);
  check.contiguous("z", args.z, query);
  wide.contiguous("lse", args.lse, {tokens, args.in.n_heads});
  check.matrix("dq", args.dq, query);
  check.matrix("dk", args.dk, key);
  check.matrix("dv", args.dv, key);
  check_dpast(wide, args);
  device.launch(dtype, args);
}

}  // namespace elapse
