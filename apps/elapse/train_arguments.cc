// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/train_arguments.h"

#include <algorithm>
#include <charconv>

#include "apps/elapse/checks.h"

namespace elapse {
namespace {

// "16:600,32:600"; an empty text has no phases.
std::vector<Phase> parse_curriculum(std::string_view text) {
  std::vector<Phase> phases;
  const char* at = text.data();
  const char* const end = at + text.size();
  const auto number = [&](int64_t& value) {
    const auto [rest, error] = std::from_chars(at, end, value);
    at = rest;
    return error == std::errc();
  };
  const auto skip = [&](char c) { return at != end && *at++ == c; };
  while (at != end) {
    Phase phase;
    const bool parsed = number(phase.length) && skip(':') && number(phase.steps);
    if (!parsed || (at != end && (!skip(',') || at == end))) {
      throw CLI::ValidationError("--curriculum",
                                 fmt::format("expected LENGTH:STEPS,LENGTH:STEPS,... as in "
                                             "16:600,32:600, found \"{}\"",
                                             text));
    }
    phases.push_back(phase);
  }
  return phases;
}

Schedule::Kind schedule_kind(std::string_view name) {
  if (name == "constant") return Schedule::Kind::constant;
  return name == "cosine" ? Schedule::Kind::cosine : Schedule::Kind::warmup_stable_decay;
}

const std::vector<FieldFlag> kFlags = {{"steps", "--steps"},
                                       {"batch_tokens", "--batch-tokens"},
                                       {"accumulate", "--accumulate"},
                                       {"curriculum", "--curriculum"},
                                       {"truncate", "--truncate"},
                                       {"peak_lr", "--lr"},
                                       {"min_lr", "--min-lr"},
                                       {"warmup_steps", "--warmup"},
                                       {"decay_steps", "--decay-steps"},
                                       {"beta1", "--beta1"},
                                       {"beta2", "--beta2"},
                                       {"weight_decay", "--weight-decay"},
                                       {"max_norm", "--clip"}};

void check_log(const TrainArguments& args) {
  std::vector<FlagPath> inputs = {
      {"--tokenizer", args.tokenizer}, {"--model", args.model}, {"--out", args.run.out}};
  for (const std::string& text : args.texts) inputs.push_back({"--text", text});
  check_replaces_none({"--log", args.log}, inputs);
}

void add_data_options(CLI::App& verb, TrainArguments& args) {
  auto* data = verb.add_option_group("Data", "What to learn from, one of these");
  data->add_option("--text", args.texts,
                   "Files of text, learned byte by byte, or in the tokens of --model; the last "
                   "tenth is held out")
      ->type_name("FILE")
      ->check(not_empty())
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  data->add_option("--task", args.task, "A synthetic task")
      ->check(CLI::IsMember({"induction", "selective-copying", "associative-recall", "mqar"}));
  data->require_option(1);
  verb.add_option("--induction-loss", args.induction_loss,
                  "Train on the answer (last) or on every token (all)")
      ->check(CLI::IsMember({"last", "all"}));
  verb.add_option("--ordinary-tokens", args.ordinary_tokens,
                  "Ordinary tokens among the 16 of the task: 14 or 15")
      ->check(whole_number(14, 15));
  constexpr int64_t kMaxVocab = int64_t{1} << 24;
  verb.add_option("--data-tokens", args.data_tokens,
                  "selective-copying: tokens to remember, at most half of --length")
      ->check(whole_number(1));
  verb.add_option("--keys", args.keys, "associative-recall: tokens that are keys, and values")
      ->check(whole_number(1, kMaxVocab));
  verb.add_option("--pairs", args.pairs, "mqar: keys with a value, at most a quarter of --length")
      ->check(whole_number(1, kMaxVocab));
  verb.add_option("--task-vocab", args.task_vocab,
                  "Different tokens: of selective-copying 16 unless given, of mqar 8192")
      ->check(whole_number(3, kMaxVocab));
}

std::vector<std::string> mixer_choices() {
  std::vector<std::string> names = mixer_names();
  names.emplace_back(kGpt2);
  return names;
}

void add_model_options(CLI::App& verb, TrainArguments& args) {
  constexpr int64_t kMaxSize = int64_t{1} << 24;  // keeps products of sizes far from overflow
  auto* model = verb.add_option("--model", args.model,
                                "Folder of a checkpoint: start from its weights, in its sizes");
  model->type_name("DIR")->check(not_empty());
  verb.add_option("--tokenizer", args.tokenizer,
                  "A tokenizer.json or a folder with one, in place of the checkpoint's own")
      ->type_name("FILE")
      ->check(not_empty())
      ->needs(model)
      ->excludes(verb.get_option("--task"));
  verb.add_option(
          "--mixer", args.mixer,
          "What mixes tokens in a layer: mamba; mamba2, whose heads have 64 channels, or as many "
          "as divide both 64 and twice --d-model; or one of those it is measured against: "
          "attention "
          "makes a Transformer++ (rotary positions, SwiGLU, RMSNorm, no biases), gpt2 a plain one")
      ->check(CLI::IsMember(mixer_choices()))
      ->excludes(model);
  const auto add_size = [&](const char* flag, auto& size, const char* text) {
    verb.add_option(flag, size, text)->check(whole_number(1, kMaxSize))->excludes(model);
  };
  add_size("--d-model", args.d_model, "Width of the residual stream");
  add_size("--layers", args.n_layers, "Layers");
  add_size(
      "--d-state", args.d_state,
      "State size of a channel: 16 unless given, 128 with mamba2, 64 with s4d and h3, even "
      "where their states are complex; with linear_attention, retnet and gla the channels of a "
      "head's keys; other mixers have none");
  verb.add_option(
          "--selective", args.selective,
          "Which of a mamba mixer's dt, B and C depend on the token, with commas between, or "
          "none; all unless given")
      ->type_name("LIST")
      ->delimiter(',')
      ->check(CLI::IsMember({"dt", "B", "C", "none"}))
      ->excludes(model);
  verb.add_flag("--no-gate", args.no_gate, "A mamba mixer without its gate z")->excludes(model);
  verb.add_option("--ssm-init", args.ssm_init,
                  "What the A of s4d and h3 starts from: HiPPO's legs, lin or inv, or real numbers")
      ->check(CLI::IsMember(
          std::vector<std::string>(kDiagonalInitNames.begin(), kDiagonalInitNames.end())))
      ->excludes(model);
  add_size("--l-max", args.l_max,
           "Tokens that one sees with hyena, its own included: 1024 unless given, however long "
           "sequences are");
  add_size("--emb-dim", args.emb_dim,
           "Numbers that tell hyena's filter a lag, odd: 33 unless given");
  verb.add_option("--sine-freq", args.sine_freq,
                  "What the frequencies of the sines that make hyena's filter start from: 14 "
                  "unless given")
      ->excludes(model);
  add_size("--heads", args.heads, "Heads of attention: of 64 channels unless given");
  add_size("--kv-heads", args.kv_heads,
           "Heads of its keys and values, shared by groups of query heads: as many unless given");
  add_size("--window", args.window, "Tokens that attention sees: all unless given");
  verb.add_option("--d-intermediate", args.d_intermediate,
                  "Width of an MLP after each mixer, 0: none; unless given, attention's has 8/3 of "
                  "--d-model up to a multiple of 64, gpt2's 4 times it, and others have none")
      ->check(whole_number(0, kMaxSize))
      ->excludes(model);
}

void add_batch_options(CLI::App& verb, TrainArguments& args) {
  verb.add_option("--steps", args.train.steps, "Updates of the weights")->check(whole_number(1));
  verb.add_option("--batch-tokens", args.train.batch_tokens, "Tokens of a step")
      ->check(whole_number(1));
  verb.add_option("--accumulate", args.train.accumulate,
                  "Passes a step is spread over, to need less memory")
      ->check(whole_number(1));
  verb.add_option("--length", args.train.length, "Tokens of a sequence")->check(whole_number(1));
  verb.add_option("--curriculum", args.curriculum,
                  "Sequences of other lengths first, with as many tokens a step: "
                  "LENGTH:STEPS,...")
      ->type_name("LIST");
  verb.add_option("--truncate", args.train.truncate,
                  "Tokens that gradients go back through; sequences run in stretches of as many, "
                  "with the state carried on (truncated backpropagation through time)")
      ->check(whole_number(1));
}

void add_optimizer_options(CLI::App& verb, TrainArguments& args) {
  Schedule& schedule = args.train.schedule;
  AdamWConfig& adamw = args.train.adamw;
  verb.add_option("--schedule", args.schedule,
                  "Learning rate: constant, cosine or wsd (warm-up, stable, decay)")
      ->check(CLI::IsMember({"constant", "cosine", "wsd"}));
  verb.add_option("--lr", schedule.peak_lr, "Peak learning rate");
  verb.add_option("--min-lr", args.min_lr, "Learning rate at the end (cosine, wsd)")
      ->default_str("a tenth of --lr");
  verb.add_option("--warmup", args.warmup, "Steps over which it rises linearly")
      ->default_str("100; with cosine and wsd at most a tenth of --steps")
      ->check(whole_number(0));
  verb.add_option("--decay-steps", schedule.decay_steps, "Steps over which it falls (wsd)")
      ->check(whole_number(0));
  verb.add_option("--weight-decay", adamw.weight_decay,
                  "Decoupled; never of A_log, D, biases and norms");
  verb.add_option("--beta1", adamw.beta1, "AdamW's decay of the first moment");
  verb.add_option("--beta2", adamw.beta2, "AdamW's decay of the second moment");
  verb.add_option("--clip", adamw.max_norm, "Largest norm of all gradients together; 0: any");
}

void add_run_options(CLI::App& verb, TrainArguments& args) {
  verb.add_option("-o,--out", args.run.out, "Folder of the run")
      ->required()
      ->type_name("DIR")
      ->check(not_empty());
  verb.add_flag("--resume", args.resume, "Continue the run in --out, if there is one");
  verb.add_option("--save-every", args.run.save_every,
                  "Steps between checkpoints; 0: only at the end")
      ->check(whole_number(0));
  verb.add_option("--eval-every", args.run.eval_every,
                  "Steps between evaluations on what is held out; 0: only at the end")
      ->check(whole_number(0));
  verb.add_option("--eval-length", args.run.eval_length, "Tokens of the sequences evaluated on")
      ->check(whole_number(1));
  verb.add_option("--log", args.log, "Write one JSON object a step here")
      ->type_name("FILE")
      ->check(not_empty());
  verb.add_option("--seed", args.seed, "Of the first weights and of what is drawn from the data")
      ->check(seed());
  verb.add_option("--device", args.device, "What computes: cpu, ref or cuda");
  add_dtype_option(verb, args.dtype);
  verb.add_option("--threads", args.threads, "Threads; 0: one a processor")
      ->check(whole_number(0, 1024));
}

}  // namespace

TrainConfig default_training() {
  TrainConfig config;
  config.steps = 3000;
  config.batch_tokens = 2048;
  config.length = 256;
  config.schedule.peak_lr = 3e-3;
  config.schedule.warmup_steps = 100;
  return config;
}

RunConfig default_run() {
  RunConfig config;
  config.save_every = 500;
  config.eval_every = 500;
  return config;
}

std::shared_ptr<TrainArguments> add_train_arguments(CLI::App& verb) {
  const auto args = std::make_shared<TrainArguments>();
  // A flag given again overrides: a script's command can be varied by what is put behind it.
  verb.option_defaults()->always_capture_default()->multi_option_policy(
      CLI::MultiOptionPolicy::TakeLast);
  add_data_options(verb, *args);
  add_model_options(verb, *args);
  add_batch_options(verb, *args);
  add_optimizer_options(verb, *args);
  add_run_options(verb, *args);
  return args;
}

namespace {

void check_selection(const TrainArguments& args) {
  if (args.selective.empty() && !args.no_gate) return;
  if (args.mixer != "mamba") {
    throw CLI::ValidationError(args.no_gate ? "--no-gate" : "--selective",
                               fmt::format("{} mixers have no such choice, mamba has", args.mixer));
  }
  const bool none = std::count(args.selective.begin(), args.selective.end(), "none") > 0;
  if (none && args.selective.size() > 1) {
    throw CLI::ValidationError("--selective", "expected none alone, or some of dt, B and C");
  }
}

}  // namespace

TrainConfig train_config(const CLI::App& verb, const TrainArguments& args) {
  check_log(args);
  check_selection(args);
  TrainConfig config = args.train;
  config.curriculum = parse_curriculum(args.curriculum);
  config.schedule.kind = schedule_kind(args.schedule);
  if (args.warmup) {
    config.schedule.warmup_steps = *args.warmup;
  } else if (config.schedule.kind != Schedule::Kind::constant) {
    // A constant rate has no end: a run may go on for more steps than were asked first.
    config.schedule.warmup_steps = std::min(config.schedule.warmup_steps, config.steps / 10);
  }
  config.schedule.min_lr = args.min_lr.value_or(config.schedule.peak_lr / 10);
  try {
    config.check();
  } catch (const Error& error) {
    fail_usage(verb, error, kFlags);
  }
  return config;
}

}  // namespace elapse
