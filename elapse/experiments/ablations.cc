// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/ablations.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "elapse/data/text_data.h"
#include "elapse/experiments/spread.h"

namespace elapse {
namespace {

constexpr int64_t kStates = 16;  // where selection is compared
constexpr const char* kColumn = "the text";

// What of a Mamba depends on the token, and whether it has a gate.
struct Variant {
  bool dt, B, C, gate;
};
constexpr Variant kAll = {true, true, true, true};
constexpr Variant kConstantBC = {true, false, false, true};
// The published table's, all three without the gate, and none without it.
constexpr Variant kVariants[] = {{false, false, false, true},
                                 {false, true, false, true},
                                 {false, false, true, true},
                                 kConstantBC,
                                 kAll,
                                 {true, true, true, false},
                                 {false, false, false, false}};

std::string name_of(const Variant& v, int64_t d_state) {
  std::string selective =
      fmt::format("{}{}{}", v.dt ? "-dt" : "", v.B ? "-B" : "", v.C ? "-C" : "");
  if (selective.empty()) selective = "-none";
  return fmt::format("selective{}{}-states-{}", selective, v.gate ? "" : "-no-gate", d_state);
}

std::string title_of(const Variant& v, int64_t d_state) {
  std::string selective;
  for (const auto& [is, name] : {std::pair(v.dt, "dt"), {v.B, "B"}, {v.C, "C"}}) {
    if (is) selective += fmt::format("{}{}", selective.empty() ? "" : ", ", name);
  }
  return fmt::format("{} selective{}, d_state {}", selective.empty() ? "nothing" : selective,
                     v.gate ? "" : ", no gate", d_state);
}

using Texts = std::map<uint64_t, std::shared_ptr<const TokenSource>>;  // by seed

ComparedModel compared(const AblationSettings& s, const std::shared_ptr<const Texts>& texts,
                       const std::string& name, const std::string& title,
                       const ModelConfig& config) {
  return {.name = name,
          .row = title,
          .column = kColumn,
          .model = config,
          .train = s.train,
          .source = [texts](uint64_t seed) { return texts->at(seed); },
          .tests = held_out_tests(s.test_length)};
}

ComparedModel model(const AblationSettings& s, const std::shared_ptr<const Texts>& texts,
                    const Variant& v, int64_t d_state) {
  ModelConfig config = ModelConfig::of(MixerKind::mamba, s.d_model, s.n_layers, 256);
  config.d_state = d_state;
  config.choose_selection(v.dt, v.B, v.C, v.gate);
  return compared(s, texts, name_of(v, d_state), title_of(v, d_state), config);
}

// A time-invariant state space beside it: S4D, whose A can be complex.
constexpr DiagonalInit kInits[] = {DiagonalInit::legs, DiagonalInit::lin, DiagonalInit::inv,
                                   DiagonalInit::real};

std::string name_of_s4d(DiagonalInit init) { return fmt::format("s4d-{}", elapse::name_of(init)); }

ComparedModel s4d(const AblationSettings& s, const std::shared_ptr<const Texts>& texts,
                  DiagonalInit init) {
  ModelConfig config = ModelConfig::of(MixerKind::s4d, s.d_model, s.n_layers, 256);
  config.diagonal_init = init;
  return compared(s, texts, name_of_s4d(init), fmt::format("S4D, {}", elapse::name_of(init)),
                  config);
}

std::vector<ComparedModel> models(const AblationSettings& s) {
  const auto texts = std::make_shared<Texts>();
  for (const uint64_t seed : s.seeds.all()) {
    texts->emplace(seed, std::make_shared<TextData>(s.text, s.text_name, seed));
  }
  std::vector<ComparedModel> list;
  const auto add = [&](const Variant& v, int64_t d_state) {
    ComparedModel m = model(s, texts, v, d_state);
    const bool there = std::any_of(
        list.begin(), list.end(), [&](const ComparedModel& other) { return other.name == m.name; });
    if (!there) list.push_back(std::move(m));
  };
  for (const Variant& v : kVariants) add(v, kStates);
  for (const int64_t d_state : s.d_states) {
    add(kConstantBC, d_state);
    add(kAll, d_state);
  }
  for (const DiagonalInit init : kInits) list.push_back(s4d(s, texts, init));
  return list;
}

const ComparedRuns& find(const Comparison& comparison, const std::string& name) {
  const auto found = std::find_if(comparison.models.begin(), comparison.models.end(),
                                  [&](const ComparedRuns& m) { return m.what.name == name; });
  ELAPSE_CHECK(found != comparison.models.end(), "ablations: no model {}", name);
  return *found;
}

const ComparedRuns& find(const Comparison& comparison, const Variant& v, int64_t d_state) {
  return find(comparison, name_of(v, d_state));
}

std::string loss_text(const ComparedRuns& m) { return m.text(held_out_loss, 4); }

std::string perplexity_text(const ComparedRuns& m) {
  return m.text([](const RunResult& run) { return std::exp(held_out_loss(run)); }, 3);
}

std::string seeds_text(const Comparison& comparison) {
  if (comparison.seeds.count == 1) return "";
  return fmt::format(" Of {} seeds the median, and the least and the largest in brackets.",
                     comparison.seeds.count);
}

Table selection_table(const Comparison& comparison) {
  Table table(
      {{"dt"}, {"B"}, {"C"}, {"gate"}, {"parameters"}, {"held-out loss"}, {"perplexity"}},
      fmt::format("✓: depends on the token; ✗: learned, the same at every token. d_state {}. "
                  "Loss: nats a byte.{}",
                  kStates, seeds_text(comparison)));
  for (const Variant& v : kVariants) {
    const ComparedRuns& m = find(comparison, v, kStates);
    const auto mark = [](bool is) { return std::string(is ? "✓" : "✗"); };
    table.add_row({mark(v.dt), mark(v.B), mark(v.C), mark(v.gate), m.runs.front().parameters,
                   loss_text(m), perplexity_text(m)});
  }
  return table;
}

Table states_table(const AblationSettings& s, const Comparison& comparison) {
  Table table({{"d_state"}, {"parameters"}, {"constant B and C"}, {"parameters"}, {"selective"}},
              fmt::format("Held-out loss, nats a byte, with B and C constant or selective; dt is "
                          "selective in both.{}",
                          seeds_text(comparison)));
  for (const int64_t d_state : s.d_states) {
    const ComparedRuns& constant = find(comparison, kConstantBC, d_state);
    const ComparedRuns& selective = find(comparison, kAll, d_state);
    table.add_row({d_state, constant.runs.front().parameters, loss_text(constant),
                   selective.runs.front().parameters, loss_text(selective)});
  }
  return table;
}

Table complex_table(const Comparison& comparison) {
  Table table({{"S4D's A", Table::Align::left}, {"parameters"}, {"held-out loss"}, {"perplexity"}},
              fmt::format("A time-invariant state space with a B C of its own for each channel and "
                          "state: A real or complex, {} real numbers of state a channel, from "
                          "HiPPO's LegS, its approximations Lin and Inv, or -1, -2, ... Loss: nats "
                          "a byte.{}",
                          comparison.models.back().what.model.d_state, seeds_text(comparison)));
  for (const DiagonalInit init : kInits) {
    const ComparedRuns& m = find(comparison, name_of_s4d(init));
    table.add_row(
        {fmt::format("{}, {}", is_complex(init) ? "complex" : "real", elapse::name_of(init)),
         m.runs.front().parameters, loss_text(m), perplexity_text(m)});
  }
  return table;
}

Plot states_plot(const AblationSettings& s, const Comparison& comparison) {
  Plot plot("Held-out loss against the number of states", {"d_state", Scale::log2},
            {"nats a byte"});
  for (const auto& [variant, name] :
       {std::pair(kConstantBC, "B and C constant"), {kAll, "B and C selective"}}) {
    Plot::Series series = {name, {}, {}, Plot::Style::marked_line};
    for (const int64_t d_state : s.d_states) {
      const Spread spread = spread_of(find(comparison, variant, d_state).over_seeds(held_out_loss));
      series.x.push_back(static_cast<double>(d_state));
      series.y.push_back(spread.median);
      series.lo.push_back(spread.least);
      series.hi.push_back(spread.largest);
    }
    plot.add(std::move(series));
  }
  return plot;
}

std::string unlike_published(const AblationSettings& s) {
  return fmt::format(
      "Unlike the published tables, of models of about 350 million parameters on the Pile: {} "
      "layers of d_model {} on {}, {} steps of {} bytes. There a constant B or C is a number for "
      "each channel and state; here, as the selective ones, for each state.",
      s.n_layers, s.d_model, s.text_name, s.train.steps, s.train.batch_tokens);
}

}  // namespace

AblationSettings AblationSettings::quick() {
  AblationSettings s;
  s.d_model = 64;
  s.n_layers = 2;
  s.d_states = {1, 4, 16};
  s.train.batch_tokens = 2048;
  s.train.length = 256;
  s.train.steps = 1000;
  s.train.schedule = {
      .kind = Schedule::Kind::cosine, .peak_lr = 5e-3, .min_lr = 5e-4, .warmup_steps = 50};
  s.train.adamw = {.weight_decay = 0.1};
  return s;
}

AblationSettings AblationSettings::full() {
  AblationSettings s;
  s.d_model = 192;
  s.n_layers = 3;
  s.d_states = {1, 2, 4, 8, 16, 32, 64};
  s.train.batch_tokens = 4096;
  s.train.length = 512;
  s.train.steps = 5000;
  s.train.schedule = {
      .kind = Schedule::Kind::cosine, .peak_lr = 3e-3, .min_lr = 3e-4, .warmup_steps = 200};
  s.train.adamw = {.weight_decay = 0.1};
  return s;
}

Comparison run_ablations(Device& device, const AblationSettings& settings,
                         const std::string& folder, const OnExperimentProgress& progress) {
  return compare(device, settings.activations, models(settings), settings.seeds, folder, progress);
}

std::vector<Table> ablation_tables(const AblationSettings& settings, const Comparison& comparison) {
  return {selection_table(comparison), states_table(settings, comparison),
          complex_table(comparison)};
}

Report ablation_report(const AblationSettings& settings, const Comparison& comparison) {
  const auto loss = [&](const Variant& v) {
    return spread_of(find(comparison, v, kStates).over_seeds(held_out_loss)).median;
  };
  Report report("What of Mamba matters",
                fmt::format("Held-out loss {:.4f} nats a byte with dt, B and C selective, {:.4f} "
                            "with dt alone, {:.4f} with none.",
                            loss(kAll), loss(kConstantBC), loss(kVariants[0])));
  report.section("Selection")
      .table(selection_table(comparison))
      .section("States")
      .table(states_table(settings, comparison))
      .plot(states_plot(settings, comparison))
      .section("Real and complex")
      .table(complex_table(comparison))
      .paragraph(unlike_published(settings))
      .section("Training")
      .plot(loss_curves(comparison, kColumn))
      .table(runs_table(comparison))
      .facts(training_facts(comparison));
  return report;
}

std::string ablation_json(const AblationSettings& settings, const Comparison& comparison) {
  return comparison_json(comparison, "ablations", unlike_published(settings));
}

}  // namespace elapse
