// SPDX-License-Identifier: Apache-2.0
// What the sampling experiment shows: its tables, its page and its JSON.
#include <cmath>

#include "elapse/experiments/sampling.h"
#include "elapse/experiments/spread.h"
#include "elapse/io/json_writer.h"

namespace elapse {
namespace {

// A figure of every model against tokens.
struct Figure {
  const char* title;
  const char* axis;  // of the picture
  const char* unit;
  const char* tokens;  // what the tokens are
  double scale;
  int decimals;
  bool of_length;  // of sequences, else at positions
  double (*at)(const TokenCosts& costs, size_t i);
};

constexpr Figure kFigures[] = {
    {"Time of a token", "microseconds a token", "µs", "tokens before it", 1e6, 0, false,
     [](const TokenCosts& c, size_t i) { return c.sampling[i].seconds; }},
    {"Memory of a sequence", "KiB of state", "KiB", "tokens before it", 1.0 / 1024, 1, false,
     [](const TokenCosts& c, size_t i) { return static_cast<double>(c.sampling[i].bytes); }},
    {"Time of reading a sequence", "milliseconds", "ms", "length", 1e3, 1, true,
     [](const TokenCosts& c, size_t i) { return c.passes[i].reading; }},
    {"Time of training on a sequence", "milliseconds, forward and backward", "ms", "length", 1e3, 1,
     true, [](const TokenCosts& c, size_t i) { return c.passes[i].training; }},
};

std::string title_of(const SamplingResult::Model& model) {
  const std::string_view mixer = elapse::title_of(model.mixer);
  return model.reach == 0 ? std::string(mixer)
                          : fmt::format("{}, which sees {} tokens", mixer, model.reach);
}

const std::vector<int64_t>& tokens_of(const SamplingSettings& s, const Figure& f) {
  return f.of_length ? s.lengths : s.positions;
}

// Over the seeds.
std::vector<double> values(const SamplingResult::Model& model, const Figure& f, size_t i) {
  std::vector<double> all;
  for (const TokenCosts& costs : model.costs) all.push_back(f.scale * f.at(costs, i));
  return all;
}

double exponent(const SamplingSettings& s, const SamplingResult::Model& model, const Figure& f) {
  std::vector<double> x, y;
  for (size_t i = 0; i < tokens_of(s, f).size(); ++i) {
    x.push_back(static_cast<double>(tokens_of(s, f)[i]));
    y.push_back(spread_of(values(model, f, i)).median);
  }
  return growth(x, y);
}

Table table_of(const SamplingSettings& s, const SamplingResult& result, const Figure& f) {
  std::vector<Table::Column> columns = {
      {fmt::format("{}, {}", f.title, f.unit), Table::Align::left}};
  for (const int64_t tokens : tokens_of(s, f)) {
    columns.push_back({fmt::format("2^{}", std::lround(std::log2(tokens)))});
  }
  columns.push_back({"grows as", Table::Align::left});
  Table table(columns,
              fmt::format("Columns: {}. The exponent is fitted to the upper half.{}", f.tokens,
                          s.seeds.count > 1 ? " Median over seeds, least and largest." : ""));
  for (const SamplingResult::Model& model : result.models) {
    std::vector<Table::Cell> row = {title_of(model)};
    for (size_t i = 0; i < tokens_of(s, f).size(); ++i) {
      row.emplace_back(spread_text(values(model, f, i), f.decimals));
    }
    row.emplace_back(fmt::format("n^{:.2f}", exponent(s, model, f)));
    table.add_row(std::move(row));
  }
  return table;
}

Plot plot_of(const SamplingSettings& s, const SamplingResult& result, const Figure& f) {
  Plot plot(f.title, {f.tokens, Scale::log2}, {f.axis, Scale::log10});
  for (const SamplingResult::Model& model : result.models) {
    Plot::Series series = {title_of(model), {}, {}, Plot::Style::marked_line};
    for (size_t i = 0; i < tokens_of(s, f).size(); ++i) {
      const Spread spread = spread_of(values(model, f, i));
      series.x.push_back(static_cast<double>(tokens_of(s, f)[i]));
      series.y.push_back(spread.median);
      series.lo.push_back(spread.least);
      series.hi.push_back(spread.largest);
    }
    plot.add(std::move(series));
  }
  return plot;
}

// Those whose memory grows, in words.
std::string summary(const SamplingSettings& s, const SamplingResult& result) {
  std::vector<std::string_view> growing;
  for (const SamplingResult::Model& model : result.models) {
    if (exponent(s, model, kFigures[1]) > 0.05) growing.push_back(elapse::title_of(model.mixer));
  }
  if (growing.empty())
    return "The memory of every model here stays as large as at the first token.";
  return fmt::format(
      "The memory of {} grows with every token; that of the others stays as large as at the first.",
      fmt::join(growing, ", "));
}

}  // namespace

std::vector<Table> sampling_tables(const SamplingSettings& settings, const SamplingResult& result) {
  std::vector<Table> tables;
  for (const Figure& f : kFigures) tables.push_back(table_of(settings, result, f));
  return tables;
}

Report sampling_report(const SamplingSettings& settings, const SamplingResult& result) {
  Report report("What a token costs", summary(settings, result));
  for (const Figure& f : kFigures) {
    report.section(f.title).plot(plot_of(settings, result, f)).table(table_of(settings, result, f));
  }
  Report::Facts facts = {
      {"Models", fmt::format("{} layers, d_model {}, {} classes, random weights", settings.n_layers,
                             settings.d_model, settings.vocab_size)},
      {"A token", "median of 33, one sequence"},
      {"Seeds", settings.seeds.text()},
      {"Device", result.device}};
  for (const SamplingResult::Model& model : result.models) {
    facts.emplace_back(title_of(model), fmt::format("{} parameters", model.parameters));
  }
  report.section("How it was measured").facts(facts);
  return report;
}

std::string sampling_json(const SamplingSettings& settings, const SamplingResult& result) {
  JsonWriter json;
  json.begin_object().field("experiment", "sampling").key("rows").begin_array();
  for (const SamplingResult::Model& model : result.models) {
    for (const Figure& f : kFigures) {
      for (size_t i = 0; i < tokens_of(settings, f).size(); ++i) {
        json.begin_object().field("mixer", name_of(model.mixer)).field("figure", f.title);
        json.field("unit", f.unit)
            .field(f.of_length ? "length" : "position", tokens_of(settings, f)[i]);
        json.field("values", values(model, f, i)).end_object();
      }
    }
  }
  json.end_array().key("exponents").begin_array();
  for (const SamplingResult::Model& model : result.models) {
    for (const Figure& f : kFigures) {
      json.begin_object().field("mixer", name_of(model.mixer)).field("figure", f.title);
      if (model.reach > 0) json.field("sees", model.reach);
      json.field("exponent", exponent(settings, model, f)).end_object();
    }
  }
  return json.end_array()
      .field("d_model", settings.d_model)
      .field("layers", settings.n_layers)
      .field("seeds", settings.seeds.text())
      .field("device", result.device)
      .end_object()
      .text();
}

}  // namespace elapse
