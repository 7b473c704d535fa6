// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/selective_copying.h"

#include "elapse/data/selective_copying.h"
#include "elapse/experiments/spread.h"
#include "elapse/experiments/task_model.h"

namespace elapse {
namespace {

constexpr int64_t kVocab = 16;

// Gu and Dao, 2023, Table 1: the architecture around a layer, the layer, accuracy in percent.
const std::vector<PublishedRow> kPublished = {
    {"S4 without gate, published", {18.3}},
    {"S6 without gate, published", {97.0}},
    {"H3 (S4), published", {57.0}},
    {"Hyena, published", {30.1}},
    {"H3 with S6, published", {99.7}},
    {"S4 in Mamba's block, published", {56.4}},
    {"Hyena in Mamba's block, published", {28.4}},
    {"Mamba (S6), published", {99.8}},
};

std::string task_text(const SelectiveCopyingSettings& s) {
  return fmt::format("{} of {} tokens", s.data_tokens, s.length);
}

// Of every learning rate.
void add(std::vector<ComparedModel>& list, const SelectiveCopyingSettings& s,
         const std::string& name, const std::string& title, const ModelConfig& model) {
  for (const double lr : s.peak_lrs) {
    list.push_back(
        {.name = fmt::format("{}-lr-{}", name, lr),
         .row = fmt::format("{}, this run", title),
         .column = task_text(s),
         .model = model,
         .train = s.train,
         .source =
             [data = s.data_tokens](uint64_t seed) {
               return std::make_shared<SelectiveCopyingTask>(seed, data, kVocab);
             },
         .tests = tests_to_choose_by(s.length, std::make_shared<SelectiveCopyingTask>(
                                                   kSeedToChooseBy, s.data_tokens, kVocab))});
    list.back().train.schedule.peak_lr = lr;
    list.back().train.schedule.min_lr = lr * s.train.schedule.min_lr / s.train.schedule.peak_lr;
  }
}

// Beside Mamba what the published table has beside it: its block with nothing selective, and
// without the gate.
std::vector<ComparedModel> models(const SelectiveCopyingSettings& s) {
  std::vector<ComparedModel> list;
  for (const MixerKind mixer : s.mixers) {
    ModelConfig model = task_model(mixer, s.d_model, s.n_layers, kVocab, s.length);
    add(list, s, std::string(name_of(mixer)), std::string(title_of(mixer)), model);
    if (mixer != MixerKind::mamba) continue;
    model.choose_selection(false, false, false, true);
    add(list, s, "mamba-nothing-selective", "Mamba, nothing selective", model);
    model.choose_selection(true, true, true, false);
    add(list, s, "mamba-no-gate", "Mamba without its gate", model);
  }
  return list;
}

// Of Mamba, with every learning rate.
Settings all_settings(const SelectiveCopyingSettings& s) {
  Settings all =
      run_settings(s.train, task_model(MixerKind::mamba, s.d_model, s.n_layers, kVocab, s.length),
                   SelectiveCopyingTask(1, s.data_tokens, kVocab).description());
  std::erase_if(all, [](const auto& setting) { return setting.first == "min_lr"; });
  for (auto& [name, value] : all) {
    if (name != "lr") continue;
    const double least = s.train.schedule.min_lr / s.train.schedule.peak_lr;
    value = fmt::format("{}", fmt::join(s.peak_lrs, ", "));
    if (least > 0) value += fmt::format(" falling to {} of them", least);
  }
  all.emplace_back("length of the tests", fmt::format("{}", s.length));
  return all;
}

std::string summary(const Comparison& comparison) {
  const ComparedRuns* best = nullptr;
  double highest = -1;
  for (const ComparedRuns& m : comparison.models) {
    const double median = spread_of(m.over_seeds(accuracy_percent)).median;
    if (median > highest) {
      best = &m;
      highest = median;
    }
  }
  if (best == nullptr) return "Every training diverged.";
  return fmt::format("{}: {:.1f} % of the tokens are repeated right, the most here.",
                     best->what.row, highest);
}

}  // namespace

SelectiveCopyingSettings SelectiveCopyingSettings::quick() {
  SelectiveCopyingSettings s;
  s.length = 64;
  s.train.batch_tokens = 4096;
  s.train.length = s.length;
  s.train.steps = 4000;
  s.train.schedule = {
      .kind = Schedule::Kind::cosine, .peak_lr = 5e-3, .min_lr = 5e-4, .warmup_steps = 100};
  s.peak_lrs = {1e-3, 5e-3};
  s.train.adamw = {.beta2 = 0.999, .weight_decay = 0};
  return s;
}

SelectiveCopyingSettings SelectiveCopyingSettings::full() {
  SelectiveCopyingSettings s;
  s.length = 4096;
  s.train.batch_tokens = 64 * s.length;
  s.train.length = s.length;
  s.train.steps = 400000;
  s.train.accumulate = 8;
  s.train.schedule = {.peak_lr = 1e-4};
  s.peak_lrs = {1e-4};
  s.train.adamw = {.beta2 = 0.999, .weight_decay = 0};
  return s;
}

std::string SelectiveCopyingSettings::unlike_published() const {
  const std::string text = differences(all_settings(*this), all_settings(full()));
  return text.empty() ? "" : fmt::format("Not the published run: {}.", text);
}

Comparison run_selective_copying(Device& device, const SelectiveCopyingSettings& settings,
                                 const std::string& folder, const OnExperimentProgress& progress) {
  return compare(device, settings.activations, models(settings), settings.seeds, folder, progress);
}

Table selective_copying_table(const Comparison& comparison) {
  return comparison_table(
      best_learning_rates(comparison), "accuracy, %",
      fmt::format("Of the tokens to repeat, those repeated right; chance is {:.1f}. {} held-out "
                  "sequences; of several learning rates the best on as many others. Published (Gu "
                  "and Dao, 2023, Table 1): 16 of 4096 tokens.",
                  100.0 / static_cast<double>(kVocab - 2), DrawnTask::kHeldOutSequences),
      accuracy_percent, 1, kPublished);
}

Report selective_copying_report(const SelectiveCopyingSettings& settings,
                                const Comparison& comparison) {
  const Comparison best = best_learning_rates(comparison);
  Report report("Selective copying", summary(best));
  report.section("Result").table(selective_copying_table(comparison));
  const std::string unlike = settings.unlike_published();
  if (!unlike.empty()) report.paragraph(unlike);
  report.section("The task")
      .paragraph(fmt::format(
          "{} tokens of {} kinds stand anywhere among noise; after them come as many markers, and "
          "at the i-th the model is to say the i-th of those tokens. Where they stand differs from "
          "sequence to sequence, so that a memory that treats every token alike keeps the noise as "
          "well as the tokens: what is kept has to depend on what is read.",
          settings.data_tokens, kVocab - 2))
      .section("Training")
      .plot(loss_curves(best, task_text(settings)))
      .table(runs_table(comparison))
      .facts(training_facts(comparison));
  return report;
}

}  // namespace elapse
