// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <optional>

#include "apps/elapse/checks.h"
#include "apps/elapse/interrupt.h"
#include "apps/elapse/progress.h"
#include "apps/elapse/train_log.h"
#include "apps/elapse/verbs.h"
#include "elapse/data/induction.h"
#include "elapse/data/text_data.h"
#include "elapse/generate/model_text.h"
#include "elapse/io/file.h"
#include "elapse/io/weight_files.h"
#include "elapse/model/checkpoint.h"
#include "elapse/model/checkpoint_files.h"
#include "elapse/text/byte_tokenizer.h"
#include "elapse/train/checkpoint.h"
#include "elapse/train/run.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

TrainConfig default_training() {
  TrainConfig config;
  config.steps = 3000;
  config.batch_tokens = 2048;
  config.length = 256;
  config.schedule.peak_lr = 3e-3;
  config.schedule.min_lr = 1e-4;
  config.schedule.warmup_steps = 100;
  return config;
}

RunConfig default_run() {
  RunConfig config;
  config.save_every = 500;
  config.eval_every = 500;
  return config;
}

struct Arguments {
  std::string task;
  std::vector<std::string> texts;
  std::string induction_loss = "last";
  int64_t ordinary_tokens = 14;
  std::string mixer = "mamba";
  int64_t d_model = 192, n_layers = 3;
  std::optional<int64_t> d_state;
  std::string model, tokenizer;  // the checkpoint to start from, and what reads text for it
  std::string curriculum;
  std::string schedule = "cosine";
  TrainConfig train = default_training();
  RunConfig run = default_run();
  bool resume = false;
  std::string log;
  uint64_t seed = 1;
  std::string device = "cpu";
  int threads = 0;
};

constexpr const char* kFooter =
    "A run's folder (--out) holds config.json and model.safetensors, which `elapse generate` and "
    "other programs read, and resume.safetensors, which --resume reads. Ctrl-C saves and leaves; "
    "the same command with --resume goes on as if nothing had happened, bit for bit.\n\n"
    "--model starts from a checkpoint's weights instead of random ones, with the optimizer new and "
    "text cut into tokens as that model reads it; the run's folder gets its tokenizer as well.\n\n"
    "Examples:\n"
    "  elapse train --text book.txt --out run\n"
    "  elapse train --text book.txt --out run --resume\n"
    "  elapse train --model mamba-130m-hf --text book.txt --out tuned --lr 1e-4 --steps 500\n"
    "  elapse train --task induction --out heads --d-model 64 --layers 2 \\\n"
    "      --curriculum 16:600,32:600,64:600,128:600 --length 256 --steps 6000 \\\n"
    "      --schedule constant --lr 1e-3 --weight-decay 0 --eval-length 256";

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

std::unique_ptr<TokenSource> open_text(const Arguments& args, const ModelConfig* start) {
  const ModelText text =
      start ? open_model_text(args.model, start->vocab_size, args.tokenizer) : ModelText();
  // Bytes are tokens as they lie there; made into numbers they would take eight times the room.
  const bool bytes = dynamic_cast<const ByteTokenizer*>(text.tokenizer.get()) != nullptr;
  return std::make_unique<TextData>(
      TextData::open(args.texts, args.seed, bytes ? nullptr : text.tokenizer.get()));
}

// `start`: of the checkpoint to start from, if there is one.
std::unique_ptr<TokenSource> open_source(const Arguments& args, const ModelConfig* start) {
  if (args.task.empty()) return open_text(args, start);
  const auto loss = args.induction_loss == "last" ? InductionTask::Loss::last_token
                                                  : InductionTask::Loss::all_tokens;
  return std::make_unique<InductionTask>(args.seed, loss, args.ordinary_tokens);
}

// A lower bound of the bytes that training takes: float32 weights with gradients and two moments,
// and some eight values a channel kept for backward.
double least_bytes(const ModelConfig& c, int64_t tokens) {
  const auto d = static_cast<double>(c.d_model), e = static_cast<double>(c.d_inner);
  const auto layers = static_cast<double>(c.n_layers);
  const double low = static_cast<double>(c.dt_rank) + 2 * static_cast<double>(c.d_state);
  const double low_rows = c.mixer == MixerKind::mamba ? e : d;
  const double weights = layers * (3 * d * e + low * low_rows) + static_cast<double>(c.vocab()) * d;
  return sizeof(float) * (4 * weights + 8 * layers * e * static_cast<double>(tokens));
}

// Tokens of the largest pass of any step.
int64_t tokens_of_a_pass(const TrainConfig& train) {
  int64_t most = 0;
  for (const int64_t length : train.lengths()) {
    const int64_t sequences = (train.sequences(length) + train.accumulate - 1) / train.accumulate;
    most = std::max(most, sequences * length);
  }
  return most;
}

void check_memory(const ModelConfig& c, const TrainConfig& train) {
  const int64_t tokens = tokens_of_a_pass(train);
  const double needed = least_bytes(c, tokens);
  const double memory =
      static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));
  ELAPSE_CHECK(needed <= memory,
               "a model of d_model {} and {} layers in passes of {} tokens needs at least {:.3g} "
               "GB, but the machine has {:.3g} GB",
               c.d_model, c.n_layers, tokens, needed * 1e-9, memory * 1e-9);
}

ModelConfig new_config(const Arguments& args, int64_t vocab_size) {
  ModelConfig config = args.mixer == "mamba"
                           ? ModelConfig::mamba(args.d_model, args.n_layers, vocab_size)
                           : ModelConfig::mamba2(args.d_model, args.n_layers, vocab_size);
  config.d_state = args.d_state.value_or(config.d_state);
  return config;
}

Schedule::Kind schedule_kind(std::string_view name) {
  if (name == "constant") return Schedule::Kind::constant;
  return name == "cosine" ? Schedule::Kind::cosine : Schedule::Kind::warmup_stable_decay;
}

TrainConfig train_config(const Arguments& args) {
  TrainConfig config = args.train;
  config.curriculum = parse_curriculum(args.curriculum);
  config.schedule.kind = schedule_kind(args.schedule);
  // A floor above the peak is nobody's wish; a small peak given alone shall not fail for it.
  config.schedule.min_lr = std::min(config.schedule.min_lr, config.schedule.peak_lr);
  try {
    config.check();
  } catch (const Error& error) {
    throw CLI::ValidationError(error.what());
  }
  return config;
}

std::string text_of(const Evaluation& e) {
  return fmt::format(
      "held-out loss {:.4f} nats a token, accuracy {:.2f} %, over {} targets in "
      "sequences of up to {} tokens, each from an empty state",
      e.loss, 100 * e.accuracy, e.targets, e.length);
}

// Shows and logs a run's steps, and ends it on Ctrl-C.
class Display final : public RunObserver {
 public:
  Display(const Arguments& args, int64_t steps_done)
      : progress_("step", steps_done, args.train.steps) {
    if (!args.log.empty()) log_.emplace(args.log, steps_done);
  }

  void after_step(const StepReport& step, const std::optional<Evaluation>& evaluation) override {
    constexpr double kSmoothing = 0.95;
    seconds_ =
        seconds_ == 0 ? step.seconds : kSmoothing * seconds_ + (1 - kSmoothing) * step.seconds;
    if (log_) log_->write(step, evaluation);
    progress_.update(step.step, fmt::format("loss {:.4f}  {:.0f} tokens/s", step.loss,
                                            static_cast<double>(step.tokens) / seconds_));
    if (!evaluation) return;
    progress_.message(fmt::format("step {}: {}", step.step, text_of(*evaluation)));
    last_ = evaluation;
  }
  bool wants_to_stop() override { return interrupt_.asked(); }

  const std::optional<Evaluation>& last() const { return last_; }
  void message(std::string_view line) { progress_.message(line); }

 private:
  Interrupt interrupt_;
  Progress progress_;
  std::optional<TrainLog> log_;
  double seconds_ = 0;  // of a step, smoothed
  std::optional<Evaluation> last_;
};

void refuse_to_overwrite(const std::string& folder) {
  ELAPSE_CHECK(!has_checkpoint(folder),
               "{}: expected no training run in the folder yet, found {}; --resume continues it",
               folder, resume_path(folder));
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, none)) {
    ELAPSE_CHECK(!is_weight_file(entry.path().filename().string()),
                 "{}: expected a folder without a model, found one; training would replace it",
                 entry.path().string());
  }
}

void start_or_resume(Trainer& trainer, const Arguments& args) {
  if (args.resume && has_checkpoint(args.run.out)) {
    trainer.resume(args.run.out);
    fmt::print(stderr, "resuming after step {}\n", trainer.steps_done());
    return;
  }
  refuse_to_overwrite(args.run.out);
  if (args.resume) fmt::print(stderr, "{}: nothing to resume yet, starting\n", args.run.out);
}

// What to train, and on what. A model is made once its source is known to be good, and known to
// fit.
struct Subject {
  std::unique_ptr<TokenSource> source;
  std::unique_ptr<LanguageModel> model;
};

Subject new_subject(const Arguments& args, const TrainConfig& train, Device& device) {
  auto source = open_source(args, nullptr);
  const ModelConfig config = new_config(args, source->vocab_size());
  check_memory(config, train);
  return {std::move(source),
          std::make_unique<LanguageModel>(device, config, DType::f32, args.seed)};
}

Subject subject_from_checkpoint(const Arguments& args, const TrainConfig& train, Device& device) {
  const ModelConfig config = open_checkpoint(args.model).config;
  check_memory(config, train);
  auto source = open_source(args, &config);
  return {std::move(source), load_model(device, args.model, DType::f32, WeightMemory::trained)};
}

// The files that make text of the tokens and say where it ends, so that the run's folder stands for
// itself.
void copy_companions(const Arguments& args) {
  const fs::path out = args.run.out;
  std::error_code none;
  if (fs::is_regular_file(args.tokenizer, none)) {
    return copy_file(args.tokenizer, (out / "tokenizer.json").string());
  }
  const fs::path from = args.tokenizer.empty() ? args.model : args.tokenizer;
  for (const std::string& name : companion_files()) {
    // Another tokenizer's numbers would be read as where this one's texts end.
    if (!args.tokenizer.empty() && name == "generation_config.json") continue;
    const std::string file = (from / name).string();
    if (file_exists(file)) copy_file(file, (out / name).string());
  }
}

void run_train(const Arguments& args) {
  const TrainConfig config = train_config(args);
  Device device(args.device, args.threads);
  const auto [source, model] = args.model.empty() ? new_subject(args, config, device)
                                                  : subject_from_checkpoint(args, config, device);
  Trainer trainer(*model, *source, config);
  trainer.check_evaluation(args.run.eval_length);
  if (!args.log.empty()) make_folder_of(args.log);
  const FolderLock lock = prepare_run_folder(args.run.out);
  start_or_resume(trainer, args);
  if (!args.model.empty()) copy_companions(args);
  Display display(args, trainer.steps_done());
  run(trainer, args.run, display);
  if (!trainer.finished()) {
    display.message(
        fmt::format("stopped and saved after step {}; --resume continues", trainer.steps_done()));
  }
  const std::string result = display.last() ? ": " + text_of(*display.last()) : "";
  fmt::print("{}: step {} of {}{}\n", args.run.out, trainer.steps_done(), config.steps,
             trainer.finished() ? result : "");
}

void add_data_options(CLI::App& verb, Arguments& args) {
  auto* data = verb.add_option_group("Data", "What to learn from, one of these");
  data->add_option("--text", args.texts,
                   "Files of text, learned byte by byte, or in the tokens of --model; the last "
                   "tenth is held out")
      ->type_name("FILE")
      ->check(not_empty())
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  data->add_option("--task", args.task, "A synthetic task")->check(CLI::IsMember({"induction"}));
  data->require_option(1);
  verb.add_option("--induction-loss", args.induction_loss,
                  "Train on the answer (last) or on every token (all)")
      ->check(CLI::IsMember({"last", "all"}));
  verb.add_option("--ordinary-tokens", args.ordinary_tokens,
                  "Ordinary tokens among the 16 of the task: 14 or 15")
      ->check(whole_number(14, 15));
}

void add_model_options(CLI::App& verb, Arguments& args) {
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
  verb.add_option("--mixer", args.mixer, "What mixes tokens in a layer: mamba or mamba2")
      ->check(CLI::IsMember({"mamba", "mamba2"}))
      ->excludes(model);
  const auto add_size = [&](const char* flag, auto& size, const char* text) {
    verb.add_option(flag, size, text)->check(whole_number(1, kMaxSize))->excludes(model);
  };
  add_size("--d-model", args.d_model, "Width of the residual stream");
  add_size("--layers", args.n_layers, "Mamba layers");
  add_size("--d-state", args.d_state, "State size of a channel: 16 unless given, 128 with mamba2");
}

void add_batch_options(CLI::App& verb, Arguments& args) {
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
}

void add_optimizer_options(CLI::App& verb, Arguments& args) {
  Schedule& schedule = args.train.schedule;
  AdamWConfig& adamw = args.train.adamw;
  verb.add_option("--schedule", args.schedule,
                  "Learning rate: constant, cosine or wsd (warm-up, stable, decay)")
      ->check(CLI::IsMember({"constant", "cosine", "wsd"}));
  verb.add_option("--lr", schedule.peak_lr, "Peak learning rate");
  verb.add_option("--min-lr", schedule.min_lr, "Learning rate at the end (cosine, wsd)");
  verb.add_option("--warmup", schedule.warmup_steps, "Steps over which it rises linearly")
      ->check(whole_number(0));
  verb.add_option("--decay-steps", schedule.decay_steps, "Steps over which it falls (wsd)")
      ->check(whole_number(0));
  verb.add_option("--weight-decay", adamw.weight_decay,
                  "Decoupled; never of A_log, D, biases and norms");
  verb.add_option("--beta1", adamw.beta1, "AdamW's decay of the first moment");
  verb.add_option("--beta2", adamw.beta2, "AdamW's decay of the second moment");
  verb.add_option("--clip", adamw.max_norm, "Largest norm of all gradients together; 0: any");
}

void add_run_options(CLI::App& verb, Arguments& args) {
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
  verb.add_option("--device", args.device, "What computes: cpu or ref");
  verb.add_option("--threads", args.threads, "Threads; 0: one a processor")
      ->check(whole_number(0, 1024));
}

}  // namespace

void add_train_verb(CLI::App& app) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* verb = app.add_subcommand("train", "Train a model on text or on a synthetic task");
  // A flag given again overrides: a script's command can be varied by what is put behind it.
  verb->option_defaults()->always_capture_default()->multi_option_policy(
      CLI::MultiOptionPolicy::TakeLast);
  verb->footer(kFooter);
  add_data_options(*verb, *args);
  add_model_options(*verb, *args);
  add_batch_options(*verb, *args);
  add_optimizer_options(*verb, *args);
  add_run_options(*verb, *args);
  verb->callback([args] { run_train(*args); });
}

}  // namespace elapse
