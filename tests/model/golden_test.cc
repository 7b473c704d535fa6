// SPDX-License-Identifier: Apache-2.0
// Published checkpoints against an implementation that shares no code with elapse: logits, every
// named point, losses, gradients, training, states, edits; in parallel and token by token.
#include "tests/model/golden.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "elapse/optim/adamw.h"

namespace elapse {
namespace {

// Calls visit("layers.0.h", pool) and so on for every part of a state.
template <class Visit>
void for_each_part(const State& state, Visit&& visit) {
  for (size_t l = 0; l < state.layers().size(); ++l) {
    for (const StatePart& part : state.layers()[l].parts) {
      visit(fmt::format("layers.{}.{}", l, part.name), part.pool);
    }
  }
}

class GoldenTest : public testing::TestWithParam<GoldenCase> {
 protected:
  bool in_double() const { return GetParam().dtype == DType::f64; }
  double tolerance() const { return in_double() ? 1e-12 : 1e-5; }

  void expect_near(const std::string& name, const Tensor& found) {
    golden_.expect_near(name, found, tolerance());
  }
  // Names of named points expected under `start`; without states at the end, which are none.
  std::vector<std::string> point_names(const std::string& start) const {
    std::vector<std::string> names = golden_.expected_after(start);
    std::erase_if(names, [](const std::string& name) { return name.ends_with("_last"); });
    return names;
  }
  void watch_all(Points& points, const std::string& start) const {
    for (const std::string& name : point_names(start)) points.watch(name);
  }
  void expect_points(const Points& points, const std::string& start) {
    for (const std::string& name : point_names(start)) {
      const bool each_head =
          golden_.expected().at(start + name).numel() > points.value(name).numel();
      expect_near(start + name, each_head ? by_head(points.value(name)) : points.value(name));
    }
  }
  // Mamba-2's B or C, of groups of heads, once for each head: (tokens, n_heads, d_state).
  Tensor by_head(const Tensor& of_groups) {
    const ModelConfig& c = model_.config();
    const int64_t tokens = of_groups.dim(0), heads = c.n_heads() / c.n_groups;
    const Tensor all = device_.empty(of_groups.dtype(), {tokens * c.n_groups, heads, c.d_state});
    const Tensor rows = device_.empty(of_groups.dtype(), of_groups.shape());
    copy(device_, {of_groups, rows});
    for (int64_t r = 0; r < tokens * c.n_groups; ++r) {
      for (int64_t k = 0; k < heads; ++k) {
        copy(device_, {rows.reshape({tokens * c.n_groups, c.d_state}).rows(r, r + 1),
                       all.reshape({tokens * c.n_heads(), c.d_state})
                           .rows(r * heads + k, r * heads + k + 1)});
      }
    }
    return all;
  }
  // One backward pass of the next-token loss, which is returned; gradients start from zeros.
  Tensor backward(Tape& tape, const Var& logits, const std::string& prefix) {
    model_.parameters().zero_grad(device_);
    const Var loss = cross_entropy(tape, logits, golden_.targets(prefix));
    tape.backward(loss);
    return loss.value();
  }
  void expect_gradients(const std::string& start) {
    for (const Parameter& p : model_.parameters().all()) expect_near(start + p.name, p.var.grad());
  }
  void check_batch();

  Golden golden_{GetParam()};
  Device& device_ = golden_.device();
  const LanguageModel& model_ = golden_.model();
};

// The batch of whole rows, each from zeros into a slot of its own.
void GoldenTest::check_batch() {
  State state = model_.make_state(2);
  Points points;
  watch_all(points, "point.");
  Tape tape(device_);
  const Var logits = model_.forward(tape, golden_.batch("", {-1, -1}, {0, 1}), &state, &points);
  expect_near("logits", logits.value());
  expect_points(points, "point.");
  expect_near("loss", backward(tape, logits, ""));
  expect_gradients("grad.");
  for_each_part(state, [&](std::string name, const Var& pool) {
    const std::string last = "point." + name.insert(name.rfind('.') + 1, "mixer.") + "_last";
    if (golden_.expected().find(last)) expect_near(last, pool.value());
  });
}

TEST_P(GoldenTest, BatchInParallel) { check_batch(); }

TEST_P(GoldenTest, BatchTokenByToken) {
  const ScopedEnvironment step("ELAPSE_VERIFY", "step");
  check_batch();
  EXPECT_EQ(model_.path_counts().parallel, 0);
}

// As decoding does: one call a token, the rows' states in slots 1 and 0.
TEST_P(GoldenTest, DecodingGivesTheSameLogits) {
  const Tensor& ids = golden_.expected().at("input_ids");
  const int64_t len = ids.dim(1), vocab = model_.config().vocab();
  State state = model_.make_state(2);
  const Tensor logits = device_.empty(model_.dtype(), {2 * len, vocab});
  for (int64_t t = 0; t < len; ++t) {
    Tape tape(device_, false);
    const std::vector<int64_t> now = {ids.data<int64_t>()[t], ids.data<int64_t>()[len + t]};
    const Batch batch = {
        device_.upload(now, {2}), make_sequences(device_, {1, 1}, {1, 0}, {1, 0}), {}};
    const Tensor two = model_.forward(tape, batch, &state).value();
    for (int64_t row : {0, 1}) {
      copy(device_, {two.rows(row, row + 1), logits.rows(row * len + t, row * len + t + 1)});
    }
  }
  expect_near("logits", logits);
  EXPECT_EQ(state.position(0), len);
}

TEST_P(GoldenTest, GreedyContinuationIsExact) {
  const std::vector<int64_t> expected = integers(golden_.expected().at("greedy"));
  std::vector<int64_t> tokens(expected.begin(), expected.begin() + 8);
  State state = model_.make_state(1);
  std::vector<int64_t> next = tokens;
  while (tokens.size() < expected.size()) {
    Tape tape(device_, false);
    const auto count = static_cast<int64_t>(next.size());
    const Batch batch = {device_.upload(next, {count}), make_sequences(device_, {count}, {0}, {0}),
                         device_.upload(std::vector<int64_t>{count - 1}, {1})};
    const auto logits = numbers(device_, model_.forward(tape, batch, &state).value());
    const auto classes = logits.begin() + model_.config().vocab_size;
    next = {std::max_element(logits.begin(), classes) - logits.begin()};
    tokens.push_back(next.front());
  }
  EXPECT_EQ(tokens, expected);
}

TEST_P(GoldenTest, TenTrainingSteps) {
  AdamWOptimizer optimizer(device_, model_.parameters(), AdamWConfig{});
  const Tensor losses = device_.empty(model_.dtype(), {10});
  for (int64_t step = 0; step < 10; ++step) {
    Tape tape(device_);
    const Var logits = model_.forward(tape, golden_.batch(""));
    copy(device_, {backward(tape, logits, ""), losses.rows(step, step + 1)});
    optimizer.measure_gradients();
    optimizer.update(1e-3);
  }
  expect_near("train.losses", losses);
  if (!in_double()) return;  // AdamW amplifies the rounding of near-zero gradients
  for (const Parameter& p : model_.parameters().all()) {
    golden_.expect_near("train." + p.name, p.var.value(), 1e-10);
  }
}

// The packed case's sequences start and end in these slots of a state of kSlots.
constexpr int64_t kSlots = 6;
const std::vector<int64_t> kStartSlots = {2, 0, 4};
const std::vector<int64_t> kEndSlots = {3, 1, 4};

// What tests/fixtures has beyond the shared goldens: packed sequences that go on from given states,
// and edits.
class FixtureTest : public GoldenTest {
 protected:
  // Rows of a pool in the slots' order: (n_seqs, ...).
  Tensor in_slots(const Tensor& pool, const std::vector<int64_t>& slots) {
    Shape shape = pool.shape();
    shape.set(0, static_cast<int64_t>(slots.size()));
    const Tensor rows = device_.empty(pool.dtype(), shape);
    for (size_t i = 0; i < slots.size(); ++i) {
      const auto to = static_cast<int64_t>(i);
      copy(device_, {pool.rows(slots[i], slots[i] + 1), rows.rows(to, to + 1)});
    }
    return rows;
  }
  // The state after the tokens that come before attention's packed sequences.
  State state_after_past() {
    State state = model_.make_state(kSlots);
    const std::vector<int64_t> all = integers(golden_.expected().at("packed.past_ids"));
    const std::vector<int64_t> lengths = integers(golden_.expected().at("packed.past_lengths"));
    const std::vector<int64_t> none(lengths.size(), Sequences::kNoSlot);
    Tape tape(device_, false);
    model_.forward(tape,
                   {device_.upload(all, {std::ssize(all)}),
                    make_sequences(device_, lengths, none, kStartSlots),
                    {}},
                   &state);
    return state;
  }
  State packed_start() {
    if (golden_.expected().find("packed.past_ids")) return state_after_past();
    State state = model_.make_state(kSlots, true);
    for (size_t s = 0; s < kStartSlots.size(); ++s) {
      golden_.fill_slot(state, kStartSlots[s], "packed.start.", static_cast<int64_t>(s));
    }
    return state;
  }

  void check_packed();
  void check_edits();
  void check_edit(const std::string& point);
};

void FixtureTest::check_packed() {
  State state = packed_start();
  Points points;
  watch_all(points, "packed.point.");
  Tape tape(device_);
  const Batch batch = golden_.batch("packed.", kStartSlots, kEndSlots);
  const Var logits = model_.forward(tape, batch, &state, &points);
  expect_near("packed.logits", logits.value());
  expect_points(points, "packed.point.");
  for_each_part(state, [&](const std::string& name, const Var& pool) {
    expect_near("packed.end." + name, in_slots(pool.value(), kEndSlots));
  });
  expect_near("packed.loss", backward(tape, logits, "packed."));
  expect_gradients("packed.grad.");
  for_each_part(state, [&](const std::string& name, const Var& pool) {
    expect_near("packed.grad.start." + name, in_slots(pool.grad(), kStartSlots));
  });
}

TEST_P(FixtureTest, PackedInParallel) { check_packed(); }

TEST_P(FixtureTest, PackedTokenByToken) {
  const ScopedEnvironment step("ELAPSE_VERIFY", "step");
  check_packed();
}

// Logits, and gradients of the parameters with one axis, when every value passing `point` is
// doubled.
void FixtureTest::check_edit(const std::string& point) {
  State state = packed_start();
  const Tensor two = device_.empty(model_.dtype(), {1});
  fill(device_, {two, 2});
  Points points;
  points.edit({point, EditOp::scale, two});
  Tape tape(device_);
  const Batch batch = golden_.batch("packed.", kStartSlots, kEndSlots);
  const Var logits = model_.forward(tape, batch, &state, &points);
  const std::string start = "edited." + point;
  expect_near(start + ".logits", logits.value());
  backward(tape, logits, "packed.");
  // Doubled points push the softmax to its ends: gradients are small differences of large terms.
  const double looser = in_double() ? tolerance() : 5 * tolerance();
  for (const Parameter& p : model_.parameters().all()) {
    if (p.var.value().shape().rank() != 1) continue;
    golden_.expect_near(start + ".grad." + p.name, p.var.grad(), looser);
  }
}

void FixtureTest::check_edits() {
  const std::string layer = "layers.1.";
  for (const PointInfo& point : model_.points()) {
    if (point.name.starts_with(layer)) check_edit(point.name);
  }
}

TEST_P(FixtureTest, DoublingInParallel) { check_edits(); }

TEST_P(FixtureTest, DoublingTokenByToken) {
  const ScopedEnvironment step("ELAPSE_VERIFY", "step");
  check_edits();
}

// So that no point is left out of the fixtures.
TEST_P(FixtureTest, EveryPointOfLayerOneIsExpected) {
  for (const PointInfo& point : model_.points()) {
    if (!point.name.starts_with("layers.1.")) continue;
    EXPECT_NE(golden_.expected().find("packed.point." + point.name), nullptr) << point.name;
    EXPECT_NE(golden_.expected().find("edited." + point.name + ".logits"), nullptr) << point.name;
  }
}

std::string test_name(const testing::TestParamInfo<GoldenCase>& golden) {
  return name_of(golden.param);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, GoldenTest, testing::ValuesIn(golden_cases(kFixtures)),
                         test_name);
INSTANTIATE_TEST_SUITE_P(Shared, GoldenTest, testing::ValuesIn(golden_cases(kSharedGoldens)),
                         test_name);
INSTANTIATE_TEST_SUITE_P(Fixtures, FixtureTest, testing::ValuesIn(golden_cases(kFixtures)),
                         test_name);

TEST(SharedGoldens, AreThere) {
  if (golden_cases(kSharedGoldens).empty()) GTEST_SKIP() << "there is no " << kSharedGoldens;
}

}  // namespace
}  // namespace elapse
