// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "apps/elapse/bench/results.h"
#include "apps/elapse/checks.h"
#include "apps/elapse/interrupt.h"
#include "apps/elapse/progress.h"
#include "apps/elapse/verbs.h"
#include "elapse/core/parallel.h"
#include "elapse/io/file.h"

namespace elapse {
namespace {

struct Options {
  std::vector<std::string> names;
  bool list = false;
  int threads = 0;  // 0: one, and then one a processor
  std::string device = "cpu";
  std::string json;
};

constexpr const char* kFooter =
    "Times are the least of several calls. On a machine that does other things as well, repeat.\n\n"
    "Examples:\n"
    "  elapse bench --list\n"
    "  elapse bench scan train --json results.json\n"
    "  elapse bench linear.in_proj --threads 1\n"
    "  elapse bench --device cuda";

bool on_gpu(const Options& options) { return options.device == "cuda"; }

std::vector<int> thread_counts(const Options& options) {
  if (on_gpu(options)) return {1};
  if (options.threads != 0) return {options.threads};
  const int all = hardware_threads();
  return all == 1 ? std::vector{1} : std::vector{1, all};
}

// Those of the device, all where none is named; a GPU's begin with what floors are computed from.
std::vector<const bench::Benchmark*> selected_for(const Options& options) {
  const auto of_device = [&](const std::vector<std::string>& names) {
    std::vector<const bench::Benchmark*> selected = bench::select_benchmarks(names);
    std::erase_if(selected, [&](const auto* b) { return is_of_gpu(*b) != on_gpu(options); });
    return selected;
  };
  std::vector<const bench::Benchmark*> selected = of_device(options.names);
  ELAPSE_CHECK(!selected.empty(), "none of these benchmarks measures device {}", options.device);
  if (!on_gpu(options) || options.names.empty()) return selected;
  std::vector<std::string> names = options.names;
  names.emplace_back("gpu.machine");
  return of_device(names);
}

std::vector<bench::Row> measure(const Options& options) {
  const std::vector<const bench::Benchmark*> selected = selected_for(options);
  bench::Context context(options.device, thread_counts(options));
  const Interrupt interrupt;  // models in temporary files are to be cleared
  Progress progress("benchmark", 0, static_cast<int64_t>(selected.size()));
  std::vector<bench::Row> rows;
  for (size_t i = 0; i < selected.size(); ++i) {
    progress.update(static_cast<int64_t>(i), selected[i]->name);
    if (interrupt.asked()) {
      interrupt.end("interrupted after {} of {} benchmarks", i, selected.size());
    }
    for (bench::Row& row : selected[i]->run(context, *selected[i])) rows.push_back(std::move(row));
  }
  return rows;
}

void write_json(const std::string& path, const std::string& text) {
  write_file_atomically(path, [&](FileWriter& file) { file.write(text); });
}

void run(const Options& options) {
  if (options.list) {
    fmt::print("{}", bench::list_of(bench::select_benchmarks(options.names)).text());
    return;
  }
  if (on_gpu(options) && options.threads != 0) {
    throw CLI::ValidationError("--threads", "benchmarks of a GPU take none");
  }
  if (!options.json.empty()) check_writable(options.json);
  const std::vector<bench::Row> rows = measure(options);
  fmt::print("{}\n{}", bench::table_of(rows).text(), bench::legend(on_gpu(options)));
  if (!options.json.empty()) write_json(options.json, bench::json_of(rows, options.device));
}

std::string complaint_about(const std::string& name) {
  if (name.empty()) return "expected a benchmark's name or its beginning, found an empty one";
  try {
    bench::select_benchmarks({name});
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

void add_bench_verb(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand(
      "bench", "Measure how fast operations and models run, beside what the machine allows");
  verb->footer(kFooter);
  verb->add_option("NAME", options->names, "Benchmarks or beginnings of their names; none: all")
      ->check(CLI::Validator(complaint_about, ""));
  auto* list =
      verb->add_flag("--list", options->list, "Say what there is to measure, and measure nothing");
  verb->add_option("--threads", options->threads, "Threads; 0: one, and then one a processor")
      ->check(whole_number(0, 1024))
      ->capture_default_str();
  verb->add_option("--device", options->device, "What computes: cpu, ref or cuda")
      ->capture_default_str();
  verb->add_option("--json", options->json, "Write the rows here as well")
      ->type_name("FILE")
      ->check(not_empty())
      ->excludes(list);
  verb->callback([options] { run(*options); });
}

}  // namespace elapse
