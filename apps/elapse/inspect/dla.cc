// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "apps/elapse/inspect/one_prompt.h"
#include "elapse/interpret/direct_attribution.h"

namespace elapse {
namespace {

struct Arguments : OnePrompt {
  int64_t layer = -1, channel = -1;
};

constexpr size_t kMostChannels = 16;  // that a table and a map of one layer tell

std::string heading(const Inspection& inspection, const PromptPair& pair, double total) {
  return fmt::format("Direct logit attribution of logit({}) - logit({}) = {:.4f}",
                     inspection.token_name(pair.answer.right),
                     inspection.token_name(pair.answer.wrong), total);
}

void run_whole(const Arguments& args, Inspection& inspection, const PromptPair& pair) {
  const int64_t n_layers = inspection.model().config().n_layers;
  // What a layer's state brought from each token is told of Mamba's alone.
  const bool by_source = is_mamba(inspection.model().config().mixer);
  std::vector<int64_t> layers(static_cast<size_t>(by_source ? n_layers : 0));
  std::iota(layers.begin(), layers.end(), 0);
  const DirectAttribution whole(inspection.model(), pair.clean, pair.answer, layers);
  Table table({{"component", Table::Align::left}, {"adds to the logit difference"}});
  table.add_row({"embed", whole.embed()});
  std::vector<double> cells, skips, biases;
  const auto progress = inspection.progress("layer");
  const ResidualGraph graph = inspection.graph();
  for (int64_t node = 1; node < graph.unembed(); ++node) {
    table.add_row({graph.name(node), whole.by_block()[static_cast<size_t>(node - 1)]});
  }
  for (const int64_t layer : layers) {
    progress(layer + 1, n_layers);
    const LayerAttribution parts = whole.layer(layer);
    const std::vector<double> by_token = parts.by_token();
    cells.insert(cells.end(), by_token.begin(), by_token.end());
    skips.push_back(std::accumulate(parts.by_skip.begin(), parts.by_skip.end(), 0.0));
    biases.push_back(parts.bias);
    cells.push_back(skips.back() + parts.bias);
  }
  inspection.end_progress();
  table.add_row(
      {"sum", std::accumulate(whole.by_block().begin(), whole.by_block().end(), whole.embed())});
  table.add_row({"the model's logit difference", whole.total()});
  std::vector<std::string> columns = inspection.token_names(pair.clean);
  columns.push_back("D x, bias");
  const std::string what =
      heading(inspection, pair, whole.total()) +
      " after the last token: what each component wrote there" +
      (by_source ? ", and what of it each layer's state brought from each token." : ".");
  Report report("Direct logit attribution", what);
  if (by_source) {
    report.heat_map(
        {.title =
             "Share by layer and source token; last: D x of the last token, and out_proj's bias",
         .row_heading = "layer",
         .column_heading = "from",
         .rows = inspection.layer_names(),
         .columns = columns,
         .values = cells,
         .decimals = 4});
  }
  report.table(table);
  JsonWriter json;
  json.begin_object()
      .field("method", "direct logit attribution")
      .field("logit_difference", whole.total())
      .field("embed", whole.embed())
      .field("by_layer", whole.by_block())
      .field("columns", columns)
      .field("by_layer_and_source", cells)
      .field("skip", skips)
      .field("bias", biases);
  finish(args, fmt::format("{}\n\n{}", what, table.text()), report, json);
}

// One layer by channel and source token.
void run_layer(const Arguments& args, Inspection& inspection, const PromptPair& pair) {
  const DirectAttribution whole(inspection.model(), pair.clean, pair.answer, {args.layer});
  const LayerAttribution parts = whole.layer(args.layer);
  const std::vector<double> by_channel = parts.by_channel();
  std::vector<size_t> order(by_channel.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::abs(by_channel[a]) > std::abs(by_channel[b]);
  });
  order.resize(std::min(order.size(), kMostChannels));
  std::vector<std::string> rows, columns = inspection.token_names(pair.clean);
  columns.push_back("D x");
  std::vector<double> cells;
  Table table({{"channel"}, {"adds to the logit difference"}, {"of it D x"}});
  for (const size_t channel : order) {
    rows.push_back(fmt::format("{}", channel));
    for (int64_t t = 0; t < parts.tokens; ++t) {
      cells.push_back(parts.by_source[static_cast<size_t>(t * parts.channels) + channel]);
    }
    cells.push_back(parts.by_skip[channel]);
    table.add_row({static_cast<int64_t>(channel), by_channel[channel], parts.by_skip[channel]});
  }
  const std::string what =
      heading(inspection, pair, whole.total()) +
      fmt::format(
          " after the last token: layer {}, which has {:.4f} of it, by channel and source "
          "token; the {} of {} channels with the largest shares.",
          args.layer, parts.share(), order.size(), parts.channels);
  Report report("Direct logit attribution of a layer", what);
  report
      .heat_map({.title = "Share by channel and source token",
                 .row_heading = "channel",
                 .column_heading = "from",
                 .rows = rows,
                 .columns = columns,
                 .values = cells,
                 .decimals = 4})
      .table(table);
  JsonWriter json;
  json.begin_object()
      .field("method", "direct logit attribution of a layer")
      .field("logit_difference", whole.total())
      .field("layer", args.layer)
      .field("share", parts.share())
      .field("by_channel", by_channel)
      .field("by_source_and_channel", parts.by_source)
      .field("skip", parts.by_skip)
      .field("bias", parts.bias);
  finish(args, fmt::format("{}\n\n{}", what, table.text()), report, json);
}

// One channel by source token and the state that carried it.
void run_channel(const Arguments& args, Inspection& inspection, const PromptPair& pair) {
  const DirectAttribution whole(inspection.model(), pair.clean, pair.answer, {args.layer});
  const std::vector<double> by_state = whole.channel_by_state(args.layer, args.channel);
  const int64_t states = inspection.model().config().d_state, tokens = std::ssize(pair.clean);
  std::vector<std::string> rows;
  std::vector<double> cells;
  Table table({{"state"}, {"adds to the logit difference"}});
  double sum = 0;
  for (int64_t n = 0; n < states; ++n) {
    rows.push_back(fmt::format("{}", n));
    double of_state = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      cells.push_back(by_state[static_cast<size_t>(t * states + n)]);
      of_state += cells.back();
    }
    table.add_row({n, of_state});
    sum += of_state;
  }
  const std::string what =
      heading(inspection, pair, whole.total()) +
      fmt::format(
          " after the last token: what of it the states of channel {} of layer {} brought "
          "from each token, {:.4f}.",
          args.channel, args.layer, sum);
  Report report("Direct logit attribution of a channel", what);
  report
      .heat_map({.title = "Share by state and source token",
                 .row_heading = "state",
                 .column_heading = "from",
                 .rows = rows,
                 .columns = inspection.token_names(pair.clean),
                 .values = cells,
                 .decimals = 5})
      .table(table);
  JsonWriter json;
  json.begin_object()
      .field("method", "direct logit attribution of a channel")
      .field("logit_difference", whole.total())
      .field("layer", args.layer)
      .field("channel", args.channel)
      .field("by_source_and_state", by_state);
  finish(args, fmt::format("{}\n\n{}", what, table.text()), report, json);
}

void run(const Arguments& args) {
  Inspection inspection(args);
  const PromptPair pair = chosen(inspection.pairs(), args);
  if (args.channel >= 0) run_channel(args, inspection, pair);
  else if (args.layer >= 0) run_layer(args, inspection, pair);
  else run_whole(args, inspection, pair);
}

}  // namespace

void add_inspect_dla(CLI::App& inspect) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* verb = add_one_prompt_method(
      inspect, "dla", "Direct logit attribution, down to a channel's source tokens and states",
      "dla -m mamba-130m --prompts pairs.jsonl --out out/dla", *args, kOfPairs);
  CLI::Option* layer =
      verb->add_option("--layer", args->layer, "One layer, by channel; -1: all, by layer")
          ->check(whole_number(-1));
  verb->add_option("--channel", args->channel, "One channel of the layer, by state; -1: all")
      ->check(whole_number(-1))
      ->needs(layer);
  verb->callback([args] { run(*args); });
}

}  // namespace elapse
