// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <CLI/App.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "elapse/train/run.h"

namespace elapse {

TrainConfig default_training();
RunConfig default_run();

// Beside the kinds of mixers, --mixer takes this: attention in GPT-2's form.
inline constexpr std::string_view kGpt2 = "gpt2";

// What `elapse train` was asked for.
struct TrainArguments {
  std::string task;
  std::vector<std::string> texts;
  std::string induction_loss = "last";
  int64_t ordinary_tokens = 14;
  int64_t data_tokens = 16;           // of selective copying
  int64_t keys = 10;                  // of associative recall
  int64_t pairs = 8;                  // of mqar
  std::optional<int64_t> task_vocab;  // of selective copying and mqar
  std::string mixer = "mamba";
  int64_t d_model = 192, n_layers = 3;
  std::optional<int64_t> d_state, d_intermediate;
  std::vector<std::string> selective;  // of dt, B and C; empty: all, of mamba mixers
  bool no_gate = false;
  std::optional<int64_t> heads, kv_heads, window;  // attention's
  std::optional<int64_t> l_max, emb_dim;           // Hyena's
  std::optional<double> sine_freq;                 // Hyena's
  std::string ssm_init;                            // empty: the mixer's own
  std::string model, tokenizer;  // the checkpoint to start from, and what reads text for it
  std::string curriculum;
  std::string schedule = "cosine";
  std::optional<double> min_lr;   // none: a tenth of the peak
  std::optional<int64_t> warmup;  // none: default_training's, or less of a short run
  TrainConfig train = default_training();
  RunConfig run = default_run();
  bool resume = false;
  std::string log;
  uint64_t seed = 1;
  std::string device = "cpu";
  std::string dtype = "f32";
  int threads = 0;
};

// Adds the verb's flags, which set what is returned.
std::shared_ptr<TrainArguments> add_train_arguments(CLI::App& verb);

// Throws CLI::ValidationError naming the flag that makes no run, or a log that would replace what
// is read.
TrainConfig train_config(const CLI::App& verb, const TrainArguments& args);

}  // namespace elapse
