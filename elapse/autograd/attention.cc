// SPDX-License-Identifier: Apache-2.0
#include "elapse/autograd/attention.h"

#include "elapse/ops/pointwise.h"

namespace elapse {

KeyValueRows rows_of_page(const Tensor& page, int64_t begin, int64_t end) {
  const int64_t positions = page.dim(1);
  const Tensor rows = page.reshape({2 * positions, page.dim(2)});
  return {rows.rows(begin, end), rows.rows(positions + begin, positions + end)};
}

namespace {

PastRows values_of(const std::vector<std::vector<PastPage>>& past) {
  PastRows rows;
  for (const auto& pages : past) {
    rows.emplace_back();
    for (const PastPage& p : pages)
      rows.back().push_back(rows_of_page(p.rows.value(), p.begin, p.end));
  }
  return rows;
}

PastRows gradients_of(const Tape& tape, const std::vector<std::vector<PastPage>>& past) {
  PastRows rows;
  for (const auto& pages : past) {
    rows.emplace_back();
    for (const PastPage& p : pages) {
      rows.back().push_back(p.rows.needs_grad()
                                ? rows_of_page(tape.accumulated_grad(p.rows), p.begin, p.end)
                                : KeyValueRows());
    }
  }
  return rows;
}

bool any_needs_grad(const std::vector<std::vector<PastPage>>& past) {
  for (const auto& pages : past) {
    for (const PastPage& p : pages) {
      if (p.rows.needs_grad()) return true;
    }
  }
  return false;
}

// into += from, which becomes 0. A page's gradient may be wider than a key's.
void hand_over(Device& device, const Tensor& from, const Tensor& into) {
  Tensor added = from;
  if (from.dtype() != into.dtype()) {
    added = device.empty(into.dtype(), into.shape());
    copy(device, {from, added});
  }
  binary(device, {BinaryFunction::add, into, added, into});
  fill(device, {from, 0});
}

}  // namespace

Var attention(Tape& tape, const Var& q, const Var& k, const Var& v, const AttentionNumbers& numbers,
              const Sequences& seqs, const std::vector<std::vector<PastPage>>& past) {
  Device& device = tape.device();
  AttentionInputs in = {.q = q.value(),
                        .k = k.value(),
                        .v = v.value(),
                        .n_heads = numbers.n_heads,
                        .n_kv_heads = numbers.n_kv_heads,
                        .pattern = numbers.pattern,
                        .seqs = seqs,
                        .past = values_of(past)};
  const Tensor value = device.empty(q.dtype(), q.value().shape());
  const bool reaches_past = tape.recording() && any_needs_grad(past);
  const Var z = reaches_past ? Var(value, true) : tape.result(value, {&q, &k, &v});
  const Tensor lse = z.needs_grad()
                         ? device.empty(wide_dtype(q.dtype()), {seqs.tokens, numbers.n_heads})
                         : Tensor();
  attention_forward(device, {in, z.value(), lse});
  if (!z.needs_grad()) return z;
  tape.record(z, [&tape, q, k, v, in = std::move(in), past, z, lse] {
    AssignedGrad dq(tape, q), dk(tape, k), dv(tape, v);
    attention_backward(tape.device(), {.dz = z.grad(),
                                       .in = in,
                                       .z = z.value(),
                                       .lse = lse,
                                       .dq = dq.tensor(),
                                       .dk = dk.tensor(),
                                       .dv = dv.tensor(),
                                       .dpast = gradients_of(tape, past)});
    for (AssignedGrad* grad : {&dq, &dk, &dv}) grad->commit();
  });
  return z;
}

Var rotary(Tape& tape, const Var& x, const RotaryNumbers& numbers, const Sequences& seqs,
           const std::vector<int64_t>& first_positions) {
  const Var out = tape.result(tape.device().empty(x.dtype(), x.value().shape()), {&x});
  Rotary args = {.x = x.value(),
                 .head_dim = numbers.head_dim,
                 .frequencies = numbers.frequencies,
                 .growth = numbers.growth,
                 .seqs = seqs,
                 .first_positions = first_positions,
                 .out = out.value()};
  rotary(tape.device(), args);
  if (!out.needs_grad()) return out;
  for (double& frequency : args.frequencies) frequency = -frequency;
  tape.record(out, [&tape, x, out, args = std::move(args)]() mutable {
    AssignedGrad dx(tape, x);
    args.x = out.grad();
    args.out = dx.tensor();
    rotary(tape.device(), args);
    dx.commit();
  });
  return out;
}

void write_to_page(Tape& tape, const Var& k, const Var& v, int64_t begin, int64_t end,
                   const Var& page, int64_t position) {
  const int64_t to = position + end - begin;
  const KeyValueRows rows = rows_of_page(page.value(), position, to);
  copy(tape.device(), {k.value().rows(begin, end), rows.k});
  copy(tape.device(), {v.value().rows(begin, end), rows.v});
  if (!page.needs_grad()) return;
  tape.record(page, [&tape, k, v, begin, end, page, position, to] {
    const KeyValueRows grads = rows_of_page(page.grad(), position, to);
    if (k.needs_grad()) {
      hand_over(tape.device(), grads.k, tape.accumulated_grad(k).rows(begin, end));
    }
    if (v.needs_grad()) {
      hand_over(tape.device(), grads.v, tape.accumulated_grad(v).rows(begin, end));
    }
  });
}

void copy_page(Tape& tape, const Var& from, int64_t positions, const Var& to) {
  const KeyValueRows source = rows_of_page(from.value(), 0, positions);
  const KeyValueRows target = rows_of_page(to.value(), 0, positions);
  copy(tape.device(), {source.k, target.k});
  copy(tape.device(), {source.v, target.v});
  if (!from.needs_grad() || !to.needs_grad()) return;
  tape.record(to, [&tape, from, positions, to] {
    const KeyValueRows grads = rows_of_page(to.grad(), 0, positions);
    const KeyValueRows into = rows_of_page(tape.accumulated_grad(from), 0, positions);
    hand_over(tape.device(), grads.k, into.k);
    hand_over(tape.device(), grads.v, into.v);
  });
}

}  // namespace elapse
