// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/bench/benchmark.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <utility>

namespace elapse::bench {
namespace {

// Insertions, deletions and replacements that turn a into b (Levenshtein).
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

// From `name` to the nearest of what could have been meant: the whole of `known` or a beginning
// that ends at a dot.
size_t distance_to_prefix(std::string_view name, std::string_view known) {
  size_t best = edit_distance(name, known);
  for (size_t dot = known.find('.'); dot != known.npos; dot = known.find('.', dot + 1)) {
    best = std::min(best, edit_distance(name, known.substr(0, dot)));
  }
  return best;
}

std::vector<std::string_view> names_near(std::string_view name) {
  constexpr size_t kShown = 3;
  std::vector<std::pair<size_t, std::string_view>> ranked;
  for (const Benchmark* b : all_benchmarks()) {
    ranked.emplace_back(distance_to_prefix(name, b->name), b->name);
  }
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string_view> names;
  for (size_t i = 0; i < std::min(kShown, ranked.size()); ++i) names.push_back(ranked[i].second);
  return names;
}

}  // namespace

std::vector<const Benchmark*> all_benchmarks() {
  std::vector<const Benchmark*> all;
  for (const auto group :
       {machine_benchmarks(), scan_benchmarks(), ssd_benchmarks(), attention_benchmarks(),
        state_space_benchmarks(), linear_attention_benchmarks(), streaming_benchmarks(),
        linear_benchmarks(), train_benchmarks(), decode_benchmarks(), published_benchmarks(),
        tokenize_benchmarks(), inspect_benchmarks(), gpu_machine_benchmarks(),
        gpu_scan_benchmarks(), gpu_attention_benchmarks(), gpu_model_benchmarks()}) {
    for (const Benchmark& benchmark : group) all.push_back(&benchmark);
  }
  return all;
}

bool is_of_gpu(const Benchmark& benchmark) { return benchmark.name.starts_with("gpu."); }

std::vector<const Benchmark*> select_benchmarks(const std::vector<std::string>& names) {
  const std::vector<const Benchmark*> all = all_benchmarks();
  if (names.empty()) return all;
  const auto begins = [](const Benchmark* b, const std::string& n) {
    return b->name.starts_with(n);
  };
  for (const std::string& name : names) {
    ELAPSE_CHECK(std::any_of(all.begin(), all.end(), [&](auto* b) { return begins(b, name); }),
                 "no benchmark's name begins with '{}'; near it: {}", name,
                 fmt::join(names_near(name), ", "));
  }
  std::vector<const Benchmark*> selected;
  std::copy_if(all.begin(), all.end(), std::back_inserter(selected), [&](const Benchmark* b) {
    return std::any_of(names.begin(), names.end(), [&](const auto& n) { return begins(b, n); });
  });
  return selected;
}

Row make_row(std::string name, const Measure& measure, double seconds, double floor_seconds,
             int threads) {
  return {std::move(name),           measure.kind, measure.of(seconds), measure.unit,
          measure.of(floor_seconds), threads};
}

std::vector<Row> make_rows(Context& context, const Benchmark& self, const Measure& measure,
                           const Work& work, const std::vector<double>& seconds) {
  std::vector<Row> rows;
  for (size_t i = 0; i < seconds.size(); ++i) {
    rows.push_back(make_row(std::string(self.name), measure, seconds[i],
                            context.floor_seconds(work, i), context.device(i).threads()));
  }
  return rows;
}

std::vector<Row> time_operation(Context& context, const Benchmark& self, const Measure& measure,
                                const Work& work, const std::function<void(Device&)>& call) {
  return make_rows(context, self, measure, work, context.time(call));
}

}  // namespace elapse::bench
