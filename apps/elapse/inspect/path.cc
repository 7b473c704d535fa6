// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "apps/elapse/checks.h"
#include "apps/elapse/inspect/edges.h"

namespace elapse {
namespace {

struct Arguments : InspectOptions {
  std::vector<int64_t> positions;
  int64_t batch_tokens = 4096;
};

std::string places_text(const std::vector<int64_t>& positions) {
  return positions.empty() ? "" : fmt::format(" at tokens {}", fmt::join(positions, ", "));
}

void run(const Arguments& args) {
  Inspection inspection(args);
  const std::vector<PromptPair> pairs = inspection.pairs();
  const std::vector<Answer> answers = answers_of(pairs);
  CircuitRunner runner(inspection.model(), clean_of(pairs), corrupt_of(pairs), args.batch_tokens);
  if (!args.positions.empty()) runner.cut_at(args.positions);
  const ResidualGraph graph = inspection.graph();
  const double clean = mean(logit_differences(runner.plain(), answers));
  const auto progress = inspection.progress("edge");
  std::vector<double> effects;
  constexpr int64_t kTogether = 49;
  for (int64_t first = 0; first < graph.edges(); first += kTogether) {
    std::vector<Circuit> circuits;
    for (int64_t i = first; i < std::min(graph.edges(), first + kTogether); ++i) {
      circuits.emplace_back(inspection.model().config().blocks());
      circuits.back().set(graph.edge(i), false);
    }
    for (const LastLogits& logits : runner.run(circuits)) {
      effects.push_back(mean(logit_differences(logits, answers)) - clean);
    }
    progress(std::ssize(effects), graph.edges());
  }
  inspection.end_progress();
  show_edges(
      args, inspection,
      {.method = "path patching",
       .title = "Path patching",
       .task = inspection.task_sentence(runner.plain(), answers),
       .what = fmt::format("Exact: what one node wrote on the corrupted prompt is put into "
                           "what one later node reads{}; how the mean logit difference, {:.3f} "
                           "without, changes. All {} edges, {} pairs.",
                           places_text(args.positions), clean, graph.edges(), pairs.size()),
       .values = effects});
}

}  // namespace

void add_inspect_path(CLI::App& inspect) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* verb =
      add_method(inspect, "path", "Path patching: every edge from a node to a later one, exactly",
                 "path -m mamba-130m --prompts pairs.jsonl --out out/path", *args,
                 "Pairs of prompts, a JSON object a line: clean, corrupt, answer, wrong");
  verb->add_option("--positions", args->positions,
                   "Tokens of each prompt at which it is put in, from the end where negative; as a "
                   "rule all")
      ->delimiter(',');
  verb->add_option("--batch-tokens", args->batch_tokens, "Tokens in one pass")
      ->check(whole_number(1));
  verb->callback([args] { run(*args); });
}

}  // namespace elapse
