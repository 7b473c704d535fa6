// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/universal_and.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "elapse/autograd/functions.h"
#include "elapse/experiments/universal_and_tables.h"
#include "elapse/io/json.h"

namespace elapse {
namespace {

AndNetSettings small_net() {
  AndNetSettings s;
  s.d0 = 10;
  s.d = 40;
  s.ones = 3;
  s.targets = 12;
  s.steps = 400;
  s.batch = 50;
  s.lr = 1e-2;
  s.test_inputs = 300;
  return s;
}

UniversalAndSettings small_settings() {
  UniversalAndSettings s;
  s.construction.d0 = {24, 32};
  s.construction.d = {256, 1024};
  s.construction.p_sqrt_d = {1.28, 2.56, 3.62};
  s.construction.inputs = 200;
  s.readouts.d0 = 16;
  s.readouts.widths = {32};
  s.readouts.pairs = 2;
  s.readouts.train = {40, 40, 9};
  s.readouts.test = {20, 20, 4};
  s.net = small_net();
  s.net.steps = 20;
  return s;
}

UniversalAndResult run_small(const UniversalAndSettings& settings, int threads) {
  Device device("cpu", threads);
  UniversalAndResult result = run_universal_and(device, settings, [](const ExperimentProgress&) {});
  result.construction_seconds = result.readout_seconds = result.training_seconds = 0;
  return result;
}

// The loss by a net whose numbers one can move.
struct LossOfNet {
  Device device{"ref"};
  AndNetSettings settings = small_net();
  std::vector<Pair> targets = draw_targets(settings, 1);
  std::vector<OnList> inputs;
  AndNet net{device, 10, 40, 12, DType::f64, true, 1};

  LossOfNet() {
    Random random(3);
    inputs = draw_inputs(random, settings, 20);
  }
  double loss(bool backward) {
    net.parameters().zero_grad(device);
    Tape tape(device);
    const Var y = net.forward(tape, device.upload(as_rows<double>(inputs, 10), {20, 10}));
    const double loss = pair_loss<double>(device, y, settings, targets, inputs);
    if (backward) tape.backward();
    return loss;
  }
};

TEST(AndNet, GradientsAreFiniteDifferences) {
  LossOfNet of;
  for (const PairLoss loss : {PairLoss::together, PairLoss::by_truth, PairLoss::by_class}) {
    for (const PairTarget target : {PairTarget::and_, PairTarget::xor_}) {
      of.settings.loss = loss;
      of.settings.target = target;
      of.loss(true);
      for (const Parameter& p : of.net.parameters().all()) {
        double* const values = p.var.value().data<double>();
        for (int64_t i = 0; i < p.var.value().numel(); i += 7) {
          const double gradient = p.var.grad().data<double>()[i], kept = values[i], step = 1e-6;
          double around[2];
          Device& device = of.device;
          for (const int side : {0, 1}) {
            values[i] = kept + (side == 0 ? -step : step);
            Tape tape(device, false);
            around[side] = pair_loss<double>(
                device,
                of.net.forward(tape, device.upload(as_rows<double>(of.inputs, 10), {20, 10})),
                of.settings, of.targets, of.inputs);
          }
          values[i] = kept;
          EXPECT_NEAR(gradient, (around[1] - around[0]) / (2 * step), 1e-7) << p.name << " " << i;
        }
      }
    }
  }
}

TEST(AndNet, TheLossesByTheirDefinitions) {
  Device device("ref");
  AndNetSettings s = small_net();
  const std::vector<Pair> targets = {{0, 1}, {0, 2}};
  const std::vector<OnList> inputs = {{0, 1}, {5}};  // both, one; neither, neither
  const auto loss_of = [&](PairLoss loss, PairTarget target) {
    s.loss = loss;
    s.target = target;
    const Var y(device.upload(std::vector<double>{0.5, 0.25, 0.5, -0.5}, {2, 2}));
    return pair_loss<double>(device, y, s, targets, inputs);
  };
  EXPECT_DOUBLE_EQ(loss_of(PairLoss::together, PairTarget::and_),
                   std::sqrt((0.25 + 0.0625 + 0.25 + 0.25) / 4));
  EXPECT_DOUBLE_EQ(loss_of(PairLoss::by_truth, PairTarget::and_),
                   0.5 + std::sqrt((0.0625 + 0.25 + 0.25) / 3));
  EXPECT_DOUBLE_EQ(loss_of(PairLoss::by_class, PairTarget::and_), 0.25 + 0.0625 + 0.25);
  EXPECT_DOUBLE_EQ(loss_of(PairLoss::by_class, PairTarget::xor_), 0.25 + 0.5625 + 0.25);
}

TEST(AndNet, TargetsAreDifferentPairs) {
  AndNetSettings s = small_net();
  for (const int64_t wanted : {int64_t{0}, int64_t{12}, int64_t{45}}) {
    s.targets = wanted;
    const std::vector<Pair> targets = draw_targets(s, 4);
    EXPECT_EQ(std::ssize(targets), wanted == 0 ? 45 : wanted);
    std::set<std::pair<int64_t, int64_t>> seen;
    for (const Pair pair : targets) {
      EXPECT_LT(pair.i, pair.j);
      EXPECT_LT(pair.j, s.d0);
      EXPECT_TRUE(seen.insert({pair.i, pair.j}).second);
    }
  }
  EXPECT_NEAR(AndNetSettings().expected_ones(), 4.6036, 1e-4);  // 2 sqrt(ln 200)
}

TEST(AndNet, TrainingReadsBetterThanALayerAsDrawnAndThanX) {
  Device device("cpu", 2);
  for (const PairTarget target : {PairTarget::and_, PairTarget::xor_}) {
    AndNetSettings s = small_net();
    s.target = target;
    const auto nets = train_and_nets(device, s, 1, [](const std::string&, int64_t, double) {});
    ASSERT_EQ(nets.size(), 4u);
    EXPECT_EQ(std::ssize(nets[0].losses), s.steps);
    double of_x = 0;
    for (const double e : linear_read_errors(target)) of_x += e * e / kPairClasses;
    EXPECT_LT(balanced_mean_square(nets[0].errors), 0.5 * of_x);
    EXPECT_LT(balanced_mean_square(nets[0].errors), balanced_mean_square(nets[1].errors));
    const double truth_of_one = truth(target, kOne);
    EXPECT_EQ(nets[3].errors[kOne].mean(), -truth_of_one);  // always 0
    EXPECT_NEAR(shape_of(nets[2].W).bimodality(), 1, 1e-6);
    EXPECT_NEAR(shape_of(nets[1].W).bimodality(), 5.0 / 9, 0.05);  // uniform as drawn
  }
}

TEST(UniversalAnd, TheBestLinearReadOutOfXIsTheDerivedOne) {
  for (const PairTarget target : {PairTarget::and_, PairTarget::xor_}) {
    const auto sum = [&](double at_none, double slope) {
      double squares = 0;
      for (int on = 0; on < kPairClasses; ++on) {
        squares += std::pow(at_none + slope * on - truth(target, on), 2);
      }
      return squares;
    };
    const auto errors = linear_read_errors(target);
    const double at_none = errors[0], slope = errors[1] + truth(target, 1) - errors[0];
    EXPECT_NEAR(errors[2], at_none + 2 * slope - truth(target, 2), 1e-15);
    for (const double step : {-1e-3, 1e-3}) {
      EXPECT_GT(sum(at_none + step, slope), sum(at_none, slope));
      EXPECT_GT(sum(at_none, slope + step), sum(at_none, slope));
    }
  }
}

TEST(UniversalAnd, TheSameBitsOnAnyNumberOfThreads) {
  const UniversalAndSettings s = small_settings();
  UniversalAndResult one = run_small(s, 1);
  const UniversalAndResult three = run_small(s, 3);
  EXPECT_NE(one.device, three.device);  // which tells their number
  one.device = three.device;
  EXPECT_EQ(universal_and_json(s, one), universal_and_json(s, three));
}

TEST(UniversalAnd, SeedsGiveMediansAndRanges) {
  UniversalAndSettings s = small_settings();
  s.seeds = 3;
  const UniversalAndResult result = run_small(s, 2);
  ASSERT_EQ(result.seeds.size(), 3u);
  EXPECT_NE(result.seeds[0].construction[0].errors.and_[kOne].sum,
            result.seeds[1].construction[0].errors.and_[kOne].sum);
  const Spread spread =
      spread_of(result, [](const auto& run) { return static_cast<double>(run.seed); });
  EXPECT_EQ(spread.median, 2);
  EXPECT_EQ(spread.least, 1);
  EXPECT_EQ(spread.largest, 3);
  const std::vector<Table> tables = universal_and_tables(s, result);
  ASSERT_EQ(tables.size(), 4u);
  for (const Table& table : tables) EXPECT_NE(table.text().find(" ["), std::string::npos);
  const Json json = Json::parse(universal_and_json(s, result), "result");
  EXPECT_EQ(json.at("seeds").items().size(), 3u);
  EXPECT_NE(universal_and_report(s, result).html().find("Layers drawn at random"),
            std::string::npos);
}

TEST(UniversalAnd, TheBestPLeavesFewPairsEmpty) {
  UniversalAndSettings s = small_settings();
  const UniversalAndResult result = run_small(s, 2);
  const auto& run = result.seeds.front();
  const auto* const best = run.best(32, 1024, 0.01);
  ASSERT_NE(best, nullptr);
  EXPECT_NEAR(best->p, 2.56 / 32, 1e-12);
  EXPECT_EQ(run.best(32, 77, 0.01), nullptr);
  EXPECT_NEAR(run.slope(32, 0.01), -0.5, 0.1);
  EXPECT_TRUE(std::isnan(run.slope(77, 0.01)));
}

TEST(UniversalAnd, NonsenseIsRefused) {
  Device device("cpu", 1);
  const auto refused = [&](auto&& change) {
    UniversalAndSettings s = small_settings();
    change(s);
    EXPECT_THROW(run_universal_and(device, s, [](const ExperimentProgress&) { FAIL(); }), Error);
  };
  EXPECT_NO_THROW(small_settings().check());
  refused([](auto& s) { s.seeds = 0; });
  refused([](auto& s) { s.construction.d0 = {}; });
  refused([](auto& s) { s.construction.d0 = {2}; });  // 3 are on
  refused([](auto& s) { s.construction.d = {0}; });
  refused([](auto& s) { s.construction.p_sqrt_d = {0}; });
  refused([](auto& s) { s.construction.p_sqrt_d = {17}; });  // p > 1 for d = 256
  refused([](auto& s) { s.construction.inputs = 1; });
  refused([](auto& s) { s.construction.empty_allowed = 2; });
  refused([](auto& s) { s.readouts.pairs = 0; });
  refused([](auto& s) { s.net.targets = 46; });  // of 45 pairs
  refused([](auto& s) { s.net.ones = 11; });
  refused([](auto& s) { s.net.steps = 0; });
  refused([](auto& s) { s.net.lr = 0; });
  refused([](auto& s) { s.net.batch = 0; });
  refused([](auto& s) { s.net.d = 0; });
}

}  // namespace
}  // namespace elapse
