// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/induction.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "elapse/data/induction.h"
#include "elapse/experiments/recall.h"
#include "elapse/io/json.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

InductionSettings tiny() {
  InductionSettings s = InductionSettings::quick();
  s.models = {ModelConfig::mamba(16, 2, InductionTask::kVocabSize)};
  s.train.batch_tokens = 64;
  s.train.curriculum = {{8, 2}};
  s.train.length = 16;
  s.train.steps = 4;
  s.train.schedule = {};
  s.tests = {{64, 5}, {128, 3}};
  return s;
}

InductionResult run(const InductionSettings& settings, int threads) {
  const TemporaryFolder folder;
  Device device("cpu", threads);
  return run_induction(device, settings, folder.path(), [](const ExperimentProgress& now) {
    EXPECT_LE(now.done, now.total) << now.stage;
  });
}

const RunResult& only_run(const InductionResult& result) {
  return result.comparison.models.front().runs.front();
}

TEST(Induction, MeasuresEveryLengthAndKeepsEveryLoss) {
  const InductionResult result = run(tiny(), 2);
  const RunResult& only = only_run(result);
  ASSERT_EQ(only.tests.size(), 2U);
  EXPECT_EQ(only.tests[1].length, 128);
  EXPECT_EQ(only.tests[1].targets, 3);
  EXPECT_LE(only.tests[1].accuracy, 1);
  EXPECT_EQ(only.losses.size(), 4U);
  ASSERT_EQ(result.step_sizes.size(), 2U);
  EXPECT_EQ(result.step_sizes[0].mean.size(), 256U);
}

TEST(Induction, GivesTheSameBitsOnAnyNumberOfThreads) {
  const InductionResult one = run(tiny(), 1), three = run(tiny(), 3);
  EXPECT_EQ(only_run(one).losses, only_run(three).losses);
  EXPECT_EQ(one.step_sizes[1].selective, three.step_sizes[1].selective);
}

TEST(Induction, LooksForNoStepSizesOfTokensWhereAllHaveTheSame) {
  InductionSettings settings = tiny();
  for (const MixerKind mixer : {MixerKind::s4d, MixerKind::h3}) {
    settings.models = {ModelConfig::of(mixer, 16, 2, InductionTask::kVocabSize)};
    const InductionResult result = run(settings, 2);
    EXPECT_TRUE(result.step_sizes.empty());
    EXPECT_NE(induction_report(settings, result).html().find(title_of(mixer)), std::string::npos);
  }
}

TEST(Induction, TakesMamba2) {
  InductionSettings settings = tiny();
  settings.models = {ModelConfig::mamba2(16, 2, InductionTask::kVocabSize)};
  const InductionResult one = run(settings, 1), three = run(settings, 3);
  EXPECT_EQ(only_run(one).losses, only_run(three).losses);
  EXPECT_NE(induction_json(settings, one).find("\"mixer\": \"mamba2\""), std::string::npos);
  EXPECT_NE(induction_table(settings, one).text().find("Mamba-2, this run"), std::string::npos);
  EXPECT_EQ(InductionSettings::model_of(MixerKind::mamba2).n_heads(), 8);
}

TEST(Induction, JsonSaysWhatWasMeasured) {
  const InductionSettings settings = tiny();
  const InductionResult result = run(settings, 1);
  const Json json = Json::parse(induction_json(settings, result), "result.json");
  EXPECT_EQ(json.text("experiment"), "induction");
  const std::vector<Json> rows = json.at("rows").items();
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].text("mixer"), "mamba");
  EXPECT_EQ(rows[0].integer("length"), 64);
  EXPECT_EQ(rows[0].integer("sequences"), 5);
  EXPECT_DOUBLE_EQ(rows[0].number("accuracy"), only_run(result).tests[0].accuracy);
}

TEST(Induction, ReportAndTableStandBesideThePublished) {
  const InductionSettings settings = tiny();
  const InductionResult result = run(settings, 1);
  const std::string table = induction_table(settings, result).text();
  for (const char* part : {"Mamba, this run", "Mamba, published", "H3, published", "2^6", "2^7"}) {
    EXPECT_NE(table.find(part), std::string::npos) << part;
  }
  EXPECT_NE(induction_report(settings, result).html().find("the token after the prefix"),
            std::string::npos);
}

TEST(Induction, SetsMixersAndSeedsBesideEachOther) {
  InductionSettings settings = tiny();
  settings.models = {
      ModelConfig::of(MixerKind::gru, 16, 2, InductionTask::kVocabSize),
      ModelConfig::mamba(16, 2, InductionTask::kVocabSize),
  };
  settings.seeds = {4, 2};
  const InductionResult result = run(settings, 2);
  EXPECT_EQ(result.looked_at, "Mamba");  // GRUs have no step sizes
  const std::vector<Json> rows =
      Json::parse(induction_json(settings, result), "result.json").at("rows").items();
  ASSERT_EQ(rows.size(), 8U);
  EXPECT_EQ(rows[3].text("mixer"), "gru");
  EXPECT_EQ(rows[3].integer("seed"), 5);
  EXPECT_EQ(rows[3].integer("length"), 128);
  const std::string table = induction_table(settings, result).text();
  for (const char* part : {"Mamba, this run", "GRU, this run", "Of 2 seeds the median"}) {
    EXPECT_NE(table.find(part), std::string::npos) << part;
  }
  EXPECT_NE(induction_report(settings, result).html().find("Mamba: the step size dt"),
            std::string::npos);
}

// Attention, whose work grows with the square of the length, is not trained on the longest.
TEST(Induction, SaysOfEveryModelWhatItWasTrainedOn) {
  InductionSettings settings = tiny();
  settings.models = {ModelConfig::of(MixerKind::gru, 16, 1, InductionTask::kVocabSize),
                     ModelConfig::of(MixerKind::attention, 16, 1, InductionTask::kVocabSize)};
  settings.tests = {{64, 5}};
  settings.train.curriculum = {{64, 1}, {8192, 2}};
  settings.train.length = settings.train.batch_tokens = 64;
  settings.train.steps = 4;
  settings.train.schedule = {};
  const InductionResult result = run(settings, 2);
  const std::vector<Json> runs =
      Json::parse(induction_json(settings, result), "result.json").at("runs").items();
  ASSERT_EQ(runs.size(), 2U);
  EXPECT_EQ(runs[0].integer("steps"), 4);
  EXPECT_EQ(runs[0].integer("longest"), 8192);
  EXPECT_EQ(runs[1].integer("steps"), 2);
  EXPECT_EQ(runs[1].integer("longest"), 64);
  EXPECT_NE(induction_table(settings, result).text().find("8192 tokens; Attention at up to 64;"),
            std::string::npos);
  const std::string page = induction_report(settings, result).html();
  EXPECT_NE(page.find("4 steps: 1 of 64, 2 of 8192, 1 of 64 tokens"), std::string::npos);
  EXPECT_NE(page.find("2 steps: 1 of 64, 1 of 64 tokens"), std::string::npos);
}

TEST(Induction, OfAnotherTrainingItIsNotThePublishedRun) {
  const auto expect = [](const InductionSettings& s, const std::string& difference) {
    EXPECT_NE(s.unlike_published().find(difference), std::string::npos) << s.unlike_published();
  };
  InductionSettings s = InductionSettings::full();
  s.models = {InductionSettings::model_of(MixerKind::attention),
              InductionSettings::model_of(MixerKind::mamba)};
  EXPECT_EQ(s.unlike_published(), "");
  s.train.schedule.peak_lr = 0.1;
  s.train.batch_tokens = 256;
  expect(s, "lr 0.1 instead of 0.001");
  expect(s, "batch_tokens 256 instead of 2048");
  s = InductionSettings::full();
  s.train.steps += 1;
  expect(s, "steps 204801 instead of 204800");
  s = InductionSettings::full();
  s.models[0] = ModelConfig::mamba(16, 2, InductionTask::kVocabSize);
  expect(s, "d_model 16 instead of 64");
  s = InductionSettings::full();
  s.tests.pop_back();
  expect(s, "tests ");
}

TEST(Induction, APredictedAnswerIsCountedHoweverTheSequenceIsCut) {
  Device device("cpu", 2);
  const LanguageModel model(device, ModelConfig::mamba(16, 1, InductionTask::kVocabSize),
                            DType::f32, 3);
  const InductionTask task(5, InductionTask::Loss::last_token);
  constexpr int64_t kLength = 600, kSequences = 17;  // more than one group, more than one chunk
  int64_t expected = 0, seen = 0;
  for (int64_t b = 0; seen < kSequences; ++b) {
    const TokenBatch held_out = task.held_out_batch(b, kLength);
    for (size_t s = 0; s < held_out.lengths.size() && seen < kSequences; ++s, ++seen) {
      const auto begin = held_out.tokens.begin() + static_cast<int64_t>(s) * kLength;
      Tape tape(device, false);
      const Batch whole = {device.upload(std::vector<int64_t>(begin, begin + kLength), {kLength}),
                           make_sequences(device, {kLength}),
                           device.upload(std::vector<int64_t>{kLength - 1}, {1})};
      const Tensor logits = model.forward(tape, whole).value();
      const float* row = logits.data<float>();
      const auto answer = std::max_element(row, row + InductionTask::kVocabSize) - row;
      expected += answer == held_out.targets[s] ? 1 : 0;
    }
  }
  EXPECT_EQ(count_recalled(model, task, kLength, kSequences, [](double) {}), expected);
}

TEST(Induction, TheQuickAndTheFullRunAreSound) {
  for (const InductionSettings& s : {InductionSettings::quick(), InductionSettings::full()}) {
    s.train.check();
    EXPECT_EQ(s.tests.front().length, 64);
    EXPECT_EQ(s.tests.back().length, 1 << 20);
  }
  EXPECT_TRUE(InductionSettings::full().unlike_published().empty());
  EXPECT_NE(InductionSettings::quick().unlike_published().find("32768"), std::string::npos);
}

}  // namespace
}  // namespace elapse
