// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "apps/elapse/checks.h"
#include "apps/elapse/interrupt.h"
#include "apps/elapse/progress.h"
#include "apps/elapse/train_arguments.h"
#include "apps/elapse/train_log.h"
#include "apps/elapse/verbs.h"
#include "elapse/data/associative_recall.h"
#include "elapse/data/induction.h"
#include "elapse/data/mqar.h"
#include "elapse/data/selective_copying.h"
#include "elapse/data/text_data.h"
#include "elapse/generate/model_text.h"
#include "elapse/io/file.h"
#include "elapse/mixers/attention.h"
#include "elapse/mixers/hyena.h"
#include "elapse/model/checkpoint.h"
#include "elapse/model/checkpoint_files.h"
#include "elapse/text/byte_tokenizer.h"
#include "elapse/train/checkpoint.h"
#include "elapse/train/run.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFooter =
    "A run's folder (--out) holds config.json and model.safetensors, which `elapse generate` and "
    "other programs read, and resume.safetensors, which --resume reads. Ctrl-C saves and leaves "
    "with exit status 130; the same command with --resume goes on as if nothing had happened, bit "
    "for bit.\n\n"
    "--model starts from a checkpoint's weights instead of random ones, with the optimizer new and "
    "text cut into tokens as that model reads it; the run's folder gets its tokenizer as well.\n\n"
    "Examples:\n"
    "  elapse train --text book.txt --out run\n"
    "  elapse train --text book.txt --out run --resume\n"
    "  elapse train --model mamba-130m-hf --text book.txt --out tuned --lr 1e-4 --steps 500\n"
    "  elapse train --task induction --out heads --d-model 64 --layers 2 \\\n"
    "      --curriculum 16:600,32:600,64:600,128:600 --length 256 --steps 6000 \\\n"
    "      --schedule constant --lr 1e-3 --weight-decay 0 --eval-length 256";

std::unique_ptr<TokenSource> open_text(const TrainArguments& args, const ModelConfig* start) {
  const ModelText text =
      start ? open_model_text(args.model, start->vocab_size, args.tokenizer) : ModelText();
  // Bytes are tokens as they lie there; made into numbers they would take eight times the room.
  const bool bytes = dynamic_cast<const ByteTokenizer*>(text.tokenizer.get()) != nullptr;
  return std::make_unique<TextData>(
      TextData::open(args.texts, args.seed, bytes ? nullptr : text.tokenizer.get()));
}

std::unique_ptr<TokenSource> make_task(const TrainArguments& args) {
  if (args.task == "selective-copying") {
    return std::make_unique<SelectiveCopyingTask>(args.seed, args.data_tokens,
                                                  args.task_vocab.value_or(16));
  }
  if (args.task == "associative-recall") {
    return std::make_unique<AssociativeRecallTask>(args.seed, args.keys);
  }
  if (args.task == "mqar") {
    return std::make_unique<MqarTask>(args.seed, args.pairs, args.task_vocab.value_or(8192));
  }
  const auto loss = args.induction_loss == "last" ? InductionTask::Loss::last_token
                                                  : InductionTask::Loss::all_tokens;
  return std::make_unique<InductionTask>(args.seed, loss, args.ordinary_tokens);
}

// `start`: of the checkpoint to start from, if there is one.
std::unique_ptr<TokenSource> open_source(const TrainArguments& args, const ModelConfig* start) {
  return args.task.empty() ? open_text(args, start) : make_task(args);
}

// A lower bound of the bytes that training takes: float32 weights with gradients and two moments,
// what each layer keeps of each token for backward: at least the stream that enters it, its norm,
// and the mixer's output; and Hyena's two tables of lags.
double least_bytes(const ModelConfig& c, int64_t tokens) {
  double weights = 0;  // which may be more than a whole number holds
  c.for_each_parameter([&](const std::string&, const Shape& shape) {
    weights += static_cast<double>(shape.numel());
  });
  const auto layers = static_cast<double>(c.n_layers);
  const double kept = 3 * layers * static_cast<double>(c.d_model);
  const double lags = 2 * layers * static_cast<double>(c.l_max) * static_cast<double>(c.emb_dim);
  return sizeof(float) * (4 * weights + kept * static_cast<double>(tokens) + lags);
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

void set_selection(const TrainArguments& args, ModelConfig& config) {
  if (args.selective.empty() && !args.no_gate) return;
  const auto is_selective = [&](const char* name) {
    const auto& names = args.selective;
    return names.empty() || std::find(names.begin(), names.end(), name) != names.end();
  };
  config.choose_selection(is_selective("dt"), is_selective("B"), is_selective("C"), !args.no_gate);
}

// As many as the longest sequence that is trained or evaluated on has, and at least GPT-2's.
int64_t positions_of(const TrainArguments& args, const TrainConfig& train) {
  constexpr int64_t kGpt2Positions = 1024;
  int64_t most = std::max(kGpt2Positions, args.run.eval_length);
  for (const int64_t length : train.lengths()) most = std::max(most, length);
  return most;
}

ModelConfig preset(const TrainArguments& args, const TrainConfig& train, int64_t vocab_size) {
  if (args.mixer == kGpt2) {
    return ModelConfig::gpt2(args.d_model, args.n_layers, vocab_size, positions_of(args, train));
  }
  const MixerKind mixer = mixer_named(args.mixer);
  if (mixer == MixerKind::attention) {
    return ModelConfig::transformer_plus_plus(args.d_model, args.n_layers, vocab_size);
  }
  return ModelConfig::of(mixer, args.d_model, args.n_layers, vocab_size);
}

void set_attention(const TrainArguments& args, ModelConfig& config) {
  if (!args.heads && !args.kv_heads && !args.window) return;
  ELAPSE_CHECK(config.mixer == MixerKind::attention,
               "--heads, --kv-heads and --window: {} mixers have none", args.mixer);
  const int64_t heads = args.heads.value_or(config.n_heads());
  const int64_t kv_heads = args.kv_heads.value_or(heads);
  const bool rotates = config.positions != Positions::none;
  ELAPSE_CHECK(config.d_model % (rotates ? 2 * heads : heads) == 0,
               "--heads: {} do not divide --d-model {} into {}", heads, config.d_model,
               rotates ? "even widths, which rotary positions need" : "equal widths");
  ELAPSE_CHECK(heads % kv_heads == 0, "--kv-heads: {} do not divide the {} heads", kv_heads, heads);
  config.head_dim = config.d_model / heads;
  config.n_kv_heads = kv_heads;
  config.window = args.window.value_or(0);
}

void set_hyena(const TrainArguments& args, ModelConfig& config) {
  if (!args.l_max && !args.emb_dim && !args.sine_freq) return;
  ELAPSE_CHECK(config.mixer == MixerKind::hyena,
               "--l-max, --emb-dim and --sine-freq: {} mixers have none", args.mixer);
  config.l_max = args.l_max.value_or(config.l_max);
  config.emb_dim = args.emb_dim.value_or(config.emb_dim);
  config.sine_freq = args.sine_freq.value_or(config.sine_freq);
  ELAPSE_CHECK(config.emb_dim >= 3 && config.emb_dim % 2 == 1,
               "--emb-dim: expected an odd number from 3 on, found {}", config.emb_dim);
  const int64_t most = HyenaConfig::most_lags(config.d_model, config.emb_dim);
  ELAPSE_CHECK(config.l_max >= 2 && config.l_max <= most,
               "--l-max: expected 2 to {} with --d-model {} and --emb-dim {}, found {}", most,
               config.d_model, config.emb_dim, config.l_max);
  ELAPSE_CHECK(config.sine_freq > 0 && config.sine_freq <= HyenaConfig::kMostFreq,
               "--sine-freq: expected a number above 0, to {}, found {}", HyenaConfig::kMostFreq,
               config.sine_freq);
}

ModelConfig new_config(const TrainArguments& args, const TrainConfig& train, int64_t vocab_size) {
  ModelConfig config = preset(args, train, vocab_size);
  ELAPSE_CHECK(config.d_state > 0 || !args.d_state, "--d-state: {} mixers have none", args.mixer);
  config.d_state = args.d_state.value_or(config.d_state);
  set_selection(args, config);
  set_attention(args, config);
  if (!args.ssm_init.empty()) {
    ELAPSE_CHECK(is_diagonal(config.mixer), "--ssm-init: {} mixers have none", args.mixer);
    config.diagonal_init = *diagonal_init_named(args.ssm_init);
  }
  set_hyena(args, config);
  config.d_intermediate = args.d_intermediate.value_or(config.d_intermediate);
  if (config.d_intermediate > 0) {
    config.layout = Layout::original;  // the other has none beside Mamba
  } else {
    config.mlp = MlpKind::swiglu;
    config.mlp_bias = false;
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
  Display(const TrainArguments& args, int64_t steps_done)
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
  const Interrupt& interrupt() const { return interrupt_; }

 private:
  Interrupt interrupt_;
  Progress progress_;
  std::optional<TrainLog> log_;
  double seconds_ = 0;  // of a step, smoothed
  std::optional<Evaluation> last_;
};

// The files that make text of the tokens and say where it ends, which the run's folder gets so that
// it stands for itself: their names there, and where they come from.
std::map<std::string, fs::path> companions(const TrainArguments& args) {
  if (args.model.empty()) return {};
  std::error_code none;
  if (fs::is_regular_file(args.tokenizer, none)) return {{"tokenizer.json", args.tokenizer}};
  const fs::path from = args.tokenizer.empty() ? args.model : args.tokenizer;
  std::map<std::string, fs::path> files;
  for (const std::string& name : companion_files()) {
    // Another tokenizer's numbers would be read as where this one's texts end.
    if (!args.tokenizer.empty() && name == "generation_config.json") continue;
    if (file_exists((from / name).string())) files.emplace(name, from / name);
  }
  return files;
}

// A tokenizer that was there would be taken for the new model's. What the run itself puts there may
// be there: a killed one may have got that far.
void refuse_to_overwrite(const TrainArguments& args) {
  const std::string& folder = args.run.out;
  ELAPSE_CHECK(!has_checkpoint(folder),
               "{}: expected no training run in the folder yet, found {}; --resume continues it",
               folder, resume_path(folder));
  const auto own = companions(args);
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, none)) {
    const std::string name = entry.path().filename().string();
    ELAPSE_CHECK(
        !is_checkpoint_file(name) || own.contains(name),
        "{}: expected a folder without a model or a part of one, found this; training would "
        "replace it, or text be read by it",
        entry.path().string());
  }
}

void start_or_resume(Trainer& trainer, const TrainArguments& args) {
  if (args.resume && has_checkpoint(args.run.out)) {
    trainer.resume(args.run.out);
    fmt::print(stderr, "resuming after step {}\n", trainer.steps_done());
    return;
  }
  refuse_to_overwrite(args);
  if (args.resume) fmt::print(stderr, "{}: nothing to resume yet, starting\n", args.run.out);
}

// What to train, and on what. A model is made once its source is known to be good, and known to
// fit.
struct Subject {
  std::unique_ptr<TokenSource> source;
  std::unique_ptr<LanguageModel> model;
};

Subject new_subject(const TrainArguments& args, const TrainConfig& train, Device& device) {
  auto source = open_source(args, nullptr);
  const ModelConfig config = new_config(args, train, source->vocab_size());
  check_memory(config, train);
  return {std::move(source),
          std::make_unique<LanguageModel>(device, config, compute_dtype(args.dtype), args.seed)};
}

Subject subject_from_checkpoint(const TrainArguments& args, const TrainConfig& train,
                                Device& device) {
  const ModelConfig config = open_checkpoint(args.model).config;
  check_memory(config, train);
  auto source = open_source(args, &config);
  return {std::move(source),
          load_model(device, args.model, compute_dtype(args.dtype), WeightMemory::trained)};
}

void run_train(const CLI::App& verb, const TrainArguments& args) {
  TrainConfig config = train_config(verb, args);
  Device device(args.device, args.threads);
  const auto [source, model] = args.model.empty() ? new_subject(args, config, device)
                                                  : subject_from_checkpoint(args, config, device);
  if (!args.model.empty()) config.start = "the model of fingerprint " + model->fingerprint();
  Trainer trainer(*model, *source, config);
  trainer.check_evaluation(args.run.eval_length);
  if (!args.log.empty()) make_folder_of(args.log);
  const FolderLock lock = prepare_run_folder(args.run.out);
  start_or_resume(trainer, args);
  const fs::path out = args.run.out;
  for (const auto& [name, from] : companions(args)) copy_file(from.string(), (out / name).string());
  Display display(args, trainer.steps_done());
  run(trainer, args.run, display);
  if (!trainer.finished()) {
    display.interrupt().end("{}: stopped and saved after step {} of {}; --resume continues",
                            args.run.out, trainer.steps_done(), config.steps);
  }
  fmt::print("{}: step {} of {}{}\n", args.run.out, trainer.steps_done(), config.steps,
             display.last() ? ": " + text_of(*display.last()) : "");
}

}  // namespace

void add_train_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("train", "Train a model on text or on a synthetic task");
  verb->footer(kFooter);
  const auto args = add_train_arguments(*verb);
  verb->callback([args, verb] { run_train(*verb, *args); });
}

}  // namespace elapse
