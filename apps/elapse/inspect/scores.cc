// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/scores.h"

#include <fmt/format.h>

#include "apps/elapse/checks.h"
#include "apps/elapse/inspect/inspection.h"

namespace elapse {
namespace {

struct Arguments : InspectOptions {
  int64_t length = 50, sequences = 4;
  uint64_t seed = 1;
};

void run(const Arguments& args) {
  Inspection inspection(args);
  const RepetitionScores scores = repetition_scores(inspection.model(), args.length, args.sequences,
                                                    args.seed, inspection.progress("layer"));
  inspection.end_progress();
  const std::string what = fmt::format(
      "{} sequences of {} random tokens that come twice: {:.3f} nats a token the first time, "
      "{:.3f} "
      "the second; in-context score {:.3f}.",
      scores.sequences, scores.length, scores.first_half, scores.second_half, scores.in_context);
  Table table({{"layer"}, {"prefix matching", Table::Align::right, 4}});
  for (int64_t layer = 0; layer < std::ssize(scores.prefix_matching); ++layer) {
    table.add_row({layer, scores.prefix_matching[static_cast<size_t>(layer)]});
  }
  std::vector<double> places;
  for (size_t t = 0; t < scores.nats.size(); ++t) places.push_back(static_cast<double>(t + 1));
  Plot plot("Loss by position", {.label = "token"}, {.label = "nats"});
  plot.add({.name = "mean", .x = places, .y = scores.nats})
      .mark(static_cast<double>(scores.length), "again");
  Report report("Repeated random tokens", what);
  report.plot(plot);
  const bool matches = !scores.prefix_matching.empty();
  if (matches) {
    report.table(table).paragraph(fmt::format(
        "Prefix matching: the share of a second-half token's hidden attention (mean of sizes over "
        "channels) on the token after its first occurrence; uniform attention would give {:.4f}.",
        scores.by_chance));
  }
  JsonWriter json;
  json.begin_object()
      .field("method", "repetition scores")
      .field("length", scores.length)
      .field("sequences", scores.sequences)
      .field("first_half", scores.first_half)
      .field("second_half", scores.second_half)
      .field("in_context", scores.in_context)
      .field("prefix_matching", scores.prefix_matching)
      .field("by_chance", scores.by_chance)
      .field("nats", scores.nats);
  const std::string matched =
      matches ? fmt::format("\n{}By chance: {:.4f}\n", table.text(), scores.by_chance) : "";
  finish(args, what + "\n" + matched, report, json);
}

}  // namespace

void add_inspect_scores(CLI::App& inspect) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* verb =
      add_method(inspect, "scores", "In-context and prefix-matching scores: repeated tokens",
                 "scores -m mamba-130m --length 50 --out out/scores", *args, "");
  verb->add_option("--length", args->length, "Tokens before they come again")
      ->check(whole_number(2, 100'000));
  verb->add_option("--sequences", args->sequences, "How many")->check(whole_number(1));
  verb->add_option("--seed", args->seed, "Of the tokens")->check(seed());
  verb->callback([args] { run(*args); });
}

}  // namespace elapse
