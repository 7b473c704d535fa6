// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/ssd.h"

#include <functional>

#include "elapse/ops/pointwise.h"
#include "tests/ops/op_test.h"
#include "tests/ops/tap_parts.h"

namespace elapse {
namespace {

using namespace op_test;

constexpr SsdPoint kPoints[] = {SsdPoint::dt_pre,    SsdPoint::dt,    SsdPoint::decay,
                                SsdPoint::B_bar,     SsdPoint::write, SsdPoint::h,
                                SsdPoint::readout_h, SsdPoint::y};
static_assert(std::size(kPoints) == static_cast<size_t>(SsdPoint::count));

struct Case {
  std::vector<int64_t> lengths;
  int64_t n_heads, head_dim, d_state;
  int64_t n_groups = 1;
  std::vector<int64_t> starts = {}, ends = {};
  int64_t row_padding = 0;
  int64_t chunk = SsdInputs::kChunk;
  bool D_by_channel = false;
  double dt_min = 0, dt_max = std::numeric_limits<double>::infinity();
  double A_lowest = -4, A_highest = -0.1;

  int64_t d_inner() const { return n_heads * head_dim; }
  int64_t tokens() const {
    int64_t sum = 0;
    for (const int64_t length : lengths) sum += length;
    return sum;
  }
  int64_t max_len() const {
    return lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
  }
  // The decays and a product are wrong by up to 8 epsilon a token, and a sum by as much a term.
  // Numbers are of size 1.
  double forward_tolerance() const {
    return 8 * kEpsilon * static_cast<double>(max_len() + d_state + 1);
  }
  // Gradients add the sums over tokens and channels.
  double tolerance() const {
    return 8 * kEpsilon * static_cast<double>(max_len() + d_state + tokens() + d_inner());
  }
};

SsdForward make_forward(Device& device, Operands& o, const Case& c) {
  SsdForward a;
  a.in.seqs = make_sequences(device, c.lengths, c.starts, c.ends);
  const Shape channels = {c.tokens(), c.d_inner()}, states = {c.tokens(), c.n_groups * c.d_state};
  a.in.x = o.activation(channels, -1, 1, c.row_padding);
  a.in.dt_raw = o.activation({c.tokens(), c.n_heads}, -2, 2, c.row_padding);
  a.in.dt_bias = o.input({c.n_heads}, -4, 1);
  a.in.A = o.input({c.n_heads}, c.A_lowest, c.A_highest);
  a.in.B = o.activation(states, -1, 1, c.row_padding);
  a.in.C = o.activation(states, -1, 1, c.row_padding);
  a.in.D = o.input({c.D_by_channel ? c.d_inner() : c.n_heads});
  a.in.n_groups = c.n_groups;
  a.in.dt_min = c.dt_min;
  a.in.dt_max = c.dt_max;
  a.in.chunk = c.chunk;
  if (a.in.seqs.max_slot >= 0) {
    a.pool = o.accumulated({a.in.seqs.max_slot + 1, c.d_inner(), c.d_state});
  }
  a.checkpoints = o.handed_on({ssd_checkpoint_count(a.in), c.d_inner(), c.d_state});
  a.out = o.assigned_activation(channels, c.row_padding);
  return a;
}

SsdBackward make_backward(Operands& o, const Case& c, const SsdForward& forward) {
  SsdBackward b;
  b.in = forward.in;
  b.checkpoints = forward.checkpoints;
  b.taps = forward.taps;
  for (Tap& t : b.taps) t.watch = {};
  const Shape channels = forward.in.x.shape(), states = forward.in.B.shape();
  b.dout = o.activation(channels, -1, 1, c.row_padding);
  b.dx = o.assigned_activation(channels, c.row_padding);
  b.ddt_raw = o.assigned_activation({c.tokens(), c.n_heads}, c.row_padding);
  b.dB = o.assigned_activation(states, c.row_padding);
  b.dC = o.assigned_activation(states, c.row_padding);
  b.ddt_bias = o.accumulated({c.n_heads});
  b.dA = o.accumulated({c.n_heads});
  b.dD = o.accumulated(forward.in.D.shape());
  if (forward.pool) b.dpool = o.accumulated(forward.pool.shape());
  return b;
}

// A forked start, zeros as a start, a dropped end, a slot that is both, an empty sequence.
Case packed(int64_t n_heads, int64_t head_dim, int64_t d_state, int64_t n_groups = 1) {
  return {{33, 0, 1, 15, 16, 17}, n_heads, head_dim, d_state, n_groups, {0, 0, 0, -1, 5, 2},
          {1, 3, 4, -1, 5, 6}};
}

void run_both(Device& device, Operands& o, const Case& c) {
  const SsdForward forward = make_forward(device, o, c);
  const SsdBackward backward = make_backward(o, c, forward);
  ssd_forward(device, forward);
  ssd_backward(device, backward);
}

void expect_both_directions_agree(const Case& c) {
  SCOPED_TRACE(fmt::format("{} heads of {}, {} groups, d_state {}, chunk {}", c.n_heads, c.head_dim,
                           c.n_groups, c.d_state, c.chunk));
  const auto call = [&](Device& device, Operands& o) { run_both(device, o, c); };
  expect_backends_agree(call, c.tolerance());
  expect_cuda_agrees_in_bf16(call, c.tolerance());
}

TEST(Ssd, AgreesWithRef) {
  for (const int64_t head_dim : {1, 3, 8, 15, 16, 17, 64}) {
    for (const int64_t d_state : {1, 2, 15, 16, 17, 64}) {
      Case c = packed(3, head_dim, d_state);
      c.row_padding = d_state % 2 * 5;
      expect_both_directions_agree(c);
    }
  }
}

TEST(Ssd, AgreesWithRefOnGroupsOfHeads) {
  expect_both_directions_agree(packed(4, 5, 6, 2));
  expect_both_directions_agree(packed(6, 16, 16, 3));
  expect_both_directions_agree(packed(8, 16, 8, 8));
  expect_both_directions_agree(packed(24, 64, 128));  // mamba2-130m's
  expect_both_directions_agree(packed(2, 16, 256));
  expect_both_directions_agree(packed(16, 64, 16, 2));  // groups of several blocks
  expect_both_directions_agree(packed(2, 300, 5));      // a head wider than a block
}

// Several chunks and tiles of 64 tokens, channels and states, and what is left of them.
TEST(Ssd, AgreesWithRefOverChunksAndTiles) {
  for (const auto& [head_dim, d_state] :
       {std::pair{64, 128}, {128, 64}, {65, 63}, {63, 65}, {130, 7}, {4, 130}}) {
    Case c = {{129, 64, 0, 63, 200}, 4, head_dim, d_state, 2, {0, 0, 6, -1, 5}, {1, 2, 3, -1, 5}};
    expect_both_directions_agree(c);
    c.D_by_channel = true;
    c.row_padding = 3;
    c.chunk = 48;
    expect_both_directions_agree(c);
  }
}

TEST(Ssd, AgreesWithRefWhereDHasANumberForEachChannelAndDtHasLimits) {
  Case c = packed(4, 9, 7, 2);
  c.D_by_channel = true;
  c.dt_min = 0.05;
  c.dt_max = 0.5;
  expect_both_directions_agree(c);
}

TEST(Ssd, AgreesWithRefAtAnyLength) {
  expect_both_directions_agree({{}, 3, 8, 5});
  expect_both_directions_agree({{0}, 3, 8, 5, 1, {0}, {0}});
  expect_both_directions_agree({{0, 0}, 3, 8, 5, 1, {1, 1}, {0, -1}});
  for (const int64_t length : {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200}) {
    expect_both_directions_agree({{length}, 3, 8, 5, 1, {0}, {0}});
    expect_both_directions_agree({{length}, 3, 8, 5});
  }
}

TEST(Ssd, AgreesWithRefAtAnyChunk) {
  for (const int64_t chunk : {1, 2, 16, 17, 256}) {
    Case c = packed(4, 8, 5, 2);
    c.chunk = chunk;
    expect_both_directions_agree(c);
  }
}

// As in decoding: sequences of one token.
TEST(Ssd, AgreesWithRefOnManySequencesOfOneToken) {
  Case c = {std::vector<int64_t>(50, 1), 5, 16, 32};
  for (int64_t s = 0; s < 50; ++s) {
    c.starts.push_back(s % 3 == 0 ? s : Sequences::kNoSlot);
    c.ends.push_back(s % 5 == 0 ? Sequences::kNoSlot : s);
  }
  expect_both_directions_agree(c);
}

TEST(Ssd, ForwardErrorStaysSmall) {
  Case c = packed(4, 16, 16);
  c.lengths[0] = 300;
  Device cpu("cpu", 1), ref("ref", 1);
  Operands actual(DType::f32), expected(DType::f64);
  const SsdForward a = make_forward(cpu, actual, c), e = make_forward(ref, expected, c);
  ssd_forward(cpu, a);
  ssd_forward(ref, e);
  expect_close(a.out, e.out, c.forward_tolerance(), "out");
  expect_close(a.pool, e.pool, c.forward_tolerance(), "pool");
}

TEST(Ssd, ForwardNeedsNoCheckpointsAndNoPool) {
  const Case c = {{70, 3, 1}, 3, 6, 16};
  Device cpu("cpu", 1);
  Operands with(DType::f32), without(DType::f32);
  const SsdForward a = make_forward(cpu, with, c);
  SsdForward b = make_forward(cpu, without, c);
  b.checkpoints = {};
  ssd_forward(cpu, a);
  ssd_forward(cpu, b);
  EXPECT_EQ(values(a.out), values(b.out));
}

TEST(Ssd, ChunksChangeTheLastBitsAlone) {
  std::vector<std::vector<double>> results;
  Device cpu("cpu", 2);
  Case c = {{300, 41}, 4, 16, 32, 2, {0, -1}, {0, 1}};
  for (const int64_t chunk : {16, 64, 100, 256}) {
    c.chunk = chunk;
    Operands o(DType::f32);
    run_both(cpu, o, c);
    results.emplace_back();
    for (const Guarded& output : o.outputs()) {
      for (const double v : values(output.tensor())) results.back().push_back(v);
    }
  }
  for (size_t i = 0; i < results[0].size(); ++i) {
    for (const std::vector<double>& other : results) {
      ASSERT_NEAR(other[i], results[0][i], c.tolerance() * std::max(1.0, std::abs(results[0][i])));
    }
  }
}

// The decays of published checkpoints: A from -36315 to -0.0004, steps from 1e-4 to 10.
TEST(Ssd, DecaysOfPublishedCheckpointsNeitherOverflowNorLoseTheAnswer) {
  for (const auto& [lo, hi] :
       {std::pair{-36315.0, -36315.0}, {-36315.0, -30.0}, {-16.0, -0.0004}, {-0.0004, -0.0004}}) {
    Case c = {{150, 70}, 4, 8, 16, 1, {0, -1}, {0, 1}};
    c.A_lowest = lo;
    c.A_highest = hi;
    const auto wide_steps = [](const SsdForward& a) {
      for_each_offset(a.in.dt_raw, [&](int64_t i) {
        put(a.in.dt_raw, i, static_cast<float>(5 * get(a.in.dt_raw, i)));
      });
    };
    SCOPED_TRACE(fmt::format("A {} to {}", lo, hi));
    expect_backends_agree(
        [&](Device& device, Operands& o) {
          const SsdForward forward = make_forward(device, o, c);
          wide_steps(forward);
          const SsdBackward backward = make_backward(o, c, forward);
          ssd_forward(device, forward);
          ssd_backward(device, backward);
          device.synchronize();
          for (const Tensor* t : {&forward.out, &forward.pool, &backward.dx, &backward.ddt_raw,
                                  &backward.dB, &backward.dC, &backward.dA}) {
            for (const double v : values(*t)) ASSERT_TRUE(std::isfinite(v));
          }
        },
        10 * c.tolerance());  // steps of size 10
  }
}

// And comes to every later token; a chunk's earlier ones may see it, as zero times it.
TEST(Ssd, NanStaysInItsHead) {
  const Case c = {{20}, 3, 8, 16};
  Device cpu("cpu", 1);
  Operands o(DType::f32);
  const SsdForward a = make_forward(cpu, o, c);
  put(a.in.dt_raw, 3 * a.in.dt_raw.stride(0) + 1, std::nan(""));
  ssd_forward(cpu, a);
  for (int64_t t = 0; t < c.tokens(); ++t) {
    for (int64_t e = 0; e < c.d_inner(); ++e) {
      const bool nan = std::isnan(get(a.out, t * a.out.stride(0) + e));
      if (e / 8 != 1) {
        EXPECT_FALSE(nan);
      } else if (t >= 3) {
        EXPECT_TRUE(nan);
      }
    }
  }
}

// Of several chunks.
const Case kTapCase = {{18, 0, 3, 1}, 4, 5, 6, 2, {0, 0, 1, 4}, {2, 3, -1, 4}, 0, 4};

void expect_watching_changes_no_bit(Device& device, MemorySource& memory, DType dtype) {
  Operands plain(DType::f32, 1, memory, dtype), watched(DType::f32, 1, memory, dtype);
  const SsdForward a = make_forward(device, plain, kTapCase);
  SsdForward b = make_forward(device, watched, kTapCase);
  for (const SsdPoint p : kPoints) tap(b.taps, p).watch = watched.assigned(b.in.point_shape(p));
  ssd_forward(device, a);
  ssd_forward(device, b);
  device.synchronize();
  watched.expect_guards_intact();
  for (size_t i = 0; i < plain.outputs().size(); ++i) {
    EXPECT_EQ(plain.outputs()[i].bytes(), watched.outputs()[i].bytes()) << "output " << i;
  }
}

TEST(Ssd, WatchingChangesNoBit) {
  Device cpu("cpu", 1);
  expect_watching_changes_no_bit(cpu, host_memory(), DType::f32);
  if (!can_open("cuda")) return;
  Device cuda("cuda");
  for (const DType dtype : {DType::f32, DType::bf16}) {
    expect_watching_changes_no_bit(cuda, cuda.shared_memory(), dtype);
  }
}

// Large enough for several threads.
TEST(Ssd, ManyTokensAreWatchedAndEditedOnAnyThread) {
  const Case c = {{80, 70}, 4, 64, 16};
  expect_backends_agree(
      [&](Device& device, Operands& o) {
        SsdForward a = make_forward(device, o, c);
        for (const SsdPoint p : {SsdPoint::dt_pre, SsdPoint::dt, SsdPoint::y}) {
          tap(a.taps, p).watch = o.assigned(a.in.point_shape(p));
          tap(a.taps, p).edits = {{EditOp::scale, o.input(a.in.point_shape(p), 0.5, 1)}};
        }
        ssd_forward(device, a);
      },
      c.forward_tolerance());
}

TEST(Ssd, WatchingANanChangesNoBit) {
  Device cpu("cpu", 1);
  Operands plain(DType::f32), watched(DType::f32);
  const SsdForward a = make_forward(cpu, plain, kTapCase);
  SsdForward b = make_forward(cpu, watched, kTapCase);
  for (const Tensor& x : {a.in.x, b.in.x}) put(x, 0, std::nan(""));
  tap(b.taps, SsdPoint::h).watch = watched.assigned(b.in.point_shape(SsdPoint::h));
  ssd_forward(cpu, a);
  ssd_forward(cpu, b);
  EXPECT_EQ(plain.outputs()[0].bytes(), watched.outputs()[0].bytes());
}

TEST(Ssd, WatchedValuesAgreeWithRef) {
  expect_backends_agree(
      [&](Device& device, Operands& o) {
        SsdForward a = make_forward(device, o, kTapCase);
        for (const SsdPoint p : kPoints) tap(a.taps, p).watch = o.assigned(a.in.point_shape(p));
        ssd_forward(device, a);
      },
      kTapCase.forward_tolerance());
}

void expect_setting_to_itself_changes_no_bit(Device& device, MemorySource& memory) {
  for (const SsdPoint p : kPoints) {
    Operands o(DType::f32, 1, memory), again(DType::f32, 1, memory);
    SsdForward a = make_forward(device, o, kTapCase), b = make_forward(device, again, kTapCase);
    tap(a.taps, p).watch = o.assigned(a.in.point_shape(p));
    ssd_forward(device, a);
    tap(b.taps, p).edits = {{EditOp::set, tap(a.taps, p).watch}};
    ssd_forward(device, b);
    device.synchronize();
    for (size_t i = 0; i < again.outputs().size(); ++i) {
      EXPECT_EQ(o.outputs()[i].bytes(), again.outputs()[i].bytes())
          << "point " << static_cast<int>(p) << ", output " << i;
    }
  }
}

TEST(Ssd, SettingAValueToItselfChangesNoBit) {
  Device cpu("cpu", 1);
  expect_setting_to_itself_changes_no_bit(cpu, host_memory());
  if (!can_open("cuda")) return;
  Device cuda("cuda");
  expect_setting_to_itself_changes_no_bit(cuda, cuda.shared_memory());
}

// One point edited, `scale` by one number for all places.
void edit_one(Operands& o, SsdPoint p, EditOp op, const SsdInputs& in, SsdTaps& taps) {
  const bool one_for_all = op == EditOp::scale && p != SsdPoint::B_bar;
  // A decay above 1 would let states, and errors with them, grow without bound.
  const double sign = op == EditOp::add && p == SsdPoint::decay ? -1 : 1;
  tap(taps, p).edits = {
      {op, o.input(one_for_all ? Shape{1} : in.point_shape(p), sign * 0.5, sign)}};
}

// Every point scaled at once, each by its own numbers.
void scale_all(Operands& o, const SsdInputs& in, SsdTaps& taps) {
  for (const SsdPoint p : kPoints) {
    tap(taps, p).edits = {{EditOp::scale, o.input(in.point_shape(p), 0.5, 1)}};
  }
}

void expect_edits_agree(const std::function<void(Operands&, SsdForward&)>& edit) {
  expect_backends_agree(
      [&](Device& device, Operands& o) {
        SsdForward forward = make_forward(device, o, kTapCase);
        edit(o, forward);
        const SsdBackward backward = make_backward(o, kTapCase, forward);
        ssd_forward(device, forward);
        ssd_backward(device, backward);
      },
      kTapCase.tolerance());
}

TEST(Ssd, EditsAgreeWithRef) {
  for (const EditOp op : {EditOp::set, EditOp::add, EditOp::scale}) {
    for (const SsdPoint p : kPoints) {
      SCOPED_TRACE(fmt::format("point {}, edit {}", static_cast<int>(p), static_cast<int>(op)));
      expect_edits_agree([&](Operands& o, SsdForward& a) { edit_one(o, p, op, a.in, a.taps); });
    }
  }
}

TEST(Ssd, EditsOfEveryPointTogetherAgreeWithRef) {
  expect_edits_agree([](Operands& o, SsdForward& a) { scale_all(o, a.in, a.taps); });
}

// ref's gradients against differences of out and of the states left in the pool.
void expect_ref_gradients(const Case& c, const std::function<void(Operands&, SsdForward&)>& edit) {
  Device ref("ref", 1);
  Operands o(DType::f64);
  SsdForward forward = make_forward(ref, o, c);
  edit(o, forward);
  const SsdBackward backward = make_backward(o, c, forward);
  const std::vector<double> pool = values(forward.pool);
  const Tensor pool_weight = o.input(forward.pool.shape());
  const auto zero = [](const Tensor& t) { for_each_offset(t, [&](int64_t i) { put(t, i, 0); }); };
  for (const Tensor* t : {&backward.ddt_bias, &backward.dA, &backward.dD}) zero(*t);
  for_each_offset(pool_weight, [&](int64_t i) { put(backward.dpool, i, get(pool_weight, i)); });

  std::vector<double> start = pool;
  const auto loss = [&] {
    for (size_t i = 0; i < start.size(); ++i) {
      put(forward.pool, static_cast<int64_t>(i), start[i]);
    }
    ssd_forward(ref, forward);
    return weighted_sum(forward.out, backward.dout) + weighted_sum(forward.pool, pool_weight);
  };
  loss();
  ssd_backward(ref, backward);
  const SsdInputs& in = forward.in;
  expect_gradient(in.x, backward.dx, loss, "x");
  expect_gradient(in.dt_raw, backward.ddt_raw, loss, "dt_raw");
  expect_gradient(in.dt_bias, backward.ddt_bias, loss, "dt_bias");
  expect_gradient(in.A, backward.dA, loss, "A");
  expect_gradient(in.B, backward.dB, loss, "B");
  expect_gradient(in.C, backward.dC, loss, "C");
  expect_gradient(in.D, backward.dD, loss, "D");
  const Tensor starts = Tensor::wrap(start.data(), DType::f64, forward.pool.shape());
  expect_gradient(starts, backward.dpool, loss, "pool");
}

TEST(Ssd, RefGradientsAreThoseOfFiniteDifferences) {
  Case c = {{3, 0, 17, 1}, 4, 2, 3, 2, {0, 0, 0, 4}, {1, 2, 3, 4}};
  expect_ref_gradients(c, [](Operands&, SsdForward&) {});
  c.D_by_channel = true;
  c.dt_min = 0.1;
  c.dt_max = 0.5;
  c.chunk = 4;
  expect_ref_gradients(c, [](Operands&, SsdForward&) {});
}

TEST(Ssd, RefGradientsThroughEditsAreThoseOfFiniteDifferences) {
  const Case c = {{3, 2}, 2, 2, 2, 1, {0, 0}, {1, 2}};
  for (const EditOp op : {EditOp::set, EditOp::add, EditOp::scale}) {
    for (const SsdPoint p : kPoints) {
      SCOPED_TRACE(fmt::format("point {}, edit {}", static_cast<int>(p), static_cast<int>(op)));
      expect_ref_gradients(c,
                           [&](Operands& o, SsdForward& a) { edit_one(o, p, op, a.in, a.taps); });
    }
  }
}

void tap_parts(Operands& o, SsdForward& a, EditOp op) {
  for (const SsdPoint p : kPoints) {
    const Shape shape = a.in.point_shape(p), held = some_part_shape(shape);
    const TapPart part = some_part(o, shape);
    tap(a.taps, p) = {.watch = o.assigned(held), .watched = part};
    if (op != EditOp::none) tap(a.taps, p).edits = {{op, o.input(held, 0.5, 1), part}};
  }
}
void take_gradients(Operands& o, SsdBackward& b) {
  for (const SsdPoint p : kPoints) {
    const Shape shape = b.in.point_shape(p);
    tap(b.taps, p).graded = some_part(o, shape);
    tap(b.taps, p).gradient = o.assigned(some_part_shape(shape));
  }
}

TEST(Ssd, TapsOfPartsAgreeWithRef) {
  for (const EditOp op : {EditOp::none, EditOp::scale}) {
    expect_backends_agree(
        [&](Device& device, Operands& o) {
          SsdForward forward = make_forward(device, o, kTapCase);
          tap_parts(o, forward, op);
          SsdBackward backward = make_backward(o, kTapCase, forward);
          take_gradients(o, backward);
          ssd_forward(device, forward);
          ssd_backward(device, backward);
        },
        kTapCase.tolerance());
  }
}

// Where the chunks' products of matrices go on.
TEST(Ssd, GradientsOfPointsOutsideTheRecurrenceAgreeWithRef) {
  expect_backends_agree(
      [&](Device& device, Operands& o) {
        const SsdForward forward = make_forward(device, o, kTapCase);
        SsdBackward backward = make_backward(o, kTapCase, forward);
        for (const SsdPoint p : {SsdPoint::dt_pre, SsdPoint::dt, SsdPoint::y}) {
          tap(backward.taps, p).gradient = o.assigned(forward.in.point_shape(p));
        }
        ssd_forward(device, forward);
        ssd_backward(device, backward);
      },
      kTapCase.tolerance());
}

// The derivative with respect to a number added to the value.
TEST(Ssd, RefGradientsOfPointsAreThoseOfFiniteDifferences) {
  const Case c = {{4, 2}, 2, 2, 3, 1, {0, 0}, {1, 2}};
  Device ref("ref", 1);
  for (const SsdPoint p : kPoints) {
    Operands o(DType::f64);
    SsdForward forward = make_forward(ref, o, c);
    const Tensor added = o.accumulated(forward.in.point_shape(p));
    fill(ref, {added, 0});
    tap(forward.taps, p).edits = {{EditOp::add, added}};
    SsdBackward backward = make_backward(o, c, forward);
    fill(ref, {backward.dpool, 0});
    tap(backward.taps, p).gradient = o.assigned(forward.in.point_shape(p));
    const std::vector<double> pool = values(forward.pool);
    const auto loss = [&] {
      for (size_t i = 0; i < pool.size(); ++i) put(forward.pool, int64_t(i), pool[i]);
      ssd_forward(ref, forward);
      return weighted_sum(forward.out, backward.dout);
    };
    loss();
    ssd_backward(ref, backward);
    expect_gradient(added, tap(backward.taps, p).gradient, loss,
                    fmt::format("point {}", static_cast<int>(p)));
  }
}

// The sequence as two calls, its state handed over in a slot.
std::vector<double> cut_at(Device& device, const Case& whole, int64_t cut) {
  Operands o(DType::f32);
  const SsdForward a = make_forward(device, o, whole);
  for (const auto& [begin, end] : {std::pair{int64_t{0}, cut}, std::pair{cut, whole.tokens()}}) {
    SsdForward part = a;
    part.checkpoints = {};
    part.in.seqs = make_sequences(device, {end - begin}, {0}, {0});
    for (Tensor SsdInputs::*t : {&SsdInputs::x, &SsdInputs::dt_raw, &SsdInputs::B, &SsdInputs::C}) {
      part.in.*t = (a.in.*t).rows(begin, end);
    }
    part.out = a.out.rows(begin, end);
    ssd_forward(device, part);
  }
  std::vector<double> result = values(a.out);
  for (const double v : values(a.pool)) result.push_back(v);
  return result;
}

TEST(Ssd, StatesAreHandedOverAtAnyToken) {
  const Case c = {{70}, 3, 8, 16, 1, {0}, {0}};
  Device cpu("cpu", 1);
  const std::vector<double> uncut = cut_at(cpu, c, 0);
  for (int64_t cut = 1; cut <= c.tokens(); ++cut) {
    const std::vector<double> two = cut_at(cpu, c, cut);
    EXPECT_EQ(two, cut_at(cpu, c, cut)) << "the same cutting, at " << cut;
    ASSERT_EQ(two.size(), uncut.size());
    for (size_t i = 0; i < two.size(); ++i) {
      ASSERT_NEAR(two[i], uncut[i], c.forward_tolerance()) << "cut at " << cut;
    }
  }
}

// A sequence's result has the same bits whatever is packed beside it, and wherever it stands.
TEST(Ssd, SequencesDoNotSeeEachOther) {
  Device cpu("cpu", 2);
  const Case c = {{70, 1, 33, 70, 1}, 3, 8, 16, 1, {-1, -1, -1, -1, -1}, {0, 1, 2, 3, 4}};
  Operands o(DType::f32);
  const SsdForward a = make_forward(cpu, o, c);
  ssd_forward(cpu, a);
  const std::vector<double> together = values(a.out), states = values(a.pool);
  for (const Tensor* t : {&a.out, &a.pool}) {
    for_each_offset(*t, [&](int64_t i) { put(*t, i, std::nan("")); });
  }
  int64_t begin = 0, slot = 0;
  for (const int64_t length : c.lengths) {
    SsdForward alone = a;
    alone.checkpoints = {};
    alone.in.seqs = make_sequences(cpu, {length}, {Sequences::kNoSlot}, {slot++});
    for (Tensor SsdInputs::*t : {&SsdInputs::x, &SsdInputs::dt_raw, &SsdInputs::B, &SsdInputs::C}) {
      alone.in.*t = (a.in.*t).rows(begin, begin + length);
    }
    alone.out = a.out.rows(begin, begin + length);
    ssd_forward(cpu, alone);
    begin += length;
  }
  EXPECT_EQ(values(a.out), together);
  EXPECT_EQ(values(a.pool), states);
}

TEST(Ssd, RefusesSizesThatDoNotFit) {
  Device ref("ref", 1);
  Operands o(DType::f32);
  SsdForward a = make_forward(ref, o, {{4}, 4, 2, 3, 2});
  a.in.n_groups = 3;
  EXPECT_THROW(ssd_forward(ref, a), Error);
  a.in.n_groups = 2;
  a.in.D = o.input({3});
  EXPECT_THROW(ssd_forward(ref, a), Error);
}

}  // namespace
}  // namespace elapse
