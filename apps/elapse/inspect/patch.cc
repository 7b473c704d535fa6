// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "apps/elapse/checks.h"
#include "apps/elapse/inspect/inspection.h"
#include "elapse/interpret/patching.h"

namespace elapse {
namespace {

struct Arguments : InspectOptions {
  PatchingOptions patching;
};

// A column's name is its place, counted from the end where prompts differ in length, and its token
// where all clean prompts have the same there.
std::vector<std::string> column_names(const Inspection& inspection,
                                      const std::vector<PromptPair>& pairs, int64_t columns) {
  bool one_length = true;
  for (const PromptPair& pair : pairs) one_length = one_length && std::ssize(pair.clean) == columns;
  std::vector<std::string> names;
  for (int64_t c = 0; c < columns; ++c) {
    std::optional<int64_t> token;
    bool shared = true;
    for (const PromptPair& pair : pairs) {
      const int64_t place = c - columns + std::ssize(pair.clean);
      if (place < 0) continue;
      const int64_t here = pair.clean[static_cast<size_t>(place)];
      shared = shared && (!token || *token == here);
      token = here;
    }
    names.push_back(fmt::format("{}", one_length ? c : c - columns));
    if (shared) names.back() += " " + inspection.token_name(*token);
  }
  return names;
}

// Layer by layer, where a patch does most: brings the score nearest to the other run's.
Table largest(const PatchingMap& map, const std::vector<std::string>& columns, bool noising) {
  Table table({{"layer"}, {"most at", Table::Align::left}, {"score"}, {"mean over tokens"}});
  for (int64_t layer = 0; layer < map.layers; ++layer) {
    const double* row = map.score.data() + layer * map.columns;
    const double* end = row + map.columns;
    const int64_t best = (noising ? std::min_element(row, end) : std::max_element(row, end)) - row;
    const double sum = std::accumulate(row, row + map.columns, 0.0);
    table.add_row({layer, columns[static_cast<size_t>(best)], row[best],
                   sum / static_cast<double>(map.columns)});
  }
  return table;
}

void run(Arguments& args) {
  Inspection inspection(args);
  const std::vector<PromptPair> pairs = inspection.pairs();
  const LastLogits clean =
      last_logits(inspection.model(), pack(inspection.model(), clean_of(pairs)));
  const std::string task = inspection.task_sentence(clean, answers_of(pairs));
  args.patching.progress = inspection.progress("run");
  const PatchingMap map = patch_layers_and_tokens(inspection.model(), pairs, args.patching);
  inspection.end_progress();

  const std::vector<std::string> columns = column_names(inspection, pairs, map.columns);
  const std::string what = fmt::format(
      "{} of {} in every layer at every token, {} pairs: 0 is as the corrupted prompts ({:.3f}), 1 "
      "as the clean ones ({:.3f}).",
      args.patching.noising ? "Noising" : "Denoising", args.patching.point, pairs.size(),
      map.corrupted, map.clean);
  const std::string cost = fmt::format(
      "{} evaluations of a layer at a token; whole passes would take {}, {:.1f} times as many.",
      map.layer_tokens, map.naive_layer_tokens,
      static_cast<double>(map.naive_layer_tokens) / static_cast<double>(map.layer_tokens));
  const Table table = largest(map, columns, args.patching.noising);

  Report report("Activation patching", what);
  report.paragraph(task)
      .heat_map({.title = "Normalised logit difference after a patch",
                 .row_heading = "layer",
                 .column_heading = "token",
                 .rows = inspection.layer_names(),
                 .columns = columns,
                 .values = map.score})
      .table(table)
      .paragraph(cost);
  JsonWriter json;
  json.begin_object()
      .field("method", "activation patching")
      .field("point", args.patching.point)
      .field("direction", args.patching.noising ? "noising" : "denoising")
      .field("pairs", pairs.size())
      .field("layers", map.layers)
      .field("columns", columns)
      .field("clean", map.clean)
      .field("corrupted", map.corrupted)
      .field("layer_tokens", map.layer_tokens)
      .field("naive_layer_tokens", map.naive_layer_tokens)
      .field("logit_difference", map.logit_difference)
      .field("score", map.score);
  finish(args, fmt::format("{}\n{}\n\n{}\n{}\n", task, what, table.text(), cost), report, json);
}

}  // namespace

void add_inspect_patch(CLI::App& inspect) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* verb =
      add_method(inspect, "patch", "Activation patching: every layer and token, value by value",
                 "patch -m mamba-130m --prompts pairs.jsonl --point mixer.out --out out/patch",
                 *args, "Pairs of prompts, a JSON object a line: clean, corrupt, answer, wrong");
  verb->add_option("--point", args->patching.point,
                   "What is patched, below a layer: resid_pre, mixer.out, mixer.h, ...")
      ->check(not_empty());
  verb->add_flag("--noising", args->patching.noising,
                 "Put values of the corrupted prompt into the clean one, not the other way");
  verb->add_option("--batch-tokens", args->patching.batch_tokens, "Tokens in one pass")
      ->check(whole_number(1));
  verb->callback([args] { run(*args); });
}

}  // namespace elapse
