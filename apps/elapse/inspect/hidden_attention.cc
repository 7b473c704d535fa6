// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/hidden_attention.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include "apps/elapse/inspect/one_prompt.h"
#include "elapse/interpret/direct_attribution.h"

namespace elapse {
namespace {

constexpr int64_t kMostDrawn = 5 * HeatMap::kMostCells;  // on a page

struct Arguments : OnePrompt {
  int64_t layer = -1, unit = -1;
  std::string over = "mean";
};

std::vector<int64_t> layers_of(const Arguments& args, int64_t n_layers) {
  ELAPSE_CHECK(args.layer < n_layers, "layer {}: the model has {}", args.layer, n_layers);
  if (args.layer >= 0) return {args.layer};
  std::vector<int64_t> layers(static_cast<size_t>(n_layers));
  std::iota(layers.begin(), layers.end(), 0);
  return layers;
}

// One layer's map after another, (tokens, tokens) each, from one pass of the model.
class Maps {
 public:
  Maps(const Arguments& args, const Inspection& inspection, const std::vector<int64_t>& layers)
      : args_(args), model_(inspection.model()) {
    if (args.over == "answer") {
      const PromptPair pair = chosen(inspection.pairs(), args);
      tokens_ = pair.clean;
      along_.emplace(model_, tokens_, pair.answer, layers);
      return;
    }
    tokens_ = chosen(inspection.prompts(), args);
    for (const int64_t layer : layers) HiddenAttention::watch(points_, layer);
    Tape tape(model_.device(), false);
    model_.forward(tape, pack(model_, {tokens_}), nullptr, &points_);
  }

  const std::vector<int64_t>& tokens() const { return tokens_; }

  std::vector<double> of_layer(int64_t layer) const {
    if (along_) return along_->map(layer);
    const HiddenAttention attention(model_, layer, points_);
    if (args_.unit >= 0) return attention.map_of_unit(args_.unit);
    using Reduction = HiddenAttention::Reduction;
    return attention.map(args_.over == "mean-absolute" ? Reduction::mean_absolute
                                                       : Reduction::mean);
  }

  std::string what() const {
    if (along_) {
      return "How much of what a layer adds to the answer's logit less the other's at a query "
             "comes from each token.";
    }
    const std::string of = args_.unit >= 0 ? fmt::format("alpha of unit {}", args_.unit)
                           : args_.over == "mean-absolute" ? "the mean of |alpha| over channels"
                                                           : "the mean of alpha over channels";
    return "How much of what a layer's scan reads at a query comes from each token: " + of + ".";
  }

 private:
  const Arguments& args_;
  const LanguageModel& model_;
  std::vector<int64_t> tokens_;
  Points points_;
  std::optional<DirectAttribution> along_;
};

void run(const Arguments& args) {
  Inspection inspection(args);
  inspection.model().config().expect_mamba("hidden-attention");
  const std::vector<int64_t> layers = layers_of(args, inspection.model().config().n_layers);
  const Maps maps(args, inspection, layers);
  const std::vector<std::string> names = inspection.token_names(maps.tokens());
  const int64_t n = std::ssize(names);
  size_t drawn = 0;
  Report report("Hidden attention", maps.what());
  Table table({{"layer"}, {"last token reads most from", Table::Align::left}, {"weight"}});
  JsonWriter json;
  json.begin_object().field("method", "hidden attention").field("tokens", names);
  json.key("layers").begin_array();
  const auto progress = inspection.progress("layer");
  for (size_t i = 0; i < layers.size(); ++i) {
    std::vector<double> map = maps.of_layer(layers[i]);
    json.begin_object().field("layer", layers[i]).field("alpha", map).end_object();
    const double* last = map.data() + (n - 1) * n;
    const double* most = std::max_element(
        last, last + n, [](double a, double b) { return std::abs(a) < std::abs(b); });
    table.add_row({layers[i], inspection.place_name(maps.tokens(), most - last), *most});
    for (int64_t query = 0; query < n; ++query) {
      std::fill(map.begin() + query * n + query + 1, map.begin() + (query + 1) * n,
                std::numeric_limits<double>::quiet_NaN());
    }
    if (n * n <= HeatMap::kMostCells && static_cast<int64_t>(i + 1) * n * n <= kMostDrawn) {
      ++drawn;
      report.heat_map({.title = fmt::format("Layer {}", layers[i]),
                       .row_heading = "query",
                       .column_heading = "from",
                       .rows = names,
                       .columns = names,
                       .values = map,
                       .decimals = 4,
                       .folded = i > 0});
    }
    progress(static_cast<int64_t>(i) + 1, std::ssize(layers));
  }
  inspection.end_progress();
  json.end_array();
  if (drawn < layers.size()) {
    report.paragraph(
        fmt::format("A page has room for {} of {} maps of {} x {}: result.json has all.", drawn,
                    layers.size(), n, n));
  }
  report.table(table);
  finish(args, fmt::format("{}\n\n{}", maps.what(), table.text()), report, json);
}

}  // namespace

void add_inspect_hidden_attention(CLI::App& inspect) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* verb = add_one_prompt_method(
      inspect, "hidden-attention", "A layer's scan as attention between tokens",
      "hidden-attention -m mamba-130m --prompts prompts.jsonl --out out/attention", *args,
      "Prompts, a JSON object a line: text, or tokens; --over answer: pairs");
  verb->add_option("--layer", args->layer, "One layer; -1: all")->check(whole_number(-1));
  CLI::Option* over =
      verb->add_option(
              "--over", args->over,
              "mean over the channels, mean of absolute values, or what they add along the "
              "answer's direction")
          ->check(CLI::IsMember({"mean", "mean-absolute", "answer"}));
  verb->add_option("--unit", args->unit, "One channel (Mamba-2: head) in place of all; -1: all")
      ->check(whole_number(-1))
      ->excludes(over);
  verb->callback([args] { run(*args); });
}

}  // namespace elapse
