// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/mqar.h"

#include "elapse/data/mqar.h"
#include "elapse/experiments/spread.h"
#include "elapse/experiments/task_model.h"

namespace elapse {
namespace {

std::string size_text(const MqarSettings::Size& size) {
  return fmt::format("{} tokens, {} pairs", size.length, size.pairs);
}

std::string column_text(const MqarSettings::Size& size, int64_t d_model) {
  return fmt::format("{}, d_model {}", size_text(size), d_model);
}

ComparedModel model(const MqarSettings& s, MixerKind mixer, const MqarSettings::Size& size,
                    int64_t d_model, double peak_lr) {
  ComparedModel m = {
      .name = fmt::format("{}-{}-{}-lr-{}", name_of(mixer), size.length, d_model, peak_lr),
      .row = std::string(title_of(mixer)),
      .column = column_text(size, d_model),
      .model = task_model(mixer, d_model, s.n_layers, s.vocab_size, size.length),
      .train = s.train,
      .source = [pairs = size.pairs, vocab = s.vocab_size](
                    uint64_t seed) { return std::make_shared<MqarTask>(seed, pairs, vocab); },
      .tests = tests_to_choose_by(
          size.length, std::make_shared<MqarTask>(kSeedToChooseBy, size.pairs, s.vocab_size))};
  m.train.length = size.length;
  m.train.batch_tokens = s.sequences * size.length;
  m.train.schedule.peak_lr = peak_lr;
  m.train.schedule.min_lr = peak_lr / 10;
  return m;
}

std::vector<ComparedModel> models(const MqarSettings& s) {
  std::vector<ComparedModel> list;
  for (const MqarSettings::Size& size : s.sizes) {
    for (const int64_t d_model : s.d_models) {
      for (const MixerKind mixer : s.mixers) {
        for (const double lr : s.peak_lrs) list.push_back(model(s, mixer, size, d_model, lr));
      }
    }
  }
  return list;
}

// Accuracy against d_model at one size of the task, a line a mixer.
Plot width_plot(const MqarSettings& s, const Comparison& comparison,
                const MqarSettings::Size& size) {
  Plot plot(fmt::format("Accuracy against width, {}", size_text(size)), {"d_model", Scale::log2},
            {.label = "accuracy, %", .lo = 0, .hi = 100});
  for (const MixerKind mixer : s.mixers) {
    Plot::Series series = {std::string(title_of(mixer)), {}, {}, Plot::Style::marked_line};
    for (const ComparedRuns& m : comparison.models) {
      if (m.what.model.mixer != mixer || m.what.train.length != size.length) continue;
      const Spread spread = spread_of(m.over_seeds(accuracy_percent));
      series.x.push_back(static_cast<double>(m.what.model.d_model));
      series.y.push_back(spread.median);
      series.lo.push_back(spread.least);
      series.hi.push_back(spread.largest);
    }
    plot.add(std::move(series));
  }
  return plot;
}

}  // namespace

MqarSettings MqarSettings::quick() {
  MqarSettings s;
  s.sizes = {{64, 4}, {128, 8}};
  s.d_models = {64};
  s.vocab_size = 256;
  s.sequences = 32;
  s.train.steps = 2500;
  s.train.schedule = {.kind = Schedule::Kind::cosine, .warmup_steps = 100};
  s.peak_lrs = {1e-3, 3e-3};
  s.train.adamw = {.beta2 = 0.999, .weight_decay = 0};
  return s;
}

MqarSettings MqarSettings::full() {
  MqarSettings s;
  s.sizes = {{64, 4}, {128, 8}, {256, 16}, {512, 64}};
  s.d_models = {64, 128, 256, 512};
  s.sequences = 256;
  s.train.steps = 25000;
  s.train.schedule = {.kind = Schedule::Kind::cosine, .warmup_steps = 2500};
  s.peak_lrs = {1e-4, 4.6e-4, 2.2e-3, 1e-2};
  s.train.adamw = {.beta2 = 0.999, .weight_decay = 0.1};
  return s;
}

std::string MqarSettings::unlike_published() const {
  const bool reduced = vocab_size < full().vocab_size;
  return fmt::format(
      "Unlike the published figure, which takes the best of four learning rates after 64 passes "
      "over 100000 sequences, 512 of them a step at 64 and 128 tokens, 256 at 256 and 128 at 512, "
      "with 2 layers of attention (one head, learned positions, dropout of 0.1) or 4 of others: {} "
      "layers, {} steps of {} new sequences, attention of several heads with rotary positions and "
      "no dropout, the best of learning rates {}{}.",
      n_layers, train.steps, sequences, fmt::join(peak_lrs, ", "),
      reduced ? fmt::format(", and a vocabulary of {} instead of 8192", vocab_size) : "");
}

Comparison run_mqar(Device& device, const MqarSettings& settings, const std::string& folder,
                    const OnExperimentProgress& progress) {
  return compare(device, settings.activations, models(settings), settings.seeds, folder, progress);
}

Table mqar_table(const MqarSettings& settings, const Comparison& comparison) {
  return comparison_table(
      best_learning_rates(comparison), "accuracy, %",
      fmt::format("Of the keys that come again, those whose value is said; chance is {:.2f}. {} "
                  "held-out sequences. Of several learning rates the best on as many others.",
                  200.0 / static_cast<double>(settings.vocab_size), DrawnTask::kHeldOutSequences),
      accuracy_percent, 1);
}

Report mqar_report(const MqarSettings& settings, const Comparison& comparison) {
  Report report("Multi-query associative recall",
                "How many of the values that came with keys are known when the keys come again.");
  const Comparison best = best_learning_rates(comparison);
  report.section("Result").table(mqar_table(settings, comparison));
  report.paragraph(settings.unlike_published());
  if (settings.d_models.size() > 1) {
    for (const MqarSettings::Size& size : settings.sizes) {
      report.plot(width_plot(settings, best, size));
    }
  }
  report.section("The task")
      .paragraph(
          "A sequence begins with pairs of a key and a value. Then every key comes once more, "
          "sooner or later by a power law, and the model is to say its value. Attention looks it "
          "up; a memory of constant size has to hold every pair at once. Published (Arora, "
          "Eyuboglu et al., 2023, figure 2): attention solves all sizes at every width, models "
          "whose mixing does not depend on the input need a width that grows with the length.");
  report.section("Training");
  for (const MqarSettings::Size& size : settings.sizes) {
    report.plot(loss_curves(best, column_text(size, settings.d_models.front())));
  }
  report.table(runs_table(comparison)).facts(training_facts(comparison));
  return report;
}

}  // namespace elapse
