// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstring>

#include "elapse/data/induction.h"
#include "elapse/train/trainer.h"

namespace elapse {

inline TrainConfig tiny_training(int64_t steps) {
  TrainConfig config;
  config.steps = steps;
  config.batch_tokens = 48;
  config.length = 8;
  config.schedule.kind = Schedule::Kind::cosine;
  config.schedule.peak_lr = 0.01;
  config.schedule.warmup_steps = 2;
  return config;
}

// A model too small to learn much, with what it takes to train it.
class TinyRun {
 public:
  explicit TinyRun(const TrainConfig& config, DType dtype = DType::f32)
      : device_("ref"),
        task_(3, InductionTask::Loss::last_token),
        model_(device_, shape(), dtype, 7),
        trainer_(model_, task_, config) {}

  static ModelConfig shape() {
    ModelConfig config = ModelConfig::mamba(6, 2, InductionTask::kVocabSize);
    config.d_state = 3;
    return config;
  }

  Device& device() { return device_; }
  const InductionTask& task() const { return task_; }
  const LanguageModel& model() const { return model_; }
  Trainer& trainer() { return trainer_; }

  // The weights' bits.
  std::string weights() const {
    std::string bytes;
    for (const Parameter& p : model_.parameters().all()) {
      const Tensor& t = p.var.value();
      bytes.append(static_cast<const char*>(t.raw()), static_cast<size_t>(t.bytes()));
    }
    return bytes;
  }
  void set_weight(std::string_view name, float value) {
    *model_.parameters().find(name)->var.value().data<float>() = value;
  }

 private:
  Device device_;
  InductionTask task_;
  LanguageModel model_;
  Trainer trainer_;
};

}  // namespace elapse
