// SPDX-License-Identifier: Apache-2.0
#include "elapse/train/config.h"

#include <algorithm>

#include "elapse/core/error.h"
#include "elapse/model/mixer_form.h"

namespace elapse {
namespace {

template <class T>
void put(Settings& into, std::string_view name, const T& value) {
  into.emplace_back(name, fmt::format("{}", value));
}

std::string text_of(const std::vector<Phase>& curriculum) {
  std::string text;
  for (const Phase& p : curriculum) {
    text += fmt::format("{}{}:{}", text.empty() ? "" : ",", p.length, p.steps);
  }
  return text;
}

void put_choices(Settings& into, const ModelConfig& c) {
  put(into, "mixer", name_of(c.mixer));
  put(into, "d_model", c.d_model);
  put(into, "layers", c.n_layers);
  if (is_mamba(c.mixer)) put(into, "d_state", c.d_state);
  if (c.has_published_selection()) return;
  put(into, "selective_dt", c.selective_dt);
  put(into, "selective_B", c.selective_B);
  put(into, "selective_C", c.selective_C);
  put(into, "gate", c.gate);
}

void put_mamba2(Settings& into, const ModelConfig& c) {
  put(into, "head_dim", c.head_dim);
  put(into, "n_groups", c.n_groups);
  put(into, "dt_min", c.dt_min);
  put(into, "dt_max", c.dt_max);
}

void put_mlp(Settings& into, const ModelConfig& c) {
  if (c.d_intermediate == 0) return;
  put(into, "d_intermediate", c.d_intermediate);
  put(into, "mlp", name_of(c.mlp));
  put(into, "mlp_bias", c.mlp_bias);
}

void put_consequences(Settings& into, const ModelConfig& c) {
  put(into, "vocab_size", c.vocab_size);
  if (is_mamba(c.mixer)) {
    put(into, "d_inner", c.d_inner);
    put(into, "d_conv", c.d_conv);
    put(into, "dt_rank", c.dt_rank);
  } else {
    put(into, "ssm_cfg", ssm_cfg_json(c));
  }
  if (c.mixer == MixerKind::mamba2) put_mamba2(into, c);
  put_mlp(into, c);
  if (c.norm == NormKind::layer) put(into, "norm", "layer");
  if (c.max_positions > 0) put(into, "max_positions", c.max_positions);
  put(into, "norm_eps", c.norm_eps);
  if (c.mixer_norm_eps > 0) put(into, "mixer_norm_eps", c.mixer_norm_eps);
}

void put_schedule(Settings& into, const Schedule& s, int64_t steps) {
  using Kind = Schedule::Kind;
  constexpr std::string_view kNames[] = {"constant", "cosine", "warmup-stable-decay"};
  put(into, "schedule", kNames[static_cast<size_t>(s.kind)]);
  put(into, "lr", s.peak_lr);
  put(into, "warmup", s.warmup_steps);
  if (s.kind == Kind::constant) return;
  put(into, "min_lr", s.min_lr);
  put(into, "steps", steps);
  if (s.kind == Kind::warmup_stable_decay) put(into, "decay_steps", s.decay_steps);
}

void put_adamw(Settings& into, const AdamWConfig& c) {
  put(into, "beta1", c.beta1);
  put(into, "beta2", c.beta2);
  put(into, "eps", c.eps);
  put(into, "weight_decay", c.weight_decay);
  put(into, "clip", c.max_norm);
}

}  // namespace

int64_t TrainConfig::length_at(int64_t step) const {
  for (const Phase& phase : curriculum) {
    if (step < phase.steps) return phase.length;
    step -= phase.steps;
  }
  return length;
}

std::vector<int64_t> TrainConfig::lengths() const {
  std::vector<int64_t> all;
  int64_t steps_left = steps;
  for (const Phase& phase : curriculum) {
    all.push_back(phase.length);
    steps_left -= phase.steps;
  }
  if (steps_left > 0) all.push_back(length);
  return all;
}

void TrainConfig::check() const {
  constexpr int64_t kMaxSteps = int64_t{1} << 32, kMaxSequences = int64_t{1} << 24;  // streams.h
  ELAPSE_CHECK(steps >= 1 && steps < kMaxSteps, "steps: expected 1 to {}, found {}", kMaxSteps - 1,
               steps);
  ELAPSE_CHECK(truncate >= 0, "truncate: expected at least 0, found {}", truncate);
  ELAPSE_CHECK(accumulate >= 1, "accumulate: expected at least 1, found {}", accumulate);
  int64_t planned = 0;
  for (const Phase& phase : curriculum) {
    ELAPSE_CHECK(phase.steps >= 1 && phase.steps <= steps - planned,
                 "curriculum: expected phases of at least 1 step within the {} steps, found \"{}\"",
                 steps, text_of(curriculum));
    planned += phase.steps;
  }
  for (int64_t l : lengths()) {
    ELAPSE_CHECK(l >= 1 && batch_tokens >= 1 && (batch_tokens % l == 0 || l > batch_tokens),
                 "batch_tokens: expected a multiple of the length {}, found {}", l, batch_tokens);
    ELAPSE_CHECK(accumulate <= sequences(l) && sequences(l) < kMaxSequences,
                 "batch_tokens: expected {} to {} sequences of {} tokens, found {} tokens",
                 accumulate, kMaxSequences - 1, l, batch_tokens);
  }
  schedule.check(steps);
  adamw.check();
}

Settings settings(const TrainConfig& train, const ModelConfig& model, const std::string& data) {
  Settings all;
  put(all, "model", train.start);
  put_choices(all, model);
  put(all, "data", data);
  put(all, "batch_tokens", train.batch_tokens);
  put(all, "accumulate", train.accumulate);
  put(all, "curriculum", text_of(train.curriculum));
  put(all, "length", train.length);
  if (train.truncate > 0) put(all, "truncate", train.truncate);
  put_schedule(all, train.schedule, train.steps);
  put_adamw(all, train.adamw);
  put_consequences(all, model);
  return all;
}

}  // namespace elapse
