// SPDX-License-Identifier: Apache-2.0
#include "elapse/train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>

#include "elapse/io/file.h"
#include "elapse/io/safetensors.h"
#include "elapse/model/checkpoint.h"
#include "elapse/train/checkpoint.h"
#include "tests/can_open.h"
#include "tests/io/expect_error.h"
#include "tests/io/temporary_folder.h"
#include "tests/train/tiny_run.h"

namespace elapse {
namespace {

TrainConfig with_curriculum(int64_t steps) {
  TrainConfig config = tiny_training(steps);
  config.curriculum = {{4, 7}, {6, 7}};
  config.accumulate = 2;
  return config;
}

void take_steps(TinyRun& run, int64_t count) {
  for (int64_t i = 0; i < count; ++i) run.trainer().step();
}

TEST(Trainer, learns_to_recall) {
  TrainConfig config = tiny_training(300);
  config.length = 4;
  config.schedule.peak_lr = 0.03;
  TinyRun run(config);
  double first = 0, last = 0;
  for (int64_t step = 1; step <= 300; ++step) {
    const double loss = run.trainer().step().loss;
    if (step <= 10) first += loss / 10;
    if (step > 290) last += loss / 10;
  }
  EXPECT_NEAR(first, std::log(16.0), 0.3);
  EXPECT_LT(last, 0.8 * first);
}

// Twenty steps in bf16 beside as many in float32. Activations are rounded to 8 bits: a loss of 2 to
// 3 nats moves by some thousandths. At a learning rate of 0.01 those of RetNet and of gated linear
// attention move by hundredths. Hyena's move by 0.18 in float32 alone where weights start 2^-9
// apart, on the cpu: it is left out.
TEST(Trainer, trains_in_bf16_as_in_float32_on_cuda) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  Device device("cuda");
  TrainConfig config = tiny_training(20);
  config.batch_tokens = 2048;
  config.length = 64;
  config.schedule.peak_lr = 0.003;
  constexpr int64_t kVocab = InductionTask::kVocabSize;
  std::map<std::string, ModelConfig> shapes = {
      {"gpt2", ModelConfig::gpt2(64, 2, kVocab)},
      {"transformer_plus_plus", ModelConfig::transformer_plus_plus(64, 2, kVocab)}};
  for (const std::string& name : mixer_names()) {
    if (name == "hyena") continue;
    shapes[name] = ModelConfig::of(mixer_named(name), 64, 2, kVocab);
  }
  for (const auto& [name, shape] : shapes) {
    for (const auto loss : {InductionTask::Loss::last_token, InductionTask::Loss::all_tokens}) {
      const InductionTask task(3, loss);
      const LanguageModel wide(device, shape, DType::f32, 7), narrow(device, shape, DType::bf16, 7);
      EXPECT_EQ(narrow.dtype(), DType::f32);
      Trainer in_float32(wide, task, config), in_bf16(narrow, task, config);
      for (int64_t step = 0; step < 20; ++step) {
        const double expected = in_float32.step().loss, found = in_bf16.step().loss;
        EXPECT_NEAR(found, expected, 0.01) << name << ", step " << step;
      }
    }
  }
}

TEST(Trainer, reports_each_step) {
  TinyRun run(with_curriculum(20));
  for (int64_t step = 1; step <= 20; ++step) {
    EXPECT_EQ(run.trainer().steps_done(), step - 1);
    EXPECT_FALSE(run.trainer().finished());
    const StepReport report = run.trainer().step();
    EXPECT_EQ(report.step, step);
    EXPECT_EQ(report.length, step <= 7 ? 4 : step <= 14 ? 6 : 8);
    EXPECT_EQ(report.tokens, 48);
    EXPECT_EQ(report.lr, run.trainer().config().schedule.lr(step - 1, 20));
    EXPECT_GT(report.gradient_norm, 0);
  }
  EXPECT_TRUE(run.trainer().finished());
}

TEST(Trainer, passes_add_up_to_one_step) {
  TrainConfig config = tiny_training(5);
  TinyRun whole(config, DType::f64);
  config.accumulate = 4;  // of six sequences: passes of one and of two
  TinyRun cut(config, DType::f64);
  for (int64_t step = 0; step < 5; ++step) {
    const StepReport a = whole.trainer().step(), b = cut.trainer().step();
    EXPECT_NEAR(a.loss, b.loss, 1e-12);
    EXPECT_NEAR(a.gradient_norm, b.gradient_norm, 1e-11);
  }
}

TEST(Trainer, resumes_bit_for_bit_from_every_step) {
  TinyRun whole(with_curriculum(20));
  take_steps(whole, 20);
  for (int64_t stop = 0; stop <= 20; stop += 5) {
    const TemporaryFolder folder;
    TinyRun first(with_curriculum(20)), second(with_curriculum(20));
    take_steps(first, stop);
    first.trainer().save(folder.path());
    take_steps(second, 2);  // what it was before does not matter
    second.trainer().resume(folder.path());
    EXPECT_EQ(second.trainer().steps_done(), stop);
    EXPECT_EQ(second.weights(), first.weights());
    take_steps(second, 20 - stop);
    EXPECT_EQ(second.weights(), whole.weights()) << stop;
  }
}

TEST(Trainer, equal_runs_write_equal_bytes) {
  const TemporaryFolder folder;
  for (const char* name : {"a", "b"}) {
    TinyRun run(tiny_training(3));
    take_steps(run, 3);
    const FolderLock lock = prepare_run_folder(folder / name);
    run.trainer().save(folder / name);
  }
  for (const char* file : {"resume.safetensors", "model.safetensors", "config.json"}) {
    EXPECT_EQ(read_text(folder / "a/" + file), read_text(folder / "b/" + file));
  }
}

TEST(Trainer, saves_a_model_that_others_load) {
  const TemporaryFolder folder;
  TinyRun run(tiny_training(3));
  take_steps(run, 3);
  run.trainer().save(folder.path());
  Device device("ref");
  EXPECT_EQ(load_model(device, folder.path(), DType::f32)->fingerprint(),
            run.model().fingerprint());
}

TEST(Trainer, does_not_resume_a_run_with_other_settings) {
  const TemporaryFolder folder;
  TinyRun run(tiny_training(3));
  run.trainer().save(folder.path());
  TrainConfig config = tiny_training(3);
  config.adamw.beta2 = 0.999;
  TinyRun other(config);
  const std::string before = other.weights();
  expect_error([&] { other.trainer().resume(folder.path()); },
               "resume.safetensors: the run cannot be resumed with other settings: \"beta2\" was "
               "\"0.95\", found \"0.999\"");
  EXPECT_EQ(other.weights(), before);
}

TEST(Trainer, does_not_resume_from_what_is_no_checkpoint) {
  const TemporaryFolder folder;
  TinyRun run(tiny_training(3));
  expect_error([&] { run.trainer().resume(folder.path()); }, "resume.safetensors: cannot open");
  write_safetensors(folder / "resume.safetensors", host_parameters(run.model()));
  expect_error([&] { run.trainer().resume(folder.path()); },
               "expected a training checkpoint, found none");
}

// Cut anywhere, the file is refused with a sentence.
TEST(Trainer, does_not_resume_from_a_part_of_a_checkpoint) {
  const TemporaryFolder folder;
  TinyRun run(tiny_training(3));
  run.trainer().save(folder.path());
  const std::string whole = read_text(folder / "resume.safetensors");
  for (size_t bytes = 0; bytes < whole.size(); bytes += 197) {
    std::ofstream(folder / "resume.safetensors") << whole.substr(0, bytes);
    EXPECT_THROW(run.trainer().resume(folder.path()), Error) << bytes;
  }
}

TEST(Trainer, stops_when_the_loss_is_not_finite) {
  const TemporaryFolder folder;
  TrainConfig config = tiny_training(9);
  config.schedule.peak_lr = 1e30;
  TinyRun run(config);
  run.trainer().save(folder.path());
  run.trainer().step();
  const std::string before = run.weights();
  const std::string checkpoint = read_text(folder / "resume.safetensors");
  const std::string sentence = "training stopped at step 2: the loss is";
  expect_error([&] { run.trainer().step(); }, sentence);
  expect_error([&] { run.trainer().step(); }, "tensor that is not finite: point \"layers.0.");
  expect_error([&] { run.trainer().step(); },
               "the last good checkpoint: " + (folder / "resume.safetensors") + " of step 0");
  expect_error([&] { run.trainer().save(folder.path()); }, sentence);  // no good weights to save
  EXPECT_EQ(run.weights(), before);
  EXPECT_EQ(read_text(folder / "resume.safetensors"), checkpoint);
}

TEST(Trainer, says_that_no_checkpoint_was_saved) {
  TinyRun run(tiny_training(9));
  run.set_weight("backbone.norm_f.weight", INFINITY);
  expect_error([&] { run.trainer().step(); },
               "not finite: weight \"backbone.norm_f.weight\"; no checkpoint was saved");
}

TEST(Trainer, refuses_what_does_not_go_together) {
  TrainConfig config = tiny_training(3);
  config.length = 2;
  expect_error([&] { TinyRun run(config); }, "expected a length of at least 3");
  Device device("ref");
  ModelConfig small = TinyRun::shape();
  small.vocab_size = 15;
  const LanguageModel model(device, small, DType::f32, 1);
  const InductionTask task(1, InductionTask::Loss::last_token);
  expect_error([&] { Trainer(model, task, tiny_training(3)); },
               "vocabulary: expected a model of at least 16 tokens for this data, found 15");
}

}  // namespace
}  // namespace elapse
