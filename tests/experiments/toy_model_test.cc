// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/toy_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "elapse/core/parallel.h"
#include "elapse/experiments/toy_geometry.h"

namespace elapse {
namespace {

using Kind = ToyTask::Kind;

ToyTask plane(double ratio, double probability) {
  return {Kind::reconstruct, 2, falling_importance(5, ratio), probability};
}

ToyTraining training(int64_t steps, int64_t batch) {
  return {batch, steps, {.kind = Schedule::Kind::cosine, .peak_lr = 1e-2}};
}

// Five vectors of `norm`, one every 72 degrees: (2, 5).
std::vector<double> pentagon(double norm) {
  std::vector<double> W(10);
  for (size_t i = 0; i < 5; ++i) {
    const double angle = 2 * std::numbers::pi * static_cast<double>(i) / 5;
    W[i] = norm * std::cos(angle);
    W[5 + i] = norm * std::sin(angle);
  }
  return W;
}

TEST(ToyInputs, AreOnAsOftenAsAskedAndThenUniform) {
  constexpr int64_t kCount = 200'000;
  for (const Kind kind : {Kind::reconstruct, Kind::absolute_value}) {
    for (const double p : {1.0, 0.3, 0.01}) {
      const ToyTask task = {kind, 2, {1}, p};
      Random random(7);
      const double lo = kind == Kind::absolute_value ? -1 : 0;
      double on = 0, sum = 0, squares = 0;
      for (const float x : draw_inputs(task, kCount, random)) {
        ASSERT_GE(x, lo);
        ASSERT_LE(x, 1);
        on += x != 0;
        sum += x;
        squares += double(x) * x;
      }
      const double width = 1 - lo;
      EXPECT_NEAR(on / kCount, p, 5 * std::sqrt(p * (1 - p) / kCount) + 1e-6);
      EXPECT_NEAR(sum / on, (1 + lo) / 2, 5 * width / std::sqrt(12 * on));
      EXPECT_NEAR(squares / on, 1.0 / 3, 5 * 0.3 / std::sqrt(on));  // its deviation is sqrt(4/45)
    }
  }
}

TEST(ToyInputs, ComeFromTheRandomNumbersInTurn) {
  const ToyTask task = plane(1, 0.5);
  Random together(3), apart(3);
  std::vector<float> first = draw_inputs(task, 4, apart);
  const std::vector<float> second = draw_inputs(task, 2, apart);
  first.insert(first.end(), second.begin(), second.end());
  EXPECT_EQ(draw_inputs(task, 6, together), first);
}

TEST(ToyGeometry, OfTheIdentityIsADimensionAFeature) {
  const FeatureGeometry g = geometry_of({1, 0, 0, 1}, 2, 2);
  EXPECT_EQ(g.gram, (std::vector<double>{1, 0, 0, 1}));
  EXPECT_EQ(g.norm, (std::vector<double>{1, 1}));
  EXPECT_EQ(g.superposition, (std::vector<double>{0, 0}));
  EXPECT_EQ(g.dimensionality, (std::vector<double>{1, 1}));
  EXPECT_EQ(g.dimensions_per_feature, 1);
}

TEST(ToyGeometry, OfAntipodalPairsIsHalfADimension) {
  const std::vector<double> W = {2, -2, 0, 0,  //
                                 0, 0,  2, -2};
  const FeatureGeometry g = geometry_of(W, 2, 4);
  EXPECT_EQ(g.norm, (std::vector<double>(4, 2)));
  EXPECT_EQ(g.superposition, (std::vector<double>(4, 4)));
  EXPECT_EQ(g.dimensionality, (std::vector<double>(4, 0.5)));
  EXPECT_EQ(g.frobenius_squared, 16);
  EXPECT_EQ(shape_of(around_the_circle(W, 4)), "2 antipodal pairs");
}

TEST(ToyGeometry, OfThePentagonIsTwoFifths) {
  const FeatureGeometry g = geometry_of(pentagon(1.5), 2, 5);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_NEAR(g.norm[i], 1.5, 1e-12);
    EXPECT_NEAR(g.dimensionality[i], 0.4, 1e-12);
    EXPECT_NEAR(g.superposition[i], 1.5 * 1.5 * 1.5, 1e-12);  // |W_i|^2 (1 / D - 1)
  }
  for (const PlaneVector& v : around_the_circle(pentagon(1.5), 5)) EXPECT_NEAR(v.to_next, 72, 1e-9);
  EXPECT_EQ(shape_of(around_the_circle(pentagon(1.5), 5)), "pentagon");
}

TEST(ToyGeometry, AFeatureWithoutAVectorHasNoDimension) {
  const FeatureGeometry g = geometry_of({1, 0, 0, 0}, 2, 2);
  EXPECT_EQ(g.dimensionality, (std::vector<double>{1, 0}));
  EXPECT_EQ(g.superposition, (std::vector<double>{0, 0}));
  EXPECT_EQ(represented(g), 1);
  EXPECT_EQ(around_the_circle({1, 0, 0, 0}, 2).front().to_next, 360);
}

TEST(ToyGeometry, ShapesHaveNames) {
  const auto shape = [](const std::vector<double>& W) {
    return shape_of(around_the_circle(W, std::ssize(W) / 2));
  };
  EXPECT_EQ(shape({0.1, 0.1}), "nothing");
  EXPECT_EQ(shape({1, 0}), "one vector");
  EXPECT_EQ(shape({1, 0, 0, 1}), "orthogonal pair");
  EXPECT_EQ(shape({1, -1, 0, 0}), "antipodal pair");
  EXPECT_EQ(shape({1, 1, 0, 0.5}), "irregular");
  EXPECT_EQ(shape({1, -1, 0, 0, 0, 1}), "antipodal pair and one across");
  EXPECT_EQ(shape({1, -0.5, -0.5, 0, 0.866, -0.866}), "triangle");
}

// The gradient of the loss by every parameter, against central differences.
void expect_gradient(Kind kind) {
  Device device("ref");
  const ToyTask task = {kind, 3, falling_importance(6, 0.7), 0.6};
  const ToyModel model(device, task, DType::f64, Random(5));
  Random random(6);
  for (const Parameter& p : model.parameters().all()) {  // away from kinks, and b not all alike
    for (int64_t i = 0; i < p.var.value().numel(); ++i) {
      p.var.value().data<double>()[i] += random.uniform(-0.4, 0.6);
    }
  }
  const std::vector<float> inputs = draw_inputs(task, 9, random);
  const auto loss = [&] {
    Tape tape(device, false);
    return model.loss(tape, inputs).value().data<double>()[0];
  };
  model.parameters().zero_grad(device);
  Tape tape(device);
  tape.backward(model.loss(tape, inputs));
  for (const Parameter& p : model.parameters().all()) {
    for (int64_t i = 0; i < p.var.value().numel(); ++i) {
      constexpr double kStep = 1e-6;
      double& value = p.var.value().data<double>()[i];
      const double kept = value;
      value = kept + kStep;
      const double above = loss();
      value = kept - kStep;
      const double below = loss();
      value = kept;
      EXPECT_NEAR(p.var.grad().data<double>()[i], (above - below) / (2 * kStep), 1e-7)
          << p.name << " " << i;
    }
  }
}

TEST(ToyModel, TheLossHasTheGradientOfItsDifferences) {
  expect_gradient(Kind::reconstruct);
  expect_gradient(Kind::absolute_value);
}

TEST(ToyModel, TheLossIsTheWeightedSquaredError) {
  Device device("ref");
  const ToyModel model(device, plane(0.5, 0.8), DType::f64, Random(2));
  Random random(4);
  const std::vector<float> inputs = draw_inputs(model.task(), 7, random);
  const std::vector<float> outputs = model.outputs(inputs);
  double expected = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    expected += std::pow(0.5, i % 5) * std::pow(double(inputs[i]) - outputs[i], 2);
  }
  Tape tape(device, false);
  EXPECT_NEAR(model.loss(tape, inputs).value().data<double>()[0], expected, 1e-5);
}

TEST(ToyTrainer, SparseEqualFeaturesFormARegularPentagon) {
  int pentagons = 0;
  for (const uint64_t seed : {1, 2, 3}) {
    ToyTrainer trainer("cpu", plane(1, 0.05), training(3000, 512), seed, 0);
    trainer.run(3000);
    const auto vectors = around_the_circle(trainer.model().weights(), 5);
    if (shape_of(vectors) != "pentagon") continue;
    ++pentagons;
    double sum = 0;
    for (const PlaneVector& v : vectors) sum += v.norm;
    for (const PlaneVector& v : vectors) {
      EXPECT_NEAR(v.to_next, 72, 3);
      EXPECT_NEAR(v.norm / (sum / 5), 1, 0.03);
    }
  }
  EXPECT_GE(pentagons, 2);  // others end elsewhere
}

TEST(ToyTrainer, DenseFeaturesGiveTheTwoMostImportantADimensionEach) {
  ToyTrainer trainer("cpu", plane(0.7, 1), training(3000, 256), 1, 0);
  trainer.run(3000);
  const FeatureGeometry g = geometry_of(trainer.model().weights(), 2, 5);
  for (size_t i = 0; i < 5; ++i) EXPECT_NEAR(g.norm[i], i < 2 ? 1 : 0, 0.05) << i;
  EXPECT_NEAR(g.gram[1], 0, 0.05);
  EXPECT_EQ(shape_of(around_the_circle(trainer.model().weights(), 5)), "orthogonal pair");
}

TEST(ToyTask, RefusesWhatMakesNone) {
  EXPECT_NO_THROW(plane(0.9, 0.5).check());
  for (const double p : {0.0, -1.0, 1.5, double(NAN)}) EXPECT_THROW(plane(0.9, p).check(), Error);
  EXPECT_THROW((ToyTask{Kind::reconstruct, 0, {1, 1}, 1}.check()), Error);
  EXPECT_THROW((ToyTask{Kind::reconstruct, 2, {}, 1}.check()), Error);
  EXPECT_THROW((ToyTask{Kind::reconstruct, 2, {1, -1}, 1}.check()), Error);
  EXPECT_THROW((ToyTask{Kind::reconstruct, 2, {1, INFINITY}, 1}.check()), Error);
  EXPECT_THROW(training(0, 4).check(), Error);
  EXPECT_THROW(training(4, 0).check(), Error);
}

}  // namespace
}  // namespace elapse
