// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/induction_circuit.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "elapse/core/random.h"
#include "elapse/data/induction.h"
#include "elapse/interpret/hidden_attention.h"
#include "elapse/io/json_writer.h"

namespace elapse {
namespace {

constexpr double kAccuracyNeeded = 0.95;

// Pairs of sequences with the prefix at the same place and different answers after it.
struct Pairs {
  TokenLists own, other;
  std::vector<Answer> answers;  // own's, and other's
  std::vector<int64_t> prefix;  // where it stands
};

Pairs make_pairs(const InductionCircuitSettings& settings) {
  constexpr int64_t kOrdinary = 14;
  Random random(settings.seed, 9);
  Pairs pairs;
  for (int64_t s = 0; s < settings.sequences; ++s) {
    const int64_t prefix = random.below(settings.length - settings.offsets - 1);
    const auto draw = [&] {
      std::vector<int64_t> tokens;
      for (int64_t t = 0; t < settings.length; ++t) tokens.push_back(random.below(kOrdinary));
      tokens[static_cast<size_t>(prefix)] = tokens.back() = InductionTask::kPrefix;
      return tokens;
    };
    const auto answer = static_cast<size_t>(prefix + 1);
    pairs.own.push_back(draw());
    pairs.other.push_back(draw());
    if (pairs.own.back()[answer] == pairs.other.back()[answer]) {
      pairs.other.back()[answer] = (pairs.own.back()[answer] + 1) % kOrdinary;
    }
    pairs.answers.push_back({pairs.own.back()[answer], pairs.other.back()[answer]});
    pairs.prefix.push_back(prefix);
  }
  return pairs;
}

int64_t likeliest(const LastLogits& logits, int64_t sequence) {
  const double* row = logits.values.data() + sequence * logits.classes;
  return std::max_element(row, row + logits.classes) - row;
}

// How often the states of this layer, swapped after the token `offset` after the prefix, swap the
// answer.
InductionCircuit::Swap swap_states(const LanguageModel& model, const Pairs& pairs, int64_t layer,
                                   int64_t offset) {
  const std::string point = fmt::format("layers.{}.mixer.h", layer);
  Points all;
  all.watch(point);
  Tape tape(model.device(), false);
  model.forward(tape, pack(model, pairs.other), nullptr, &all);
  Points patch;
  const int64_t length = std::ssize(pairs.own.front());
  for (int64_t s = 0; s < std::ssize(pairs.own); ++s) {
    const int64_t at = pairs.prefix[static_cast<size_t>(s)] + offset, row = s * length + at;
    patch.edit({point,
                EditOp::set,
                all.value(point).rows(row, row + 1),
                {.sequences = {s}, .positions = {at}}});
  }
  const LastLogits logits =
      last_logits(model, model.forward(tape, pack(model, pairs.own), nullptr, &patch).value());
  InductionCircuit::Swap found = {layer, offset, 0, 0};
  const double share = 1 / static_cast<double>(pairs.own.size());
  for (int64_t s = 0; s < logits.sequences; ++s) {
    const Answer& answer = pairs.answers[static_cast<size_t>(s)];
    const int64_t said = likeliest(logits, s);
    found.swapped += said == answer.wrong ? share : 0;
    found.kept += said == answer.right ? share : 0;
  }
  return found;
}

InductionCircuit::Attention attention_of(const LanguageModel& model, const Pairs& pairs,
                                         int64_t layer, int64_t offsets) {
  InductionCircuit::Attention found = {layer, std::vector<double>(size_t(offsets), 0.0), 0};
  const auto count = std::min<size_t>(pairs.own.size(), 32);
  for (size_t s = 0; s < count; ++s) {
    const HiddenAttention attention(model, layer, pairs.own[s]);
    const std::vector<double> row = attention.row(attention.tokens() - 1);
    std::vector<double> by_token(pairs.own[s].size(), 0.0);
    for (size_t i = 0; i < row.size(); ++i) {
      by_token[i / static_cast<size_t>(attention.units())] += std::abs(row[i]);
    }
    const double all = std::accumulate(by_token.begin(), by_token.end(), 0.0);
    double near = 0;
    for (int64_t k = 0; k < offsets; ++k) {
      const double share = by_token[static_cast<size_t>(pairs.prefix[s] + k)] / all;
      found.at_offset[static_cast<size_t>(k)] += share / static_cast<double>(count);
      near += share;
    }
    found.elsewhere += (1 - near) / static_cast<double>(count);
  }
  return found;
}

// The hypotheses, from naive to refined, for a model of two layers.
std::vector<InductionCircuit::Hypothesis> scrub_hypotheses(
    const LanguageModel& model, const Pairs& pairs, const InductionCircuitSettings& settings) {
  ScrubDataset data = {pairs.own, {}};
  for (const Answer& answer : pairs.answers) data.labels.push_back(answer.right);
  const auto answer = [&](size_t x) { return data.labels[x]; };
  const auto input = [](size_t x) { return static_cast<int64_t>(x); };
  constexpr int64_t kEmbed = 0, kFirst = 1, kSecond = 2, kUnembed = 3;
  struct Case {
    const char *name, *text;
    Hypothesis hypothesis;
  };
  const Case cases[] = {
      {"nothing matters", "the unembedding reads what any other sequence wrote", {{kUnembed}}},
      {"naive",
       "embed -> layers.0 -> layers.1 -> unembed, and of what layers.0 wrote only the answer "
       "counts",
       {{kUnembed, {1}}, {kSecond, {2}, answer}, {kFirst, {3}, answer}, {kEmbed, {}, input}}},
      {"refined",
       "the same, but what layers.1 reads of layers.0 and of the embedding is of one sequence",
       {{kUnembed, {1}}, {kSecond, {2, 3}, answer}, {kFirst, {3}, input}, {kEmbed, {}, input}}},
      {"refined, and layers.0 read directly",
       "the unembedding reads layers.0 too, of which the answer counts",
       {{kUnembed, {1, 4}},
        {kSecond, {2, 3}, answer},
        {kFirst, {3}, input},
        {kEmbed, {}, input},
        {kFirst, {3}, answer}}},
  };
  std::vector<InductionCircuit::Hypothesis> list;
  for (const Case& c : cases) {
    list.push_back(
        {c.name, c.text, scrub(model, data, c.hypothesis, settings.rounds, settings.seed)});
  }
  return list;
}

}  // namespace

InductionCircuit run_induction_circuit(const LanguageModel& model,
                                       const InductionCircuitSettings& settings,
                                       const OnExperimentProgress& progress) {
  ELAPSE_CHECK(model.config().vocab_size == InductionTask::kVocabSize,
               "the induction task has {} classes, but the model has {}: expected one that "
               "`elapse experiment induction` or `elapse train --task induction` trained",
               InductionTask::kVocabSize, model.config().vocab_size);
  const Pairs pairs = make_pairs(settings);
  InductionCircuit found;
  const LastLogits logits = last_logits(model, pack(model, pairs.own));
  found.task = task_score(logits, pairs.answers);
  for (int64_t s = 0; s < logits.sequences; ++s) {
    const bool right = likeliest(logits, s) == pairs.answers[static_cast<size_t>(s)].right;
    found.accuracy += right ? 1 / static_cast<double>(logits.sequences) : 0;
  }
  if (found.accuracy < kAccuracyNeeded) return found;
  const int64_t n_layers = model.config().n_layers, total = n_layers * settings.offsets;
  for (int64_t layer = 0; layer < n_layers; ++layer) {
    for (int64_t offset = 0; offset < settings.offsets; ++offset) {
      found.swaps.push_back(swap_states(model, pairs, layer, offset));
      progress({"swap states", std::ssize(found.swaps), total, ""});
    }
    found.attention.push_back(attention_of(model, pairs, layer, settings.offsets));
  }
  if (n_layers == 2) found.hypotheses = scrub_hypotheses(model, pairs, settings);
  return found;
}

std::vector<Table> induction_circuit_tables(const InductionCircuit& found) {
  if (found.swaps.empty()) return {};
  using Align = Table::Align;
  Table swaps({{"layer"},
               {"tokens after the prefix"},
               {"says the other answer, %", Align::right, 1},
               {"its own, %", Align::right, 1},
               {"last token's attention there, %", Align::right, 1}},
              "The state after a token, put in from a sequence with another answer.");
  for (const InductionCircuit::Swap& s : found.swaps) {
    const InductionCircuit::Attention& a = found.attention[static_cast<size_t>(s.layer)];
    swaps.add_row({s.layer, s.offset, 100 * s.swapped, 100 * s.kept,
                   100 * a.at_offset[static_cast<size_t>(s.offset)]});
  }
  Table scrubbed(
      {{"hypothesis", Align::left},
       {"recovered, %", Align::right, 1},
       {"loss, nats", Align::right, 4},
       {"model", Align::right, 4},
       {"permuted", Align::right, 4},
       {"KL", Align::right, 4},
       {"worst example", Align::right, 4}},
      "Causal scrubbing (published for a two-layer attention model: naive 35 %, refined 86 "
      "%).");
  for (const InductionCircuit::Hypothesis& h : found.hypotheses) {
    const ScrubResult& r = h.result;
    scrubbed.add_row({h.name, 100 * r.recovered, r.scrubbed_loss, r.model_loss, r.shuffled_loss,
                      r.kl, quantile(r.scrubbed_losses, 1)});
  }
  return {swaps, scrubbed};
}

std::string induction_circuit_json(const InductionCircuit& found) {
  JsonWriter json;
  json.begin_object()
      .field("experiment", "induction-circuit")
      .field("accuracy", found.accuracy)
      .field("logit_difference", found.task.logit_difference)
      .field("absolute_logit_difference", found.task.absolute_logit_difference)
      .key("swaps")
      .begin_array();
  for (const InductionCircuit::Swap& s : found.swaps) {
    json.begin_object()
        .field("layer", s.layer)
        .field("offset", s.offset)
        .field("swapped", s.swapped)
        .field("kept", s.kept)
        .end_object();
  }
  json.end_array().key("attention").begin_array();
  for (const InductionCircuit::Attention& a : found.attention) {
    json.begin_object()
        .field("layer", a.layer)
        .field("at_offset", a.at_offset)
        .field("elsewhere", a.elsewhere)
        .end_object();
  }
  json.end_array().key("hypotheses").begin_array();
  for (const InductionCircuit::Hypothesis& h : found.hypotheses) {
    json.begin_object()
        .field("name", h.name)
        .field("text", h.text)
        .field("recovered", h.result.recovered)
        .field("scrubbed_loss", h.result.scrubbed_loss)
        .field("model_loss", h.result.model_loss)
        .field("shuffled_loss", h.result.shuffled_loss)
        .field("kl", h.result.kl)
        .field("scrubbed_losses", h.result.scrubbed_losses)
        .end_object();
  }
  return json.end_array().end_object().text();
}

Report induction_circuit_report(const InductionCircuitSettings& settings,
                                const InductionCircuit& found) {
  Report report("The induction circuit",
                fmt::format("The model answers {:.1f} % of {} sequences of {} tokens.{}",
                            100 * found.accuracy, settings.sequences, settings.length,
                            found.swaps.empty() ? " That is too little to take it apart." : ""));
  const std::vector<Table> tables = induction_circuit_tables(found);
  if (tables.empty()) return report;
  std::vector<std::string> layers, offsets;
  std::vector<double> swapped, attention;
  for (const InductionCircuit::Attention& a : found.attention) {
    layers.push_back(fmt::format("{}", a.layer));
    attention.insert(attention.end(), a.at_offset.begin(), a.at_offset.end());
  }
  for (int64_t k = 0; k < settings.offsets; ++k) offsets.push_back(fmt::format("+{}", k));
  for (const InductionCircuit::Swap& s : found.swaps) swapped.push_back(s.swapped);
  report
      .heat_map({.title = "Share of sequences whose answer a state swapped after that token swaps",
                 .row_heading = "layer",
                 .column_heading = "token after the prefix",
                 .rows = layers,
                 .columns = offsets,
                 .values = swapped})
      .heat_map({.title = "The last token's hidden attention",
                 .row_heading = "layer",
                 .column_heading = "token after the prefix",
                 .rows = layers,
                 .columns = offsets,
                 .values = attention})
      .table(tables[0]);
  if (found.hypotheses.empty()) return report;
  report.section("Hypotheses, scrubbed").table(tables[1]);
  for (const InductionCircuit::Hypothesis& h : found.hypotheses) {
    report.paragraph(fmt::format("{}: {}.", h.name, h.text));
  }
  Plot plot("Loss by example, in order", {"example"}, {"nats"});
  for (const InductionCircuit::Hypothesis& h : found.hypotheses) {
    std::vector<double> losses = h.result.scrubbed_losses, places;
    std::sort(losses.begin(), losses.end());
    for (size_t i = 0; i < losses.size(); ++i) places.push_back(static_cast<double>(i + 1));
    plot.add({h.name, places, losses});
  }
  return report.plot(plot);
}

}  // namespace elapse
