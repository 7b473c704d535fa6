// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/lens.h"

#include <fmt/format.h>

#include "apps/elapse/inspect/one_prompt.h"

namespace elapse {
namespace {

// "' Mary' 0.61, ' John' 0.22"
std::string guesses_text(const Inspection& inspection, const LogitLens::Cell& cell) {
  std::string text;
  for (const LogitLens::Guess& guess : cell.likeliest) {
    text += fmt::format("{}'{}' {:.3f}", text.empty() ? "" : ", ",
                        inspection.token_name(guess.token), guess.probability);
  }
  return text;
}

void add_json(JsonWriter& json, int64_t layer, int64_t token, const LogitLens::Cell& cell) {
  json.begin_object().field("layer", layer).field("token", token);
  json.key("likeliest").begin_array();
  for (const LogitLens::Guess& guess : cell.likeliest) {
    json.begin_object()
        .field("token", guess.token)
        .field("probability", guess.probability)
        .end_object();
  }
  json.end_array()
      .field("logit_difference", cell.logit_difference)
      .field("rank", cell.rank)
      .end_object();
}

void run(const OnePrompt& args) {
  Inspection inspection(args);
  const PromptPair pair = chosen(inspection.pairs(), args);
  const LogitLens lens = logit_lens(inspection.model(), pair.clean, pair.answer);
  std::vector<std::string> rows = inspection.layer_names();  // that a stream enters
  rows.push_back("end");
  Table table({{"enters layer"},
               {"says", Table::Align::left},
               {"probability"},
               {"logit difference"},
               {"rank of the answer"}});
  std::vector<double> differences, rank;
  std::vector<std::string> guesses;
  JsonWriter json;
  json.begin_object().field("method", "logit lens").key("cells").begin_array();
  for (int64_t r = 0; r < lens.rows; ++r) {
    for (int64_t c = 0; c < lens.columns; ++c) {
      const LogitLens::Cell& cell = lens.at(r, c);
      differences.push_back(cell.logit_difference);
      rank.push_back(static_cast<double>(cell.rank));
      guesses.push_back("says " + guesses_text(inspection, cell));
      add_json(json, r, c, cell);
    }
    const LogitLens::Cell& last = lens.at(r, lens.columns - 1);
    const LogitLens::Guess& best = last.likeliest.front();
    table.add_row({rows[static_cast<size_t>(r)], inspection.token_name(best.token),
                   best.probability, last.logit_difference, last.rank});
  }
  json.end_array();
  const std::string what = fmt::format(
      "What the model would say next if it stopped before a layer; logit({}) - logit({}).",
      inspection.token_name(pair.answer.right), inspection.token_name(pair.answer.wrong));
  HeatMap map = {.title = "Logit difference; each cell tells the likeliest next tokens",
                 .row_heading = "layer",
                 .column_heading = "token",
                 .rows = rows,
                 .columns = inspection.token_names(pair.clean),
                 .values = differences,
                 .notes = guesses};
  Report report("Logit lens", what);
  report.heat_map(map);
  map.title = "Rank of the answer (0 is best)";
  map.values = rank;
  map.decimals = 0;
  report.heat_map(map).section("After the last token").table(table);
  finish(args, fmt::format("{}\n\n{}", what, table.text()), report, json);
}

}  // namespace

void add_inspect_lens(CLI::App& inspect) {
  const auto args = std::make_shared<OnePrompt>();
  CLI::App* verb = add_one_prompt_method(
      inspect, "lens", "Logit lens: what the model would say after each layer",
      "lens -m mamba-130m --prompts pairs.jsonl --out out/lens", *args, kOfPairs);
  verb->callback([args] { run(*args); });
}

}  // namespace elapse
