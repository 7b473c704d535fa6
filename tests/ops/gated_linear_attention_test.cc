// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/gated_linear_attention.h"

#include <functional>

#include "elapse/ops/pointwise.h"
#include "tests/ops/op_test.h"
#include "tests/ops/tap_parts.h"

namespace elapse {
namespace {

using namespace op_test;

constexpr Tap GlaTaps::*kPoints[] = {&GlaTaps::decay, &GlaTaps::write, &GlaTaps::h,
                                     &GlaTaps::readout_h};

Shape point_shape(const GlaInputs& in, Tap GlaTaps::*point) {
  return point == &GlaTaps::decay ? in.decay_shape() : in.states_shape();
}

struct Case {
  std::vector<int64_t> lengths;
  int64_t n_heads, d_k, d_v;
  std::vector<int64_t> starts = {}, ends = {};
  int64_t row_padding = 0;
  int64_t chunk = GlaInputs::kChunk;
  double log_decay_lowest = -1, log_decay_highest = 0;

  int64_t d_inner() const { return n_heads * d_v; }
  int64_t keys() const { return n_heads * d_k; }
  int64_t tokens() const {
    int64_t sum = 0;
    for (const int64_t length : lengths) sum += length;
    return sum;
  }
  int64_t max_len() const {
    return lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
  }
  // The decays and a product are wrong by up to 8 epsilon a token, and a sum by as much a term.
  // Numbers are of size 1; gradients add sums over keys and values.
  double tolerance() const {
    return 8 * kEpsilon * static_cast<double>(2 * max_len() + d_k + d_v + 16);
  }
};

GlaForward make_forward(Device& device, Operands& o, const Case& c) {
  GlaForward a;
  a.in.seqs = make_sequences(device, c.lengths, c.starts, c.ends);
  const Shape channels = {c.tokens(), c.d_inner()}, keys = {c.tokens(), c.keys()};
  a.in.q = o.activation(keys, -1, 1, c.row_padding);
  a.in.k = o.activation(keys, -1, 1, c.row_padding);
  a.in.v = o.activation(channels, -1, 1, c.row_padding);
  a.in.log_decay = o.activation(keys, c.log_decay_lowest, c.log_decay_highest, c.row_padding);
  a.in.n_heads = c.n_heads;
  a.in.chunk = c.chunk;
  if (a.in.seqs.max_slot >= 0) {
    a.pool = o.accumulated({a.in.seqs.max_slot + 1, c.d_inner(), c.d_k});
  }
  a.checkpoints = o.handed_on({gla_checkpoint_count(a.in), c.d_inner(), c.d_k});
  a.out = o.assigned_activation(channels, c.row_padding);
  return a;
}

GlaBackward make_backward(Operands& o, const Case& c, const GlaForward& forward) {
  GlaBackward b;
  b.in = forward.in;
  b.checkpoints = forward.checkpoints;
  b.taps = forward.taps;
  for (const auto point : kPoints) (b.taps.*point).watch = {};
  const Shape channels = forward.in.v.shape(), keys = forward.in.q.shape();
  b.dout = o.activation(channels, -1, 1, c.row_padding);
  b.dq = o.assigned_activation(keys, c.row_padding);
  b.dk = o.assigned_activation(keys, c.row_padding);
  b.dv = o.assigned_activation(channels, c.row_padding);
  b.dlog_decay = o.assigned_activation(keys, c.row_padding);
  if (forward.pool) b.dpool = o.accumulated(forward.pool.shape());
  return b;
}

// A forked start, zeros as a start, a dropped end, a slot that is both, an empty sequence.
Case packed(int64_t n_heads, int64_t d_k, int64_t d_v) {
  return {{33, 0, 1, 15, 16, 17}, n_heads, d_k, d_v, {0, 0, 0, -1, 5, 2}, {1, 3, 4, -1, 5, 6}};
}

void run_both(Device& device, Operands& o, const Case& c) {
  const GlaForward forward = make_forward(device, o, c);
  const GlaBackward backward = make_backward(o, c, forward);
  gla_forward(device, forward);
  gla_backward(device, backward);
}

void expect_both_directions_agree(const Case& c) {
  SCOPED_TRACE(fmt::format("{} heads, d_k {}, d_v {}, chunk {}, {} tokens", c.n_heads, c.d_k, c.d_v,
                           c.chunk, c.tokens()));
  const auto call = [&](Device& device, Operands& o) { run_both(device, o, c); };
  expect_backends_agree(call, c.tolerance());
  expect_cuda_agrees_in_bf16(call, c.tolerance());
}

TEST(GatedLinearAttention, AgreesWithRef) {
  for (const int64_t d_k : {1, 3, 15, 16, 17, 31, 33}) {
    for (const int64_t d_v : {1, 2, 5, 16, 17, 33}) {
      Case c = packed(3, d_k, d_v);
      c.row_padding = d_k % 2 * 5;
      expect_both_directions_agree(c);
    }
  }
  expect_both_directions_agree(packed(4, 64, 128));
  expect_both_directions_agree(packed(2, 256, 31));
}

// Several chunks and tiles of 64 tokens, channels and states, and what is left of them.
TEST(GatedLinearAttention, AgreesWithRefOverChunksAndTiles) {
  for (const auto& [d_k, d_v] :
       {std::pair{96, 192}, {64, 64}, {65, 63}, {63, 65}, {7, 130}, {130, 4}}) {
    Case c = {{129, 64, 0, 63, 200}, 3, d_k, d_v, {0, 0, 6, -1, 5}, {1, 2, 3, -1, 5}};
    expect_both_directions_agree(c);
    c.row_padding = 3;
    c.chunk = 48;
    expect_both_directions_agree(c);
  }
}

TEST(GatedLinearAttention, AgreesWithRefAtAnyLength) {
  expect_both_directions_agree({{}, 3, 8, 5});
  expect_both_directions_agree({{0}, 3, 8, 5, {0}, {0}});
  expect_both_directions_agree({{0, 0}, 3, 8, 5, {1, 1}, {0, -1}});
  for (const int64_t length : {1, 2, 15, 16, 17, 31, 63, 64, 65, 127, 128, 129, 200}) {
    expect_both_directions_agree({{length}, 3, 8, 5, {0}, {0}});
    expect_both_directions_agree({{length}, 3, 8, 5});
  }
}

TEST(GatedLinearAttention, AgreesWithRefAtAnyChunk) {
  for (const int64_t chunk : {1, 2, 16, 17, 256}) {
    Case c = packed(4, 8, 5);
    c.chunk = chunk;
    expect_both_directions_agree(c);
  }
}

// As in decoding: sequences of one token.
TEST(GatedLinearAttention, AgreesWithRefOnManySequencesOfOneToken) {
  Case c = {std::vector<int64_t>(50, 1), 5, 32, 17};
  for (int64_t s = 0; s < 50; ++s) {
    c.starts.push_back(s % 3 == 0 ? s : Sequences::kNoSlot);
    c.ends.push_back(s % 5 == 0 ? Sequences::kNoSlot : s);
  }
  expect_both_directions_agree(c);
}

// From decays that forget everything at once, whose products underflow, to those that forget
// nothing, which let sums grow with the length.
TEST(GatedLinearAttention, DecaysNearZeroAndOneNeitherOverflowNorLoseTheAnswer) {
  for (const auto& [lo, hi] :
       {std::pair{-200.0, -200.0}, {-200.0, 0.0}, {-40.0, -5.0}, {-1e-4, 0.0}, {0.0, 0.0}}) {
    Case c = {{150, 70}, 2, 8, 16, {0, -1}, {0, 1}};
    c.log_decay_lowest = lo;
    c.log_decay_highest = hi;
    SCOPED_TRACE(fmt::format("log decays {} to {}", lo, hi));
    expect_backends_agree(
        [&](Device& device, Operands& o) {
          const GlaForward forward = make_forward(device, o, c);
          const GlaBackward backward = make_backward(o, c, forward);
          gla_forward(device, forward);
          gla_backward(device, backward);
          device.synchronize();
          for (const Tensor* t : {&forward.out, &forward.pool, &backward.dq, &backward.dk,
                                  &backward.dv, &backward.dlog_decay}) {
            for (const double v : values(*t)) ASSERT_TRUE(std::isfinite(v));
          }
        },
        // Of the sums that the gradients of decays are differences of.
        lo >= -1 ? 16 * c.tolerance() : c.tolerance());
  }
}

TEST(GatedLinearAttention, ForwardNeedsNoCheckpointsAndNoPool) {
  const Case c = {{70, 3, 1}, 3, 6, 16};
  Device cpu("cpu", 1);
  Operands with(DType::f32), without(DType::f32);
  const GlaForward a = make_forward(cpu, with, c);
  GlaForward b = make_forward(cpu, without, c);
  b.checkpoints = {};
  gla_forward(cpu, a);
  gla_forward(cpu, b);
  EXPECT_EQ(values(a.out), values(b.out));
}

// Its own head's, and of the others nothing.
TEST(GatedLinearAttention, NanStaysInItsHead) {
  const Case c = {{20}, 3, 8, 16};
  Device cpu("cpu", 1);
  Operands o(DType::f32);
  const GlaForward a = make_forward(cpu, o, c);
  put(a.in.log_decay, 3 * a.in.log_decay.stride(0) + 8, std::nan(""));
  gla_forward(cpu, a);
  for (int64_t t = 0; t < c.tokens(); ++t) {
    for (int64_t e = 0; e < c.d_inner(); ++e) {
      const bool nan = std::isnan(get(a.out, t * a.out.stride(0) + e));
      if (e / 16 != 1) {
        EXPECT_FALSE(nan);
      } else if (t >= 3) {
        EXPECT_TRUE(nan);
      }
    }
  }
}

// Of several chunks.
const Case kTapCase = {{18, 0, 3, 1}, 2, 6, 5, {0, 0, 1, 4}, {2, 3, -1, 4}, 0, 4};

void expect_watching_changes_no_bit(Device& device, MemorySource& memory, DType dtype, double v) {
  Operands plain(DType::f32, 1, memory, dtype), watched(DType::f32, 1, memory, dtype);
  const GlaForward a = make_forward(device, plain, kTapCase);
  GlaForward b = make_forward(device, watched, kTapCase);
  for (const auto p : kPoints) (b.taps.*p).watch = watched.assigned(point_shape(b.in, p));
  for (const Tensor& t : {a.in.v, b.in.v}) put(t, 0, v);
  gla_forward(device, a);
  gla_forward(device, b);
  device.synchronize();
  watched.expect_guards_intact();
  for (size_t i = 0; i < plain.outputs().size(); ++i) {
    EXPECT_EQ(plain.outputs()[i].bytes(), watched.outputs()[i].bytes()) << "output " << i;
  }
}

TEST(GatedLinearAttention, WatchingChangesNoBit) {
  Device cpu("cpu", 1);
  expect_watching_changes_no_bit(cpu, host_memory(), DType::f32, std::nan(""));
  if (!can_open("cuda")) return;
  Device cuda("cuda");
  for (const DType dtype : {DType::f32, DType::bf16}) {
    expect_watching_changes_no_bit(cuda, cuda.shared_memory(), dtype, 1);
  }
}

void expect_setting_to_itself_changes_no_bit(Device& device, MemorySource& memory) {
  for (const auto p : kPoints) {
    Operands o(DType::f32, 1, memory), again(DType::f32, 1, memory);
    GlaForward a = make_forward(device, o, kTapCase), b = make_forward(device, again, kTapCase);
    (a.taps.*p).watch = o.assigned(point_shape(a.in, p));
    gla_forward(device, a);
    (b.taps.*p).edits = {{EditOp::set, (a.taps.*p).watch}};
    gla_forward(device, b);
    device.synchronize();
    for (size_t i = 0; i < again.outputs().size(); ++i) {
      EXPECT_EQ(o.outputs()[i].bytes(), again.outputs()[i].bytes()) << "output " << i;
    }
  }
}

TEST(GatedLinearAttention, SettingAValueToItselfChangesNoBit) {
  Device cpu("cpu", 1);
  expect_setting_to_itself_changes_no_bit(cpu, host_memory());
  if (!can_open("cuda")) return;
  Device cuda("cuda");
  expect_setting_to_itself_changes_no_bit(cuda, cuda.shared_memory());
}

// What one token reads of its states is not carried on, not in a bit.
TEST(GatedLinearAttention, EditsOfReadsLeaveTheStatesAsTheyAre) {
  Device cpu("cpu", 1);
  Operands plain(DType::f32), edited(DType::f32);
  const GlaForward a = make_forward(cpu, plain, kTapCase);
  GlaForward b = make_forward(cpu, edited, kTapCase);
  b.taps.readout_h.edits = {{EditOp::scale, edited.input({1}, 0.5, 0.5)}};
  gla_forward(cpu, a);
  gla_forward(cpu, b);
  EXPECT_EQ(values(a.pool), values(b.pool));
  EXPECT_NE(values(a.out), values(b.out));
}

// One point edited, `scale` by one number for all places.
void edit_one(Operands& o, Tap GlaTaps::*p, EditOp op, const GlaInputs& in, GlaTaps& taps) {
  // A decay above 1 would let states, and errors with them, grow without bound.
  const double sign = op == EditOp::add && p == &GlaTaps::decay ? -1 : 1;
  const Shape shape = op == EditOp::scale ? Shape{1} : point_shape(in, p);
  (taps.*p).edits = {{op, o.input(shape, sign * 0.5, sign)}};
}

TEST(GatedLinearAttention, EditsAgreeWithRef) {
  for (const EditOp op : {EditOp::set, EditOp::add, EditOp::scale}) {
    for (const auto p : kPoints) {
      expect_backends_agree(
          [&](Device& device, Operands& o) {
            GlaForward forward = make_forward(device, o, kTapCase);
            edit_one(o, p, op, forward.in, forward.taps);
            const GlaBackward backward = make_backward(o, kTapCase, forward);
            gla_forward(device, forward);
            gla_backward(device, backward);
          },
          kTapCase.tolerance());
    }
  }
}

TEST(GatedLinearAttention, TapsOfPartsAgreeWithRef) {
  expect_backends_agree(
      [&](Device& device, Operands& o) {
        GlaForward forward = make_forward(device, o, kTapCase);
        for (const auto p : kPoints) {
          const Shape shape = point_shape(forward.in, p), held = some_part_shape(shape);
          const TapPart part = some_part(o, shape);
          forward.taps.*p = {.watch = o.assigned(held), .watched = part};
          (forward.taps.*p).edits = {{EditOp::scale, o.input(held, 0.5, 1), part}};
        }
        GlaBackward backward = make_backward(o, kTapCase, forward);
        for (const auto p : kPoints) {
          const Shape shape = point_shape(forward.in, p);
          (backward.taps.*p).graded = some_part(o, shape);
          (backward.taps.*p).gradient = o.assigned(some_part_shape(shape));
        }
        gla_forward(device, forward);
        gla_backward(device, backward);
      },
      kTapCase.tolerance());
}

// ref's gradients against differences of out and of the states left in the pool; those of an edited
// point's value against differences of a number added to it.
void expect_ref_gradients(const Case& c, const std::function<void(Operands&, GlaForward&)>& edit,
                          Tap GlaTaps::*graded = nullptr) {
  Device ref("ref", 1);
  Operands o(DType::f64);
  GlaForward forward = make_forward(ref, o, c);
  edit(o, forward);
  GlaBackward backward = make_backward(o, c, forward);
  if (graded != nullptr) {
    (backward.taps.*graded).gradient = o.assigned(point_shape(forward.in, graded));
  }
  const Tensor pool_weight = o.input(forward.pool.shape());
  for_each_offset(pool_weight, [&](int64_t i) { put(backward.dpool, i, get(pool_weight, i)); });
  std::vector<double> start = values(forward.pool);
  const auto loss = [&] {
    for (size_t i = 0; i < start.size(); ++i) {
      put(forward.pool, static_cast<int64_t>(i), start[i]);
    }
    gla_forward(ref, forward);
    return weighted_sum(forward.out, backward.dout) + weighted_sum(forward.pool, pool_weight);
  };
  loss();
  gla_backward(ref, backward);
  expect_gradient(forward.in.q, backward.dq, loss, "q");
  expect_gradient(forward.in.k, backward.dk, loss, "k");
  expect_gradient(forward.in.v, backward.dv, loss, "v");
  expect_gradient(forward.in.log_decay, backward.dlog_decay, loss, "log_decay");
  const Tensor starts = Tensor::wrap(start.data(), DType::f64, forward.pool.shape());
  expect_gradient(starts, backward.dpool, loss, "pool");
  if (graded == nullptr) return;
  const Tensor added = (forward.taps.*graded).edits[0].source;
  expect_gradient(added, (backward.taps.*graded).gradient, loss, "the point");
}

TEST(GatedLinearAttention, RefGradientsAreThoseOfFiniteDifferences) {
  expect_ref_gradients({{3, 0, 17, 1}, 2, 3, 2, {0, 0, 0, 4}, {1, 2, 3, 4}, 0, 4},
                       [](Operands&, GlaForward&) {});
}

TEST(GatedLinearAttention, RefGradientsThroughEditsAreThoseOfFiniteDifferences) {
  const Case c = {{3, 2}, 2, 2, 2, {0, 0}, {1, 2}};
  for (const auto p : kPoints) {
    for (const EditOp op : {EditOp::set, EditOp::scale}) {
      expect_ref_gradients(c,
                           [&](Operands& o, GlaForward& a) { edit_one(o, p, op, a.in, a.taps); });
    }
    const auto add = [&](Operands& o, GlaForward& a) { edit_one(o, p, EditOp::add, a.in, a.taps); };
    expect_ref_gradients(c, add, p);
  }
}

// A sequence's result has the same bits whatever is packed beside it, and wherever it stands.
TEST(GatedLinearAttention, SequencesDoNotSeeEachOther) {
  Device cpu("cpu", 2);
  const Case c = {{70, 1, 33, 70, 1}, 3, 16, 8, {-1, -1, -1, -1, -1}, {0, 1, 2, 3, 4}};
  Operands o(DType::f32);
  const GlaForward a = make_forward(cpu, o, c);
  gla_forward(cpu, a);
  const std::vector<double> together = values(a.out), states = values(a.pool);
  for (const Tensor* t : {&a.out, &a.pool}) {
    for_each_offset(*t, [&](int64_t i) { put(*t, i, std::nan("")); });
  }
  int64_t begin = 0, slot = 0;
  for (const int64_t length : c.lengths) {
    GlaForward alone = a;
    alone.checkpoints = {};
    alone.in.seqs = make_sequences(cpu, {length}, {Sequences::kNoSlot}, {slot++});
    for (Tensor GlaInputs::*t :
         {&GlaInputs::q, &GlaInputs::k, &GlaInputs::v, &GlaInputs::log_decay}) {
      alone.in.*t = (a.in.*t).rows(begin, begin + length);
    }
    alone.out = a.out.rows(begin, begin + length);
    gla_forward(cpu, alone);
    begin += length;
  }
  EXPECT_EQ(values(a.out), together);
  EXPECT_EQ(values(a.pool), states);
}

TEST(GatedLinearAttention, WorkGrowsAsTheLengthDoes) {
  const int64_t block = gla_multiplications(64, 128, 16);
  for (const int64_t blocks : {2, 3, 100, 65536}) {
    EXPECT_EQ(gla_multiplications(64, 128, blocks * 16), blocks * block);
  }
  EXPECT_EQ(gla_multiplications(64, 128, 17), 2 * block);
  EXPECT_EQ(gla_multiplications(64, 128, 1), 3 * 64 * 128);
}

TEST(GatedLinearAttention, RefusesSizesThatDoNotFit) {
  Device ref("ref", 1);
  Operands o(DType::f32);
  GlaForward a = make_forward(ref, o, {{4}, 4, 2, 3});
  a.in.n_heads = 3;
  EXPECT_THROW(gla_forward(ref, a), Error);
  a.in.n_heads = 4;
  a.in.log_decay = o.input({4, 7});
  EXPECT_THROW(gla_forward(ref, a), Error);
}

}  // namespace
}  // namespace elapse
