// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cmath>

#include "apps/elapse/checks.h"
#include "apps/elapse/input.h"
#include "apps/elapse/inspect/inspection.h"
#include "elapse/interpret/restarts.h"

namespace elapse {
namespace {

struct Arguments : InspectOptions {
  std::string edits, reference;
  bool each = false;
  int64_t batch_tokens = 2048;
};

std::vector<Prompt> prompts_of(const std::vector<PromptPair>& pairs, bool corrupt) {
  std::vector<Prompt> prompts;
  for (const PromptPair& pair : pairs) {
    prompts.push_back({corrupt ? pair.corrupt : pair.clean, pair.notes});
  }
  return prompts;
}

// What is run: the edits together, or each on its own.
struct Variants {
  std::vector<std::string> names;
  std::vector<LastLogits> logits;
};

Variants run_edits(const Arguments& args, Inspection& inspection,
                   const std::vector<PromptPair>& pairs) {
  const LanguageModel& model = inspection.model();
  const std::vector<EditSpec> edits = parse_edits(open_input(args.edits).read_all(), args.edits);
  const std::vector<Prompt> prompts = prompts_of(pairs, false);
  const std::vector<Prompt> reference =
      args.reference.empty() ? prompts_of(pairs, true) : inspection.noted_prompts(args.reference);
  if (!args.each) {
    return {{"all edits"},
            {edited_logits(model, EditPlan(model, edits, prompts, reference), args.batch_tokens)}};
  }
  Variants variants;
  std::vector<EditPlan> plans;
  for (const EditSpec& edit : edits) {
    variants.names.push_back(
        fmt::format("{}: {} {}", variants.names.size() + 1, edit.point, name_of(edit.op)));
    plans.emplace_back(model, std::vector{edit}, prompts, reference);
  }
  VariantOptions options;
  options.batch_tokens = args.batch_tokens;
  options.progress = inspection.progress("run");
  variants.logits = run_variants(model, plans, options);
  inspection.end_progress();
  return variants;
}

void run(const Arguments& args) {
  Inspection inspection(args);
  const std::vector<PromptPair> pairs = inspection.pairs();
  const std::vector<Answer> answers = answers_of(pairs);
  const Variants variants = run_edits(args, inspection, pairs);
  const LastLogits plain =
      last_logits(inspection.model(), pack(inspection.model(), clean_of(pairs)));
  const std::vector<double> before = logit_differences(plain, answers);

  Table table({{"edit", Table::Align::left},
               {"logit difference"},
               {"absolute"},
               {"right %", Table::Align::right, 1},
               {"gap of means"},
               {"mean gap"},
               {"median gap"},
               {"90 % gap"},
               {"KL", Table::Align::right, 5}});
  HeatMap map = {.title = "Change of the logit difference",
                 .row_heading = "edit",
                 .column_heading = "prompt",
                 .rows = variants.names};
  int64_t not_finite = 0;
  JsonWriter json;
  json.begin_object().field("method", "edit").field("before", before);
  json.key("variants").begin_array();
  for (size_t v = 0; v < variants.logits.size(); ++v) {
    const TaskScore score = task_score(variants.logits[v], answers);
    const Faithfulness gap = faithfulness(plain, variants.logits[v], answers);
    const std::vector<double> after = logit_differences(variants.logits[v], answers);
    for (size_t p = 0; p < after.size(); ++p) {
      map.values.push_back(after[p] - before[p]);
      not_finite += std::isfinite(after[p]) ? 0 : 1;
    }
    table.add_row({variants.names[v], score.logit_difference, score.absolute_logit_difference,
                   100 * score.accuracy, gap.gap_of_means, gap.mean_gap, gap.median_gap, gap.gap_90,
                   gap.kl});
    json.begin_object().field("edit", variants.names[v]).field("after", after);
    json.field("accuracy", score.accuracy).field("mean_gap", gap.mean_gap).field("kl", gap.kl);
    json.end_object();
  }
  json.end_array();
  for (size_t p = 0; p < pairs.size(); ++p) map.columns.push_back(fmt::format("{}", p));

  const std::string task = inspection.task_sentence(plain, answers);
  std::string what =
      "What edits do to it; gaps are of the logit difference, prompt by prompt, from the unedited "
      "run's.";
  if (not_finite > 0) {
    what += fmt::format(" Of {} edited runs {} end in logits that are no finite numbers.",
                        map.values.size(), not_finite);
  }
  Report report("Edits", what);
  report.paragraph(task).table(table);
  if (!map.values.empty() && std::ssize(map.values) <= HeatMap::kMostCells) report.heat_map(map);
  finish(args, fmt::format("{}\n{}\n\n{}", task, what, table.text()), report, json);
}

}  // namespace

void add_inspect_edit(CLI::App& inspect) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* verb = add_method(
      inspect, "edit", "Change values inside: zero, mean and resample ablation, set, add, swap in",
      "edit -m mamba-130m --prompts pairs.jsonl --edits edits.json --each --out out/edit\n"
      "with [{\"point\": \"layers.3.mixer.out\", \"op\": \"mean\"}, ...] in edits.json",
      *args,
      "Pairs of prompts, a JSON object a line: clean (which is edited), corrupt, answer, "
      "wrong");
  verb->add_option("--edits", args->edits, "Edits, a JSON list")
      ->type_name("FILE")
      ->required()
      ->check(not_empty());
  verb->add_option("--reference", args->reference,
                   "Prompts that means and draws are taken from, a JSON object a line; as a rule "
                   "the corrupted ones")
      ->type_name("FILE")
      ->check(not_empty());
  verb->add_flag("--each", args->each, "Each edit on its own, instead of all together");
  verb->add_option("--batch-tokens", args->batch_tokens, "Tokens in one pass")
      ->check(whole_number(1));
  verb->callback([args] { run(*args); });
}

}  // namespace elapse
