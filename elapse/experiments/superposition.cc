// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/superposition.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "elapse/core/parallel.h"

namespace elapse {
namespace {

using Clock = std::chrono::steady_clock;
using Reconstruction = SuperpositionResult::Reconstruction;
using Computation = SuperpositionResult::Computation;
using Part = SuperpositionSettings::Part;

constexpr int64_t kReported = 100;  // times that a part tells its progress
constexpr int64_t kChunk = 1024;    // held-out examples at once
constexpr double kPlaneRatio = 0.9, kAbsoluteRatio = 0.8, kLeastImportance = 0.01;

// `count` probabilities from `first` down to `last`, evenly on a logarithmic scale.
std::vector<double> log_spaced(double first, double last, int64_t count) {
  std::vector<double> values;
  for (int64_t i = 0; i < count; ++i) {
    const double share = static_cast<double>(i) / static_cast<double>(count - 1);
    values.push_back(first * std::pow(last / first, share));
  }
  return values;
}

// An output of |x| with b much below p / 2, the mean of its target, is off for every example and
// learns no more: steps are the smaller the rarer features are.
ToyTraining training_of(const ToyTask& task, ToyTraining training) {
  if (task.kind == ToyTask::Kind::absolute_value) {
    training.schedule.peak_lr *= std::sqrt(task.probability);
  }
  return training;
}

// The models of one part: each task from each seed.
class Models {
 public:
  Models(const Device& device, std::vector<ToyTask> tasks, const ToyTraining& training,
         const SuperpositionSettings& settings, uint64_t part)
      : tasks_(std::move(tasks)), seeds_(settings.seeds), threads_(device.threads()) {
    constexpr uint64_t kMostTasks = 1000;
    for (size_t i = 0; i < tasks_.size(); ++i) {
      for (int64_t s = 0; s < seeds_; ++s) {
        trainers_.emplace_back(std::string(device.name()), tasks_[i],
                               training_of(tasks_[i], training),
                               settings.seed + static_cast<uint64_t>(s), part * kMostTasks + i);
      }
    }
  }

  void train(int64_t steps, const std::string& stage, const OnExperimentProgress& progress) {
    for (int64_t i = 0; i < kReported; ++i) {
      const int64_t begin = steps * i / kReported, end = steps * (i + 1) / kReported;
      if (begin == end) continue;
      parallel_for(std::ssize(trainers_), threads_,
                   [&](int64_t t) { trainers_[static_cast<size_t>(t)].run(end - begin); });
      progress({stage, end, steps, fmt::format("{} models", trainers_.size())});
    }
  }

  template <class Run, class Measure>
  std::vector<SuperpositionResult::Instance<Run>> measured(Measure&& measure) const {
    std::vector<SuperpositionResult::Instance<Run>> instances;
    for (const ToyTask& task : tasks_) {
      instances.push_back({task, std::vector<Run>(static_cast<size_t>(seeds_))});
    }
    parallel_for(std::ssize(trainers_), threads_, [&](int64_t t) {
      const auto seed = static_cast<size_t>(t % seeds_);
      instances[static_cast<size_t>(t / seeds_)].runs[seed] =
          measure(trainers_[static_cast<size_t>(t)]);
    });
    return instances;
  }

 private:
  std::vector<ToyTask> tasks_;
  int64_t seeds_;
  int threads_;
  std::vector<ToyTrainer> trainers_;
};

std::vector<ToyTask> tasks_of(const Part& part, ToyTask::Kind kind, double ratio) {
  std::vector<ToyTask> tasks;
  for (const double p : part.probabilities) {
    tasks.push_back({kind, part.hidden, falling_importance(part.features, ratio), p});
  }
  return tasks;
}

// Calls see(feature, input, output) for every held-out example and feature.
template <class See>
void for_held_out(const ToyTrainer& trainer, int64_t examples, See&& see) {
  const ToyModel& model = trainer.model();
  const auto features = static_cast<size_t>(model.task().features());
  Random random = trainer.held_out();
  for (int64_t begin = 0; begin < examples; begin += kChunk) {
    const std::vector<float> inputs =
        draw_inputs(model.task(), std::min(kChunk, examples - begin), random);
    const std::vector<float> outputs = model.outputs(inputs);
    for (size_t i = 0; i < inputs.size(); ++i) see(i % features, inputs[i], outputs[i]);
  }
}

void check_finite(double loss, const ToyTask& task) {
  ELAPSE_CHECK(std::isfinite(loss), "training {} features of probability {}: the loss is {}",
               task.features(), task.probability, loss);
}

Reconstruction reconstruction(const ToyTrainer& trainer, int64_t examples) {
  const ToyTask& task = trainer.model().task();
  Reconstruction run;
  for_held_out(trainer, examples, [&](size_t feature, float input, float output) {
    const double error = double(output) - input;
    run.loss += task.importance[feature] * error * error / static_cast<double>(examples);
  });
  check_finite(run.loss, task);
  run.W = trainer.model().weights();
  run.b = trainer.model().biases();
  run.geometry = geometry_of(run.W, task.hidden, task.features());
  return run;
}

Computation computation(const ToyTrainer& trainer, int64_t examples, double epsilon) {
  const ToyTask& task = trainer.model().task();
  const auto features = static_cast<size_t>(task.features());
  std::vector<double> squares(features), on(features);
  Computation run = {0, std::vector<double>(features), std::vector<double>(features),
                     std::vector<double>(features)};
  for_held_out(trainer, examples, [&](size_t feature, float input, float output) {
    const double target = target_of(task.kind, input), error = output - target;
    const double right = std::abs(error) <= epsilon;
    run.loss += task.importance[feature] * error * error / static_cast<double>(examples);
    run.error[feature] += error * error;
    squares[feature] += target * target;
    run.right[feature] += right / static_cast<double>(examples);
    run.right_on[feature] += input != 0 ? right : 0;
    on[feature] += input != 0;
  });
  check_finite(run.loss, task);
  for (size_t i = 0; i < features; ++i) {
    ELAPSE_CHECK(on[i] > 0, "held_out: a feature of probability {} is on in none of {} examples",
                 task.probability, examples);
    run.error[i] /= squares[i];
    run.right_on[i] /= on[i];
  }
  return run;
}

void check_part(const char* name, const Part& part) {
  try {
    ELAPSE_CHECK(!part.probabilities.empty(), "probabilities: expected one or more, found none");
    for (const double p : part.probabilities) {
      ToyTask{.hidden = part.hidden,
              .importance = falling_importance(std::max<int64_t>(0, part.features), 1),
              .probability = p}
          .check();
    }
    part.training.check();
  } catch (const Error& error) {
    fail("{}: {}", name, error.what());
  }
}

}  // namespace

SuperpositionSettings SuperpositionSettings::quick() {
  const auto schedule = [](double peak, int64_t steps) {
    return Schedule{.kind = Schedule::Kind::cosine, .peak_lr = peak, .warmup_steps = steps / 20};
  };
  SuperpositionSettings s;
  s.plane = {5, 2, log_spaced(1, 1.0 / 20, 10), {512, 5000, schedule(1e-2, 5000)}};
  s.sweep = {80, 20, log_spaced(1, 1.0 / 50, 14), {512, 3000, schedule(1e-2, 3000)}};
  s.absolute = {100, 40, {1, 0.3, 0.1, 0.03, 0.01}, {512, 8000, schedule(3e-2, 8000)}};
  return s;
}

void SuperpositionSettings::check() const {
  check_part("plane", plane);
  ELAPSE_CHECK(plane.hidden == 2, "plane: hidden: expected 2, which can be drawn, found {}",
               plane.hidden);
  check_part("sweep", sweep);
  check_part("absolute", absolute);
  ELAPSE_CHECK(std::isfinite(epsilon) && epsilon > 0,
               "epsilon: expected a positive number, found {}", epsilon);
  ELAPSE_CHECK(held_out >= 1, "held_out: expected 1 or more, found {}", held_out);
  ELAPSE_CHECK(seeds >= 1, "seeds: expected 1 or more, found {}", seeds);
}

std::string SuperpositionSettings::unlike_published() const {
  const ToyTraining published;
  const auto part = [](const Part& p) {
    return fmt::format("{} steps of {} examples at up to {}", p.training.steps, p.training.batch,
                       p.training.schedule.peak_lr);
  };
  return fmt::format(
      "Not the published runs: {} in the plane, {} in the sweep, {} times the root of the "
      "probability for |x|, rates rising at first and falling along a cosine, instead of {} steps "
      "of {} examples at {} throughout; |x| starts from small weights.",
      part(plane), part(sweep), part(absolute), published.steps, published.batch,
      published.schedule.peak_lr);
}

double loss_without_superposition(const ToyTask& task) {
  const int64_t kept = task.kind == ToyTask::Kind::absolute_value ? task.hidden / 2 : task.hidden;
  // Of a target that is 0 or, with probability p, uniform over [0, 1).
  const double p = task.probability, variance = p / 3 - p * p / 4;
  std::vector<double> importance = task.importance;
  std::sort(importance.begin(), importance.end(), std::greater<>());
  double loss = 0;
  for (auto i = static_cast<size_t>(kept); i < importance.size(); ++i) {
    loss += importance[i] * variance;
  }
  return loss;
}

int64_t computed_by_error(const Computation& run) {
  return std::count_if(run.error.begin(), run.error.end(), [](double e) { return e <= 0.1; });
}

int64_t computed_by_accuracy(const Computation& run) {
  return std::count_if(run.right_on.begin(), run.right_on.end(), [](double r) { return r >= 0.9; });
}

SuperpositionResult run_superposition(const Device& device, const SuperpositionSettings& settings,
                                      const OnExperimentProgress& progress) {
  settings.check();
  const auto start = Clock::now();
  SuperpositionResult result;
  result.device =
      fmt::format("{} ({}, {} threads)", device.name(), device.describe(), device.threads());
  uint64_t part_number = 0;
  const auto reconstruct = [&](const std::string& stage, const Part& part, double ratio) {
    Models models(device, tasks_of(part, ToyTask::Kind::reconstruct, ratio), part.training,
                  settings, part_number++);
    models.train(part.training.steps, stage, progress);
    return models.measured<Reconstruction>(
        [&](const ToyTrainer& trainer) { return reconstruction(trainer, settings.held_out); });
  };
  const Part &plane = settings.plane, &sweep = settings.sweep, &absolute = settings.absolute;
  Part sparsest = plane;
  sparsest.probabilities = {
      *std::min_element(plane.probabilities.begin(), plane.probabilities.end())};
  const auto sweep_ratio =
      std::pow(kLeastImportance, 1 / std::max(1.0, static_cast<double>(sweep.features - 1)));
  result.plane = reconstruct("the plane", plane, kPlaneRatio);
  result.pentagon = reconstruct("equal importance", sparsest, 1);
  result.sweep = reconstruct("sweep", sweep, sweep_ratio);
  result.uniform = reconstruct("sweep, equal importance", sweep, 1);

  Models models(device, tasks_of(absolute, ToyTask::Kind::absolute_value, kAbsoluteRatio),
                absolute.training, settings, part_number);
  models.train(absolute.training.steps, "absolute value", progress);
  result.absolute = models.measured<Computation>([&](const ToyTrainer& trainer) {
    return computation(trainer, settings.held_out, settings.epsilon);
  });
  result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return result;
}

}  // namespace elapse
