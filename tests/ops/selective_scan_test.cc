// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/selective_scan.h"

#include <functional>

#include "elapse/ops/pointwise.h"
#include "tests/ops/op_test.h"
#include "tests/ops/tap_parts.h"

namespace elapse {
namespace {

using namespace op_test;

constexpr ScanPoint kPoints[] = {
    ScanPoint::dt_pre, ScanPoint::dt,        ScanPoint::decay, ScanPoint::B_bar,   ScanPoint::write,
    ScanPoint::h,      ScanPoint::readout_h, ScanPoint::y,     ScanPoint::ssm_out, ScanPoint::gate};
static_assert(std::size(kPoints) == static_cast<size_t>(ScanPoint::count));

struct Case {
  std::vector<int64_t> lengths;
  int64_t d_inner;
  int64_t d_state;
  std::vector<int64_t> starts = {}, ends = {};
  int64_t row_padding = 0;

  int64_t tokens() const {
    int64_t sum = 0;
    for (const int64_t length : lengths) sum += length;
    return sum;
  }
  int64_t max_len() const {
    return lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
  }
  Shape shape_of(ScanPoint p) const {
    const bool per_state = p >= ScanPoint::decay && p <= ScanPoint::readout_h;
    return per_state ? Shape{tokens(), d_inner, d_state} : Shape{tokens(), d_inner};
  }
  // The decay and a product are wrong by up to 8 epsilon a token, and a sum by as much a term.
  // Numbers are of size 1.
  double forward_tolerance() const {
    return 8 * kEpsilon * static_cast<double>(max_len() + d_state + 1);
  }
  // Gradients add the sums over tokens and channels.
  double tolerance() const {
    return 8 * kEpsilon * static_cast<double>(max_len() + d_state + tokens() + d_inner);
  }
};

ScanForward make_forward(Device& device, Operands& o, const Case& c) {
  ScanForward a;
  a.in.seqs = make_sequences(device, c.lengths, c.starts, c.ends);
  const Shape channels = {c.tokens(), c.d_inner}, states = {c.tokens(), c.d_state};
  a.in.x = o.activation(channels, -1, 1, c.row_padding);
  a.in.dt_raw = o.activation(channels, -2, 2, c.row_padding);
  a.in.dt_bias = o.input({c.d_inner}, -4, 1);
  a.in.A = o.input({c.d_inner, c.d_state}, -4, -0.1);
  a.in.B = o.activation(states, -1, 1, c.row_padding);
  a.in.C = o.activation(states, -1, 1, c.row_padding);
  a.in.D = o.input({c.d_inner});
  a.in.z = o.activation(channels, -3, 3, c.row_padding);
  if (a.in.seqs.max_slot >= 0) {
    a.pool = o.accumulated({a.in.seqs.max_slot + 1, c.d_inner, c.d_state});
  }
  a.checkpoints = o.handed_on({checkpoint_count(a.in.seqs), c.d_inner, c.d_state});
  a.out = o.assigned_activation(channels, c.row_padding);
  return a;
}

ScanBackward make_backward(Operands& o, const Case& c, const ScanForward& forward) {
  ScanBackward b;
  b.in = forward.in;
  b.checkpoints = forward.checkpoints;
  b.taps = forward.taps;
  for (Tap& t : b.taps) t.watch = {};
  const Shape channels = {c.tokens(), c.d_inner}, states = {c.tokens(), c.d_state};
  b.dout = o.activation(channels, -1, 1, c.row_padding);
  b.dx = o.assigned_activation(channels, c.row_padding);
  b.ddt_raw = o.assigned_activation(channels, c.row_padding);
  b.dB = o.assigned_activation(states, c.row_padding);
  b.dC = o.assigned_activation(states, c.row_padding);
  b.dz = o.assigned_activation(channels, c.row_padding);
  b.ddt_bias = o.accumulated({c.d_inner});
  b.dA = o.accumulated({c.d_inner, c.d_state});
  b.dD = o.accumulated({c.d_inner});
  if (forward.pool) b.dpool = o.accumulated(forward.pool.shape());
  return b;
}

// A forked start, zeros as a start, a dropped end, a slot that is both, an empty sequence.
Case packed(int64_t d_inner, int64_t d_state, int64_t row_padding = 0) {
  return {{33, 0, 1, 15, 16, 17}, d_inner,    d_state, {0, 0, 0, -1, 5, 2},
          {1, 3, 4, -1, 5, 6},    row_padding};
}

void run_both_directions(Device& device, Operands& o, const Case& c) {
  const ScanForward forward = make_forward(device, o, c);
  const ScanBackward backward = make_backward(o, c, forward);
  selective_scan_forward(device, forward);
  selective_scan_backward(device, backward);
}

void expect_both_directions_agree(const Case& c) {
  SCOPED_TRACE(fmt::format("d_inner {}, d_state {}", c.d_inner, c.d_state));
  expect_backends_agree([&](Device& device, Operands& o) { run_both_directions(device, o, c); },
                        c.tolerance());
}

TEST(SelectiveScan, AgreesWithRef) {
  for (const int64_t d_inner : {1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 63, 64, 65}) {
    for (const int64_t d_state : {1, 2, 15, 16, 17}) {
      expect_both_directions_agree(packed(d_inner, d_state, d_state % 2 * 5));
    }
  }
}

TEST(SelectiveScan, AgreesWithRefAtManyStatesAndOnManyThreads) {
  expect_both_directions_agree(packed(130, 16, 3));
  for (const int64_t d_state : {8, 12, 16, 20, 24, 32, 40}) {
    expect_both_directions_agree(packed(48, d_state));
  }
  expect_both_directions_agree(packed(130, 3));
  expect_both_directions_agree(packed(20, 64, 1));
  expect_both_directions_agree(packed(9, 256));
}

TEST(SelectiveScan, CpuAgreesWithRefAtAnyNumberOfStates) {
  const Case c = packed(9, 257);
  expect_cpu_agrees([&](Device& device, Operands& o) { run_both_directions(device, o, c); },
                    c.tolerance());
}

TEST(SelectiveScan, AgreesWithRefAtAnyLength) {
  expect_both_directions_agree({{}, 17, 5});
  expect_both_directions_agree({{0}, 17, 5, {0}, {0}});
  expect_both_directions_agree({{0, 0}, 17, 5, {1, 1}, {0, -1}});
  for (const int64_t length : {1, 15, 16, 17, 32, 33}) {
    expect_both_directions_agree({{length}, 17, 5, {0}, {0}});
    expect_both_directions_agree({{length}, 17, 5});
  }
}

// As in decoding: sequences of one token share a task.
TEST(SelectiveScan, AgreesWithRefOnManySequencesOfOneToken) {
  Case c = {std::vector<int64_t>(200, 1), 70, 16};
  for (int64_t s = 0; s < 200; ++s) {
    c.starts.push_back(s % 3 == 0 ? s : Sequences::kNoSlot);
    c.ends.push_back(s % 5 == 0 ? Sequences::kNoSlot : s);
  }
  expect_both_directions_agree(c);
  // Without checkpoints they go another way: forks, and states of several blocks, too.
  for (const int64_t d_state : {16, 32, 40, 48}) {
    c.d_state = d_state;
    for (int64_t s = 0; s < 200; s += 3) c.starts[static_cast<size_t>(s)] = 0;
    expect_backends_agree(
        [&](Device& device, Operands& o) {
          ScanForward forward = make_forward(device, o, c);
          forward.checkpoints = {};
          selective_scan_forward(device, forward);
        },
        c.forward_tolerance());
  }
}

TEST(SelectiveScan, ForwardErrorStaysSmall) {
  const Case c = packed(33, 16);
  Device cpu("cpu", 1), ref("ref", 1);
  Operands actual(DType::f32), expected(DType::f64);
  const ScanForward a = make_forward(cpu, actual, c), e = make_forward(ref, expected, c);
  selective_scan_forward(cpu, a);
  selective_scan_forward(ref, e);
  expect_close(a.out, e.out, c.forward_tolerance(), "out");
  expect_close(a.pool, e.pool, c.forward_tolerance(), "pool");
}

TEST(SelectiveScan, ForwardNeedsNoCheckpointsAndNoPool) {
  const Case c = {{20, 3}, 18, 16};
  Device cpu("cpu", 1);
  Operands with(DType::f32), without(DType::f32);
  const ScanForward a = make_forward(cpu, with, c);
  ScanForward b = make_forward(cpu, without, c);
  b.checkpoints = {};
  selective_scan_forward(cpu, a);
  selective_scan_forward(cpu, b);
  EXPECT_EQ(values(a.out), values(b.out));
}

TEST(SelectiveScan, ExtremeStepsAndDecaysStayFinite) {
  const Case c = {{40}, 33, 16, {0}, {0}};
  for (const double scale : {1e-30, 1.0, 100.0}) {
    for (const double A : {-4e4, -1e-30, -16.0}) {
      const auto set_extremes = [&](const ScanForward& a) {
        for_each_offset(a.in.A, [&](int64_t i) { put(a.in.A, i, static_cast<float>(A)); });
        for_each_offset(a.in.dt_raw, [&](int64_t i) {
          put(a.in.dt_raw, i, static_cast<float>(scale * get(a.in.dt_raw, i)));
        });
      };
      expect_backends_agree(
          [&](Device& device, Operands& o) {
            const ScanForward forward = make_forward(device, o, c);
            set_extremes(forward);
            const ScanBackward backward = make_backward(o, c, forward);
            selective_scan_forward(device, forward);
            selective_scan_backward(device, backward);
            device.synchronize();
            for (const Tensor* t : {&forward.out, &forward.pool, &backward.dx, &backward.ddt_raw,
                                    &backward.dB, &backward.dC, &backward.dA}) {
              for (const double v : values(*t)) ASSERT_TRUE(std::isfinite(v));
            }
          },
          c.tolerance());
    }
  }
}

TEST(SelectiveScan, NanStaysInItsChannel) {
  const Case c = {{20}, 33, 16};
  Device cpu("cpu", 1);
  Operands o(DType::f32);
  const ScanForward a = make_forward(cpu, o, c);
  put(a.in.dt_raw, 3 * a.in.dt_raw.stride(0) + 5, std::nan(""));
  selective_scan_forward(cpu, a);
  for (int64_t t = 0; t < c.tokens(); ++t) {
    for (int64_t e = 0; e < c.d_inner; ++e) {
      EXPECT_EQ(std::isnan(get(a.out, t * a.out.stride(0) + e)), t >= 3 && e == 5);
    }
  }
}

// d_inner 17: with a partial vector whatever the lanes.
const Case kTapCase = {{18, 0, 3}, 17, 5, {0, 0, 1}, {2, 3, -1}};

TEST(SelectiveScan, WatchingChangesNoBit) {
  Device cpu("cpu", 1);
  Operands plain(DType::f32), watched(DType::f32);
  const ScanForward a = make_forward(cpu, plain, kTapCase);
  ScanForward b = make_forward(cpu, watched, kTapCase);
  for (const ScanPoint p : kPoints) tap(b.taps, p).watch = watched.assigned(kTapCase.shape_of(p));
  selective_scan_forward(cpu, a);
  selective_scan_forward(cpu, b);
  watched.expect_guards_intact();
  for (size_t i = 0; i < plain.outputs().size(); ++i) {
    EXPECT_EQ(plain.outputs()[i].bytes(), watched.outputs()[i].bytes()) << "output " << i;
  }
}

TEST(SelectiveScan, WatchedValuesAgreeWithRef) {
  expect_backends_agree(
      [&](Device& device, Operands& o) {
        ScanForward a = make_forward(device, o, kTapCase);
        for (const ScanPoint p : kPoints) tap(a.taps, p).watch = o.assigned(kTapCase.shape_of(p));
        selective_scan_forward(device, a);
      },
      kTapCase.forward_tolerance());
}

TEST(SelectiveScan, SettingAValueToItselfChangesNoBit) {
  Device cpu("cpu", 1);
  for (const ScanPoint p : kPoints) {
    Operands o(DType::f32), again(DType::f32);
    ScanForward a = make_forward(cpu, o, kTapCase), b = make_forward(cpu, again, kTapCase);
    tap(a.taps, p).watch = o.assigned(kTapCase.shape_of(p));
    selective_scan_forward(cpu, a);
    tap(b.taps, p).edits = {{EditOp::set, tap(a.taps, p).watch}};
    selective_scan_forward(cpu, b);
    for (size_t i = 0; i < again.outputs().size(); ++i) {
      EXPECT_EQ(o.outputs()[i].bytes(), again.outputs()[i].bytes())
          << "point " << static_cast<int>(p) << ", output " << i;
    }
  }
}

// Every point scaled at once, each by its own numbers.
void scale_all(Operands& o, const Case& c, ScanTaps& taps) {
  for (const ScanPoint p : kPoints) {
    tap(taps, p).edits = {{EditOp::scale, o.input(c.shape_of(p), 0.5, 1)}};
  }
}

// One point edited, `scale` by one number for all places.
void edit_one(Operands& o, const Case& c, ScanPoint p, EditOp op, ScanTaps& taps) {
  const bool one_for_all = op == EditOp::scale && p != ScanPoint::B_bar;
  // A decay above 1 would let states, and errors with them, grow without bound.
  const double sign = op == EditOp::add && p == ScanPoint::decay ? -1 : 1;
  tap(taps, p).edits = {{op, o.input(one_for_all ? Shape{1} : c.shape_of(p), sign * 0.5, sign)}};
}

TEST(SelectiveScan, EditsAgreeWithRef) {
  for (const EditOp op : {EditOp::set, EditOp::add, EditOp::scale}) {
    for (const ScanPoint p : kPoints) {
      SCOPED_TRACE(fmt::format("point {}, edit {}", static_cast<int>(p), static_cast<int>(op)));
      expect_backends_agree(
          [&](Device& device, Operands& o) {
            ScanForward forward = make_forward(device, o, kTapCase);
            edit_one(o, kTapCase, p, op, forward.taps);
            const ScanBackward backward = make_backward(o, kTapCase, forward);
            selective_scan_forward(device, forward);
            selective_scan_backward(device, backward);
          },
          kTapCase.tolerance());
    }
  }
}

TEST(SelectiveScan, EditsOfEveryPointTogetherAgreeWithRef) {
  expect_backends_agree(
      [&](Device& device, Operands& o) {
        ScanForward forward = make_forward(device, o, kTapCase);
        scale_all(o, kTapCase, forward.taps);
        const ScanBackward backward = make_backward(o, kTapCase, forward);
        selective_scan_forward(device, forward);
        selective_scan_backward(device, backward);
      },
      kTapCase.tolerance());
}

// ref's gradients against differences of out and of the states left in the pool.
void expect_ref_gradients(const Case& c, const std::function<void(Operands&, ScanTaps&)>& edit) {
  Device ref("ref", 1);
  Operands o(DType::f64);
  ScanForward forward = make_forward(ref, o, c);
  edit(o, forward.taps);
  const ScanBackward backward = make_backward(o, c, forward);
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
    selective_scan_forward(ref, forward);
    return weighted_sum(forward.out, backward.dout) + weighted_sum(forward.pool, pool_weight);
  };
  loss();
  selective_scan_backward(ref, backward);
  const ScanInputs& in = forward.in;
  expect_gradient(in.x, backward.dx, loss, "x");
  expect_gradient(in.dt_raw, backward.ddt_raw, loss, "dt_raw");
  expect_gradient(in.dt_bias, backward.ddt_bias, loss, "dt_bias");
  expect_gradient(in.A, backward.dA, loss, "A");
  expect_gradient(in.B, backward.dB, loss, "B");
  expect_gradient(in.C, backward.dC, loss, "C");
  expect_gradient(in.D, backward.dD, loss, "D");
  expect_gradient(in.z, backward.dz, loss, "z");
  const Tensor starts = Tensor::wrap(start.data(), DType::f64, forward.pool.shape());
  expect_gradient(starts, backward.dpool, loss, "pool");
}

const Case kGradientCase = {{3, 0, 17, 1}, 3, 2, {0, 0, 0, 4}, {1, 2, 3, 4}};

TEST(SelectiveScan, RefGradientsAreThoseOfFiniteDifferences) {
  expect_ref_gradients(kGradientCase, [](Operands&, ScanTaps&) {});
}

TEST(SelectiveScan, RefGradientsThroughEditsAreThoseOfFiniteDifferences) {
  const Case c = {{3, 2}, 2, 2, {0, 0}, {1, 2}};
  for (const EditOp op : {EditOp::set, EditOp::add, EditOp::scale}) {
    for (const ScanPoint p : kPoints) {
      SCOPED_TRACE(fmt::format("point {}, edit {}", static_cast<int>(p), static_cast<int>(op)));
      expect_ref_gradients(c, [&](Operands& o, ScanTaps& taps) { edit_one(o, c, p, op, taps); });
    }
  }
}

// Every point watched, edited and, backward, its gradient taken, each in a part of it.
void tap_parts(Operands& o, const Case& c, ScanTaps& taps, EditOp op) {
  for (const ScanPoint p : kPoints) {
    const Shape shape = c.shape_of(p), held = some_part_shape(shape);
    const TapPart part = some_part(o, shape);
    tap(taps, p) = {.watch = o.assigned(held), .watched = part};
    if (op != EditOp::none) tap(taps, p).edits = {{op, o.input(held, 0.5, 1), part}};
  }
}
void take_gradients(Operands& o, const Case& c, ScanTaps& taps) {
  for (const ScanPoint p : kPoints) {
    const Shape shape = c.shape_of(p);
    tap(taps, p).graded = some_part(o, shape);
    tap(taps, p).gradient = o.assigned(some_part_shape(shape));
  }
}

TEST(SelectiveScan, TapsOfPartsAgreeWithRef) {
  const Case large = {{50, 3}, 70, 20};  // several vectors, groups and blocks of states
  for (const Case& c : {kTapCase, large}) {
    for (const EditOp op : {EditOp::none, EditOp::scale}) {
      expect_backends_agree(
          [&](Device& device, Operands& o) {
            ScanForward forward = make_forward(device, o, c);
            tap_parts(o, c, forward.taps, op);
            ScanBackward backward = make_backward(o, c, forward);
            take_gradients(o, c, backward.taps);
            selective_scan_forward(device, forward);
            selective_scan_backward(device, backward);
          },
          c.tolerance());
    }
  }
}

TEST(SelectiveScan, ThePartThatIsWatchedIsThatOfTheWhole) {
  Device cpu("cpu", 1);
  Operands o(DType::f32), again(DType::f32);
  ScanForward whole = make_forward(cpu, o, kTapCase), parts = make_forward(cpu, again, kTapCase);
  for (const ScanPoint p : kPoints) tap(whole.taps, p).watch = o.assigned(kTapCase.shape_of(p));
  tap_parts(again, kTapCase, parts.taps, EditOp::none);
  selective_scan_forward(cpu, whole);
  selective_scan_forward(cpu, parts);
  EXPECT_EQ(o.outputs()[0].bytes(), again.outputs()[0].bytes());
  for (const ScanPoint p : kPoints) {
    const Tap& t = tap(parts.taps, p);
    EXPECT_EQ(values(t.watch),
              values_of_part(t.watched, tap(whole.taps, p).watch, t.watch.shape()));
  }
}

TEST(SelectiveScan, TakingGradientsOfPointsChangesNoBit) {
  Device cpu("cpu", 2);
  Operands o(DType::f32), again(DType::f32);
  for (Operands* operands : {&o, &again}) {
    ScanForward forward = make_forward(cpu, *operands, kTapCase);
    ScanBackward backward = make_backward(*operands, kTapCase, forward);
    if (operands == &again) take_gradients(again, kTapCase, backward.taps);
    selective_scan_forward(cpu, forward);
    selective_scan_backward(cpu, backward);
  }
  for (size_t i = 0; i < o.outputs().size(); ++i) {
    EXPECT_EQ(o.outputs()[i].bytes(), again.outputs()[i].bytes()) << "output " << i;
  }
}

// The derivative with respect to a number added to the value.
TEST(SelectiveScan, RefGradientsOfPointsAreThoseOfFiniteDifferences) {
  const Case c = {{4, 2}, 3, 3, {0, 0}, {1, 2}};
  Device ref("ref", 1);
  for (const ScanPoint p : kPoints) {
    Operands o(DType::f64);
    ScanForward forward = make_forward(ref, o, c);
    const Tensor added = o.accumulated(c.shape_of(p));
    fill(ref, {added, 0});
    tap(forward.taps, p).edits = {{EditOp::add, added}};
    ScanBackward backward = make_backward(o, c, forward);
    fill(ref, {backward.dpool, 0});
    tap(backward.taps, p).gradient = o.assigned(c.shape_of(p));
    const std::vector<double> pool = values(forward.pool);
    const auto loss = [&] {
      for (size_t i = 0; i < pool.size(); ++i) put(forward.pool, int64_t(i), pool[i]);
      selective_scan_forward(ref, forward);
      return weighted_sum(forward.out, backward.dout);
    };
    loss();
    selective_scan_backward(ref, backward);
    expect_gradient(added, tap(backward.taps, p).gradient, loss,
                    fmt::format("point {}", static_cast<int>(p)));
  }
}

// Tokens [begin, end) of `whole` as one sequence that ends in slot 0.
ScanForward part_of(Device& device, const ScanForward& whole, int64_t begin, int64_t end,
                    int64_t start) {
  ScanForward part = whole;
  part.checkpoints = {};
  part.in.seqs = make_sequences(device, {end - begin}, {start}, {0});
  for (Tensor ScanInputs::*t :
       {&ScanInputs::x, &ScanInputs::dt_raw, &ScanInputs::B, &ScanInputs::C, &ScanInputs::z}) {
    part.in.*t = (whole.in.*t).rows(begin, end);
  }
  part.out = whole.out.rows(begin, end);
  return part;
}

// The sequence as two calls, its state handed over in a slot.
std::vector<double> cut_at(Device& device, const Case& whole, int64_t cut) {
  Operands o(DType::f32);
  const ScanForward a = make_forward(device, o, whole);
  for (const auto& [begin, end] : {std::pair{int64_t{0}, cut}, std::pair{cut, whole.tokens()}}) {
    selective_scan_forward(device, part_of(device, a, begin, end, 0));
  }
  std::vector<double> result = values(a.out);
  for (const double v : values(a.pool)) result.push_back(v);
  return result;
}

TEST(SelectiveScan, StatesAreHandedOverAtAnyToken) {
  const Case c = {{35}, 19, 16, {0}, {0}};
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

// |actual - expected| / |expected|, as lengths of vectors.
double relative_error(const Tensor& actual, const Tensor& expected) {
  const std::vector<double> a = values(actual), e = values(expected);
  double error = 0, size = 0;
  for (size_t i = 0; i < e.size(); ++i) {
    error += (a[i] - e[i]) * (a[i] - e[i]);
    size += e[i] * e[i];
  }
  return size == 0 ? std::sqrt(error) : std::sqrt(error / size);
}

// Many chunks, blocks of channels and blocks of states, at sizes that are no multiples of any.
TEST(SelectiveScan, CudaAgreesWithRefAtSizesChosenToHurt) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  const Case cases[] = {{{100003}, 5, 16, {0}, {0}},
                        {{2047}, 1536, 16, {0}, {1}},
                        {{31, 0, 2047, 1, 33}, 5, 64, {0, 0, -1, 6, 0}, {1, 2, 3, 4, 5}},
                        {{32, 33}, 5120, 8},
                        {{2047}, 1, 1, {0}, {0}},
                        {{3001, 700}, 33, 128, {0, 1}, {0, 1}, 3}};
  Device ref("ref", 1), cuda("cuda");
  uint64_t seed = 100;
  for (const Case& c : cases) {
    ++seed;
    Operands expected(DType::f64, seed), actual(DType::f32, seed, cuda.shared_memory());
    run_both_directions(ref, expected, c);
    run_both_directions(cuda, actual, c);
    cuda.synchronize();
    actual.expect_guards_intact();
    for (size_t i = 0; i < actual.outputs().size(); ++i) {
      EXPECT_LE(relative_error(actual.outputs()[i].tensor(), expected.outputs()[i].tensor()), 4e-6)
          << c.tokens() << " tokens, " << c.d_inner << " channels, " << c.d_state
          << " states: output " << i;
    }
  }
}

// The length of the error that is left where an exact result is rounded to the dtype.
double rounding_error(const Tensor& exact, DType dtype) {
  double error = 0, size = 0;
  for (const double v : values(exact)) {
    error += std::pow(rounded_to(dtype, v) - v, 2);
    size += v * v;
  }
  return size == 0 ? 0 : std::sqrt(error / size);
}

// Activations of 16 bits: all that is left is the rounding of the results, and of float32.
TEST(SelectiveScan, CudaOnSixteenBitsIsAsGoodAsRoundingTheResult) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  const Case cases[] = {packed(65, 16),
                        packed(48, 5, 3),
                        {{5003}, 40, 16, {0}, {0}},
                        {{700, 0, 333}, 128, 16, {0, -1, 3}, {1, -1, 2}, 8},
                        {{700}, 1536, 16, {0}, {0}},
                        {{333}, 33, 64, {0}, {0}},
                        {{333}, 24, 128}};
  Device ref("ref", 1), cuda("cuda");
  uint64_t seed = 200;
  for (const DType dtype : {DType::bf16, DType::f16}) {
    for (const Case& c : cases) {
      ++seed;
      Operands expected(DType::f64, seed, host_memory(), dtype);
      run_both_directions(ref, expected, c);
      std::vector<std::vector<uint8_t>> first;
      for (const bool again : {false, true}) {
        Operands actual(DType::f32, seed, cuda.shared_memory(), dtype);
        run_both_directions(cuda, actual, c);
        cuda.synchronize();
        actual.expect_guards_intact();
        for (size_t i = 0; i < actual.outputs().size(); ++i) {
          const Tensor &a = actual.outputs()[i].tensor(), &e = expected.outputs()[i].tensor();
          if (again) {
            EXPECT_EQ(actual.outputs()[i].bytes(), first[i]) << "output " << i;
          } else {
            EXPECT_LE(relative_error(a, e), 1.1 * rounding_error(e, a.dtype()) + 4e-6)
                << name_of(dtype) << ", " << c.tokens() << " tokens, " << c.d_inner << " channels, "
                << c.d_state << " states: output " << i;
            first.push_back(actual.outputs()[i].bytes());
          }
        }
      }
    }
  }
}

// As decoding has them: nothing is kept for backward.
TEST(SelectiveScan, OneTokenOfEachSequenceAgreesWithRef) {
  const Case cases[] = {{{1}, 130, 16, {0}, {0}},
                        {{1, 1, 1, 1, 1}, 33, 16, {0, 0, -1, 3, 4}, {1, 2, 5, -1, 4}, 3},
                        {{1, 0, 1}, 48, 16, {0, 1, 2}, {0, 1, 2}},
                        {{1, 1}, 7, 1, {0, 1}, {0, 1}},
                        {{1}, 40, 6, {2}, {2}},
                        {{1}, 17, 64, {0}, {0}, 5},
                        {{1, 1}, 5, 130, {0, 1}, {0, 1}}};
  for (const Case& c : cases) {
    SCOPED_TRACE(fmt::format("d_inner {}, d_state {}", c.d_inner, c.d_state));
    const auto call = [&](Device& device, Operands& o) {
      ScanForward forward = make_forward(device, o, c);
      forward.checkpoints = {};
      for (int step = 0; step < 3; ++step) selective_scan_forward(device, forward);
    };
    expect_backends_agree(call, 3 * c.forward_tolerance());
    expect_cuda_agrees(call, 3 * c.forward_tolerance(), 1, DType::f32, Guarded::kAligned);
    expect_cuda_agrees_in_bf16(call, 3 * c.forward_tolerance());
  }
}

// The bits of a walk, which writes checkpoints or is looked at.
TEST(SelectiveScan, CudaStepsHaveTheBitsOfAWalk) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  Device cuda("cuda");
  for (const int64_t d_state : {6, 16, 64, 128}) {
    const Case c = {{1, 1}, 37, d_state, {0, 1}, {0, 1}};
    Operands stepped(DType::f32, 1, cuda.shared_memory()),
        walked(DType::f32, 1, cuda.shared_memory());
    ScanForward step = make_forward(cuda, stepped, c);
    step.checkpoints = {};
    selective_scan_forward(cuda, step);
    selective_scan_forward(cuda, make_forward(cuda, walked, c));
    cuda.synchronize();
    for (size_t i = 0; i < stepped.outputs().size(); ++i) {
      EXPECT_EQ(stepped.outputs()[i].bytes(), walked.outputs()[i].bytes()) << d_state;
    }
  }
}

TEST(SelectiveScan, CudaTakesUpTo256States) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  const Case c = packed(9, 257);
  Device cuda("cuda");
  Operands o(DType::f32, 1, cuda.shared_memory());
  EXPECT_THROW(run_both_directions(cuda, o, c), Error);
}

// Watchers and edits that leave values as they are, over several chunks.
TEST(SelectiveScan, CudaTapsChangeNoBit) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  Device cuda("cuda");
  const Case c = {{700, 3}, 17, 5, {0, 1}, {0, 1}};
  Operands o(DType::f32, 1, cuda.shared_memory()), watched(DType::f32, 1, cuda.shared_memory()),
      edited(DType::f32, 1, cuda.shared_memory());
  const ScanForward a = make_forward(cuda, o, c);
  ScanForward b = make_forward(cuda, watched, c), d = make_forward(cuda, edited, c);
  for (const ScanPoint p : kPoints) tap(b.taps, p).watch = watched.assigned(c.shape_of(p));
  selective_scan_forward(cuda, a);
  selective_scan_forward(cuda, b);
  for (const ScanPoint p : kPoints) tap(d.taps, p).edits = {{EditOp::set, tap(b.taps, p).watch}};
  selective_scan_forward(cuda, d);
  cuda.synchronize();
  for (size_t i = 0; i < o.outputs().size(); ++i) {
    EXPECT_EQ(o.outputs()[i].bytes(), watched.outputs()[i].bytes()) << "output " << i;
    EXPECT_EQ(o.outputs()[i].bytes(), edited.outputs()[i].bytes()) << "output " << i;
  }
}

// Calls of one token each, as in decoding, take another way through the kernel to the same bits.
TEST(SelectiveScan, StepsGiveTheBitsOfTheScan) {
  for (const int64_t d_state : {16, 24, 32, 5}) {
    for (const int64_t start : {Sequences::kNoSlot, int64_t{0}}) {
      const Case c = {{3}, 35, d_state, {0}, {0}};
      Device cpu("cpu", 1);
      Operands o(DType::f32), again(DType::f32);
      ScanForward whole = make_forward(cpu, o, c), steps = make_forward(cpu, again, c);
      whole.in.seqs = make_sequences(cpu, {3}, {start}, {0});
      whole.checkpoints = {};
      selective_scan_forward(cpu, whole);
      for (int64_t t = 0; t < 3; ++t) {
        selective_scan_forward(cpu, part_of(cpu, steps, t, t + 1, t == 0 ? start : 0));
      }
      again.expect_guards_intact();
      EXPECT_EQ(values(whole.out), values(steps.out)) << d_state << " states";
      EXPECT_EQ(values(whole.pool), values(steps.pool)) << d_state << " states";
    }
  }
}

}  // namespace
}  // namespace elapse
