// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/toy_model.h"

#include <algorithm>
#include <cmath>

#include "elapse/interpret/runs.h"

namespace elapse {
namespace {

constexpr uint64_t kStreams = 3;  // of a model: its start, its training data, held-out data
constexpr int64_t kMostSize = 1 << 16;
constexpr double kSmallStart = 0.1;

bool positive(double value) { return std::isfinite(value) && value > 0; }

}  // namespace

void ToyTask::check() const {
  ELAPSE_CHECK(features() >= 1 && features() <= kMostSize,
               "importance: expected 1 to {} features, found {}", kMostSize, features());
  ELAPSE_CHECK(hidden >= 1 && hidden <= kMostSize, "hidden: expected 1 to {}, found {}", kMostSize,
               hidden);
  ELAPSE_CHECK(probability > 0 && probability <= 1,
               "probability: expected more than 0 and at most 1, found {}", probability);
  for (const double value : importance) {
    ELAPSE_CHECK(positive(value), "importance: expected positive numbers, found {}", value);
  }
}

std::vector<double> falling_importance(int64_t features, double ratio) {
  std::vector<double> importance;
  for (int64_t i = 0; i < features; ++i) {
    importance.push_back(std::pow(ratio, static_cast<double>(i)));
  }
  return importance;
}

std::vector<float> draw_inputs(const ToyTask& task, int64_t count, Random& random) {
  std::vector<float> inputs(static_cast<size_t>(count * task.features()));
  const bool is_signed = task.kind == ToyTask::Kind::absolute_value;
  for (float& input : inputs) {
    const double u = random.next_u32() * 0x1.0p-32;
    if (u >= task.probability) continue;
    const double value = u / task.probability;  // again uniform over [0, 1)
    input = static_cast<float>(is_signed ? 2 * value - 1 : value);
  }
  return inputs;
}

float target_of(ToyTask::Kind kind, float input) {
  return kind == ToyTask::Kind::absolute_value ? std::abs(input) : input;
}

ToyModel::ToyModel(Device& device, ToyTask task, DType dtype, Random random)
    : device_(device), task_(std::move(task)), dtype_(dtype) {
  task_.check();
  const int64_t features = task_.features(), hidden = task_.hidden;
  const bool small = task_.kind == ToyTask::Kind::absolute_value;
  const double deviation =
      (small ? kSmallStart : 1) * std::sqrt(2 / static_cast<double>(features + hidden));
  const auto start = [&](Shape shape) {
    std::vector<double> values(static_cast<size_t>(shape.numel()));
    for (double& v : values) v = deviation * random.normal();
    return tensor(values, shape);
  };
  W_ = parameters_.add("W", start({hidden, features}), false);
  if (task_.kind == ToyTask::Kind::absolute_value) {
    W2_ = parameters_.add("W2", start({features, hidden}), false);
  }
  b_ = parameters_.add("b", device.zeros(dtype, {1, features}), false);
  importance_ = tensor(task_.importance, {1, features});
}

Tensor ToyModel::tensor(const std::vector<double>& values, Shape shape) const {
  if (dtype_ == DType::f64) return device_.upload(values, shape);
  return device_.upload(std::vector<float>(values.begin(), values.end()), shape);
}

Var ToyModel::output(Tape& tape, const Var& x) const {
  const Var h = linear(tape, x, W_, Var());
  const Var back = W2_ ? linear(tape, relu(tape, h), W2_, Var()) : linear_transposed(tape, h, W_);
  return relu(tape, add(tape, back, b_));
}

Var ToyModel::loss(Tape& tape, const std::vector<float>& inputs) const {
  const int64_t count = std::ssize(inputs) / task_.features();
  const Shape shape = {count, task_.features()};
  std::vector<float> negated;
  negated.reserve(inputs.size());
  for (const float input : inputs) negated.push_back(-target_of(task_.kind, input));
  const auto constant = [&](const std::vector<float>& values) {
    if (dtype_ == DType::f32) return Var(device_.upload(values, shape));
    return Var(device_.upload(std::vector<double>(values.begin(), values.end()), shape));
  };
  const Var error = add(tape, output(tape, constant(inputs)), constant(negated));
  // (count, 1): the importances' product with squares is the sum of either.
  const Var losses = linear(tape, mul(tape, error, error), Var(importance_), Var());
  return sum_last(tape, reshape(tape, losses, {1, count}));
}

std::vector<float> ToyModel::outputs(const std::vector<float>& inputs) const {
  Tape tape(device_, false);
  const Shape shape = {std::ssize(inputs) / task_.features(), task_.features()};
  const Var x(tensor({inputs.begin(), inputs.end()}, shape));
  const std::vector<double> values = host_values(device_, output(tape, x).value());
  return {values.begin(), values.end()};
}

std::vector<double> ToyModel::weights() const { return host_values(device_, W_.value()); }
std::vector<double> ToyModel::biases() const { return host_values(device_, b_.value()); }

void ToyTraining::check() const {
  constexpr int64_t kMostBatch = 1 << 20;
  ELAPSE_CHECK(batch >= 1 && batch <= kMostBatch, "batch: expected 1 to {}, found {}", kMostBatch,
               batch);
  ELAPSE_CHECK(steps >= 1, "steps: expected 1 or more, found {}", steps);
  schedule.check(steps);
}

ToyTrainer::ToyTrainer(const std::string& device, const ToyTask& task, const ToyTraining& training,
                       uint64_t seed, uint64_t stream)
    : training_(training),
      seed_(seed),
      stream_(stream),
      device_(std::make_unique<Device>(device, 1)),
      model_(
          std::make_unique<ToyModel>(*device_, task, DType::f32, Random(seed, kStreams * stream))),
      optimizer_(*device_, model_->parameters(),
                 {.beta2 = 0.999, .weight_decay = 0, .max_norm = 0}),
      data_(seed, kStreams * stream + 1) {
  training.check();
}

void ToyTrainer::run(int64_t steps) {
  for (int64_t i = 0; i < steps; ++i) {
    model_->parameters().zero_grad(*device_);
    Tape tape(*device_);
    const Var loss = model_->loss(tape, draw_inputs(model_->task(), training_.batch, data_));
    tape.backward(loss, 1 / static_cast<double>(training_.batch));
    optimizer_.update(training_.schedule.lr(optimizer_.updates(), training_.steps));
  }
}

Random ToyTrainer::held_out() const { return Random(seed_, kStreams * stream_ + 2); }

}  // namespace elapse
