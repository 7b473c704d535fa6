// SPDX-License-Identifier: Apache-2.0
// The experiments that set several models and seeds beside each other.
#include "elapse/experiments/comparison.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "elapse/experiments/ablations.h"
#include "elapse/experiments/mqar.h"
#include "elapse/experiments/scaling.h"
#include "elapse/experiments/selective_copying.h"
#include "elapse/experiments/spread.h"
#include "elapse/experiments/task_model.h"
#include "elapse/io/json.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

const OnExperimentProgress kQuiet = [](const ExperimentProgress& now) {
  EXPECT_LE(now.done, now.total) << now.stage;
};

SelectiveCopyingSettings tiny_copying() {
  SelectiveCopyingSettings s = SelectiveCopyingSettings::quick();
  s.mixers = {MixerKind::gru, MixerKind::mamba};
  s.d_model = 8;
  s.n_layers = 1;
  s.train.batch_tokens = 128;
  s.train.steps = 3;
  s.train.schedule = {};
  s.peak_lrs = {1e-3};
  s.seeds = {5, 3};
  return s;
}

// Heads, and the keys (or states) and values of one.
struct Heads {
  int64_t n_heads, keys, values;
};
Heads heads_of(const ModelConfig& c) {
  if (c.mixer == MixerKind::attention) {
    EXPECT_EQ(c.n_kv_heads, c.n_heads());
    return {c.n_heads(), c.head_dim, c.head_dim};
  }
  return {c.n_heads(), c.d_state, c.head_dim};
}
void expect_heads(const ModelConfig& c, const Heads& expected) {
  const std::string what = fmt::format("{}, d_model {}", name_of(c.mixer), c.d_model);
  EXPECT_EQ(heads_of(c).n_heads, expected.n_heads) << what;
  EXPECT_EQ(heads_of(c).keys, expected.keys) << what;
  EXPECT_EQ(heads_of(c).values, expected.values) << what;
  EXPECT_EQ(c.d_inner, expected.n_heads * expected.values) << what;
  EXPECT_EQ(ModelConfig::parse(Json::parse(c.in_layout(Layout::original).json(), "json")).n_heads(),
            expected.n_heads)
      << what;
}

TEST(TaskModel, HasHeadsAtEveryWidthOfTheTasksAndFamilies) {
  for (const int64_t d_model : {32, 48, 64, 96, 128, 192}) {
    const int64_t n = d_model / 16;
    const std::pair<MixerKind, Heads> all[] = {{MixerKind::attention, {n, 16, 16}},
                                               {MixerKind::mamba2, {2 * n, 32, 16}},
                                               {MixerKind::linear_attention, {n, 32, 16}},
                                               {MixerKind::retnet, {n, 16, 32}},
                                               {MixerKind::gla, {n, 32, 16}}};
    for (const auto& [mixer, heads] : all) {
      expect_heads(task_model(mixer, d_model, 2, 256, 64), heads);
      expect_heads(scaled_model(mixer, d_model, 100000, 64), heads);
    }
  }
  for (size_t kind = 0; kind < kMixerKinds; ++kind) {  // wide enough as they are
    const auto mixer = static_cast<MixerKind>(kind);
    EXPECT_EQ(with_heads(mixer, 256, 2, 256), ModelConfig::of(mixer, 256, 2, 256));
  }
}

TEST(TaskModel, OfAMatrixMemoryRemembersAsManyNumbersAsMamba) {
  const auto numbers = [](MixerKind mixer) {
    const ModelConfig c = task_model(mixer, 64, 2, 256, 64);
    return c.d_inner * c.d_state;
  };
  for (const MixerKind mixer : {MixerKind::linear_attention, MixerKind::retnet, MixerKind::gla}) {
    EXPECT_EQ(numbers(mixer), numbers(MixerKind::mamba)) << name_of(mixer);
  }
}

TEST(TaskModel, SeesTheWholeSequence) {
  for (const MixerKind mixer : {MixerKind::hyena, MixerKind::wavenet}) {
    for (const int64_t length : {4, 64, 128, 256, 4096}) {
      const ModelConfig c = task_model(mixer, 64, 2, 16, length);
      EXPECT_TRUE(has_reach(mixer));
      EXPECT_GE(reach_of(c), length) << name_of(mixer);
      if (mixer == MixerKind::hyena) EXPECT_EQ(c.l_max, length);
      else EXPECT_EQ(reach_of(c), length);
      EXPECT_EQ(c.n_layers, mixer == MixerKind::hyena ? 2 : std::lround(std::log2(length)));
      const ModelConfig again =
          ModelConfig::parse(Json::parse(c.in_layout(Layout::original).json(), "json"));
      EXPECT_EQ(again.l_max, c.l_max);
      EXPECT_EQ(again.sine_freq, mixer == MixerKind::hyena ? 1 : 0);
    }
  }
  EXPECT_FALSE(has_reach(MixerKind::mamba));
  // The reach is real: a token hears the first of as many, and not the one before. By sums, as
  // transforms spread rounding over all tokens.
  Device device("ref");
  for (const MixerKind mixer : {MixerKind::hyena, MixerKind::wavenet}) {
    const ModelConfig c = task_model(mixer, 8, 2, 16, 8);
    const LanguageModel model(device, c, DType::f64, 1);
    const auto last = [&](int64_t changed) {
      std::vector<int64_t> tokens(32, 3);
      if (changed >= 0) tokens[static_cast<size_t>(changed)] = 9;
      Tape tape(device, false);
      const Tensor logits =
          model
              .forward(tape, {device.upload(tokens, {32}), make_sequences(device, {32}),
                              device.upload(std::vector<int64_t>{31}, {1})})
              .value();
      return std::vector<double>(logits.data<double>(), logits.data<double>() + logits.numel());
    };
    const int64_t reach = reach_of(c);
    EXPECT_EQ(reach, mixer == MixerKind::hyena ? 2 * (7 + 2) + 1 : 8);
    EXPECT_NE(last(32 - reach), last(-1)) << name_of(mixer);
    EXPECT_EQ(last(32 - reach - 1), last(-1)) << name_of(mixer);
  }
}

TEST(Spread, IsTheMedianAndTheEndsOfWhatIsThere) {
  const double none = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(spread_text({2.25}, 1), "2.2");
  EXPECT_EQ(spread_text({3, 1, 2}, 1), "2.0 [1.0, 3.0]");
  EXPECT_EQ(spread_text({4, none, 1, 2, 3}, 1), "2.5 [1.0, 4.0]");
  EXPECT_EQ(spread_text({none}, 1), "–");
  EXPECT_EQ(spread_text({}, 1), "–");
}

TEST(Comparison, RunsEveryModelFromEverySeed) {
  const TemporaryFolder folder;
  Device device("cpu", 2);
  const SelectiveCopyingSettings settings = tiny_copying();
  std::vector<std::string> stages;
  const Comparison c =
      run_selective_copying(device, settings, folder.path(), [&](const ExperimentProgress& now) {
        if (now.done == 1) stages.push_back(now.stage);
      });
  ASSERT_EQ(stages.size(), 12U);
  EXPECT_EQ(stages[1], "2/12 Mamba, this run, 16 of 64 tokens, seed 5: train");
  EXPECT_EQ(stages[11], "12/12 Mamba without its gate, this run, 16 of 64 tokens, seed 7: train");
  ASSERT_EQ(c.models.size(), 4U);
  for (const ComparedRuns& m : c.models) {
    ASSERT_EQ(m.runs.size(), 3U);
    EXPECT_NE(m.runs[0].losses, m.runs[1].losses);
    EXPECT_EQ(m.runs[0].tests.front().targets, 16 * 512);
  }
  EXPECT_EQ(c.models[0].runs[0].parameters, c.models[0].what.model.parameter_count());
}

TEST(Comparison, KeepsTheBestOfARowAndColumn) {
  const auto runs = [](const char* row, const std::vector<double>& losses) {
    ComparedRuns m;
    m.what.row = row;
    m.what.column = "task";
    for (const double loss : losses) m.runs.emplace_back().losses = {loss};
    return m;
  };
  const Comparison all = {.seeds = {1, 3},
                          .models = {runs("a", {1, 2, 9}), runs("b", {1, 1, 1}),
                                     runs("a", {4, 4, 4}), runs("a", {3, 3, 9})}};
  const Comparison best = all.best([](const RunResult& run) { return run.losses.front(); });
  ASSERT_EQ(best.models.size(), 2U);
  EXPECT_EQ(best.models[0].runs[0].losses.front(), 4);
  EXPECT_EQ(best.models[1].what.row, "b");
}

// Whichever comes first: with one learning rate of two that diverged, and with both.
TEST(Comparison, PrefersWhatDidNotDiverge) {
  const auto runs = [](const char* name, const std::vector<double>& accuracies) {
    ComparedRuns m;
    m.what.name = name;
    for (const double accuracy : accuracies) {
      RunResult& run = m.runs.emplace_back();
      if (std::isfinite(accuracy)) run.tests = {{.accuracy = accuracy}};
      else run.diverged = {.step = 7, .reason = "the loss is nan"};
    }
    return m;
  };
  const auto best = [](const ComparedRuns& a, const ComparedRuns& b) {
    const Comparison all = {.seeds = {1, std::ssize(a.runs)}, .models = {a, b}};
    const Comparison kept = all.best(accuracy_percent);
    return kept.models.front().what.name;
  };
  const ComparedRuns low = runs("low", {0.1}), gone = runs("gone", {NAN});
  EXPECT_EQ(best(low, gone), "low");
  EXPECT_EQ(best(gone, low), "low");
  EXPECT_EQ(best(gone, gone), "gone");
  const ComparedRuns steady = runs("steady", {0.5, 0.5, 0.5}), lucky = runs("lucky", {1, NAN, NAN});
  EXPECT_EQ(best(lucky, steady), "steady");
  EXPECT_EQ(gone.text(accuracy_percent, 1), "diverged");
  EXPECT_EQ(lucky.text(accuracy_percent, 1), "100.0 [100.0, 100.0], 2 of 3 diverged");
}

// A learning rate at which nothing survives: the run is told of, and the next one goes on.
TEST(Comparison, ARunThatDivergesIsInTheTable) {
  const TemporaryFolder folder;
  Device device("cpu", 2);
  SelectiveCopyingSettings settings = tiny_copying();
  settings.seeds = {1, 1};
  settings.train.steps = 8;
  settings.peak_lrs = {1e38};
  const Comparison c = run_selective_copying(device, settings, folder.path(), kQuiet);
  ASSERT_EQ(c.models.size(), 4U);
  const auto gone = std::count_if(c.models.begin(), c.models.end(),
                                  [](const ComparedRuns& m) { return m.diverged() == 1; });
  EXPECT_GT(gone, 0);
  EXPECT_NE(selective_copying_table(c).text().find("diverged"), std::string::npos);
  EXPECT_NE(runs_table(c).text().find("diverged at step"), std::string::npos);
  EXPECT_NE(selective_copying_report(settings, c).html().find("diverged"), std::string::npos);
  const Json json = Json::parse(comparison_json(c, "selective-copying", ""), "json");
  int64_t told = 0;
  for (const Json& row : json.at("rows").items()) told += row.has("diverged_at_step") ? 1 : 0;
  EXPECT_EQ(told, gone);
  // Beside a learning rate that is sound it is in the table of runs alone.
  settings.peak_lrs = {1e38, 1e-3};
  settings.mixers = {MixerKind::gru};
  const Comparison both = run_selective_copying(device, settings, folder.path(), kQuiet);
  EXPECT_EQ(both.models.size(), 2U);
  EXPECT_EQ(selective_copying_table(both).text().find("diverged"), std::string::npos);
}

TEST(Comparison, JsonHasEveryRun) {
  const TemporaryFolder folder;
  Device device("cpu", 2);
  const SelectiveCopyingSettings settings = tiny_copying();
  const Comparison c = run_selective_copying(device, settings, folder.path(), kQuiet);
  const Json json =
      Json::parse(comparison_json(c, "selective-copying", settings.unlike_published()), "json");
  EXPECT_EQ(json.text("experiment"), "selective-copying");
  const std::vector<Json> rows = json.at("rows").items();
  ASSERT_EQ(rows.size(), 12U);
  EXPECT_EQ(rows[4].text("mixer"), "mamba");
  EXPECT_EQ(rows[4].integer("seed"), 6);
  EXPECT_EQ(rows[4].integer("length"), 64);
  EXPECT_DOUBLE_EQ(rows[4].number("accuracy"), c.models[1].runs[1].tests.front().accuracy);
  EXPECT_DOUBLE_EQ(rows[4].number("training_loss"), c.models[1].runs[1].final_loss());
}

TEST(SelectiveCopying, TableAndReportStandBesideThePublished) {
  const TemporaryFolder folder;
  Device device("cpu", 2);
  const SelectiveCopyingSettings settings = tiny_copying();
  const Comparison c = run_selective_copying(device, settings, folder.path(), kQuiet);
  const std::string table = selective_copying_table(c).text();
  const double median = spread_of(c.models[1].over_seeds(accuracy_percent)).median;
  for (const std::string& part :
       {std::string("Mamba, this run"), std::string("Mamba, nothing selective, this run"),
        std::string("Mamba (S6), published"), std::string("99.8"), std::string("GRU, this run"),
        fmt::format("{:.1f} [", median)}) {
    EXPECT_NE(table.find(part), std::string::npos) << part;
  }
  EXPECT_NE(selective_copying_report(settings, c).html().find("Loss while training"),
            std::string::npos);
}

TEST(SelectiveCopying, TheFullRunIsThePublishedOne) {
  for (SelectiveCopyingSettings s :
       {SelectiveCopyingSettings::quick(), SelectiveCopyingSettings::full()}) {
    s.train.check();
    EXPECT_EQ(s.train.length, s.length);
  }
  EXPECT_EQ(SelectiveCopyingSettings::full().train.sequences(4096), 64);
  EXPECT_TRUE(SelectiveCopyingSettings::full().unlike_published().empty());
  EXPECT_NE(SelectiveCopyingSettings::quick().unlike_published().find("4096"), std::string::npos);
}

TEST(Mqar, HasACellForEveryMixerSizeAndWidth) {
  const TemporaryFolder folder;
  Device device("cpu", 2);
  MqarSettings s = MqarSettings::quick();
  s.mixers = {MixerKind::mamba, MixerKind::lstm};
  s.sizes = {{16, 2}, {32, 4}};
  s.d_models = {8, 16};
  s.n_layers = 1;
  s.sequences = 3;
  s.train.steps = 2;
  s.train.schedule = {};
  s.peak_lrs = {1e-3, 1e-1};
  const Comparison c = run_mqar(device, s, folder.path(), kQuiet);
  ASSERT_EQ(c.models.size(), 16U);
  EXPECT_EQ(c.models[6].what.column, "16 tokens, 2 pairs, d_model 16");
  EXPECT_EQ(c.models[6].what.model.mixer, MixerKind::lstm);
  EXPECT_EQ(c.models[7].what.train.schedule.peak_lr, 1e-1);
  EXPECT_EQ(c.models[15].runs[0].tests.front().targets, 4 * 512);
  // The learning rate is chosen on sequences that are not shown.
  const std::vector<Evaluation>& tests = c.models[6].runs[0].tests;
  ASSERT_EQ(tests.size(), 2U);
  EXPECT_EQ(tests[1].targets, tests[0].targets);
  EXPECT_NE(tests[1].loss, tests[0].loss);
  const std::string table = mqar_table(s, c).text();
  EXPECT_NE(table.find("32 tokens, 4 pairs, d_model 8"), std::string::npos);
  const std::string page = mqar_report(s, c).html();
  EXPECT_NE(page.find("Accuracy against width, 32 tokens, 4 pairs"), std::string::npos);
  for (const MqarSettings& sound : {MqarSettings::quick(), MqarSettings::full()}) {
    sound.train.check();
  }
}

TEST(Ablations, ComparesSelectionAndStates) {
  const TemporaryFolder folder;
  Device device("cpu", 2);
  AblationSettings s = AblationSettings::quick();
  for (int i = 0; i < 400; ++i) s.text += "abcab cabba";
  s.text_name = "book.txt";
  s.d_model = 8;
  s.n_layers = 1;
  s.d_states = {2, 16};
  s.test_length = 64;
  s.train.batch_tokens = s.train.length = 32;
  s.train.steps = 2;
  s.train.schedule = {};
  s.seeds = {1, 2};
  const Comparison c = run_ablations(device, s, folder.path(), kQuiet);
  // Seven, two of other states (those of 16 are there already), and four of S4D.
  ASSERT_EQ(c.models.size(), 13U);
  for (const ComparedRuns& m : c.models) {
    EXPECT_EQ(m.runs.size(), 2U);
    EXPECT_EQ(m.what.model.parameter_count(), m.runs[0].parameters);
    EXPECT_NE(m.runs[0].losses, m.runs[1].losses);
  }
  const std::vector<Table> tables = ablation_tables(s, c);
  ASSERT_EQ(tables.size(), 3U);
  EXPECT_NE(tables[2].text().find("complex, legs"), std::string::npos);
  EXPECT_NE(tables[0].text().find("✗"), std::string::npos);
  EXPECT_NE(ablation_report(s, c).html().find("What of Mamba matters"), std::string::npos);
  EXPECT_NE(ablation_json(s, c).find("\"nothing selective, no gate, d_state 16\""),
            std::string::npos);
}

}  // namespace
}  // namespace elapse
