// SPDX-License-Identifier: Apache-2.0
// States saved by `elapse generate --save-state`: shown, compared, mixed, transplanted.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <numeric>

#include "apps/elapse/checks.h"
#include "apps/elapse/inspect/inspection.h"
#include "elapse/interpret/states.h"
#include "elapse/io/file.h"
#include "elapse/model/state_file.h"

namespace elapse {
namespace {

struct Arguments : InspectOptions {
  std::string from, to, save;
  double share = 0.5;
  std::vector<int64_t> layers;
  int64_t layer = -1;
  std::vector<int64_t> channels;  // none, or the first and the one after the last
  std::string part;
};

State one_sequence(const Inspection& inspection, const std::string& path) {
  State state = load_state(path, inspection.model());
  ELAPSE_CHECK(state.bytes_per_token() == 0,
               "{}: expected a state of constant size, found attention's, which grows", path);
  ELAPSE_CHECK(state.slots() == 1, "{}: expected the state of one sequence, found {}", path,
               state.slots());
  return state;
}

// "channel 3, state 7", of the part's axes.
std::string place_of(const StateDifference& d, const StateEntry& entry) {
  if (d.part == "cell") {
    return fmt::format("channel {}, {}", entry.channel, entry.column == 0 ? "h" : "c");
  }
  return fmt::format("channel {}, {} {}", entry.channel, d.part == "h" ? "state" : "place",
                     entry.column);
}

// The part's largest entry, said in words by `told`; "" where it has none (a window of no tokens).
std::string largest_text(const StateDifference& d,
                         const std::function<std::string(const StateEntry&)>& told) {
  if (d.largest.empty()) return "";
  return place_of(d, d.largest.front()) + ": " + told(d.largest.front());
}

// One part as an object, still open.
void write_part(JsonWriter& json, const StateDifference& d) {
  json.begin_object().field("layer", d.layer).field("part", d.part).field("norm", d.norm);
  if (d.largest.empty()) return;
  const StateEntry& most = d.largest.front();
  json.key("largest")
      .begin_object()
      .field("channel", most.channel)
      .field(d.part == "h"      ? "state"
             : d.part == "cell" ? "row"
                                : "place",
             most.column)
      .field("first", most.first)
      .field("second", most.second)
      .end_object();
}

std::vector<std::string> part_names(const State& state) {
  std::vector<std::string> names;
  for (const StatePart& part : state.layers().front().parts) names.push_back(part.name);
  return names;
}

// One layer's h by channel and state, of the channels with the largest norms.
HeatMap layer_map(const Arguments& args, Inspection& inspection, const State& state) {
  constexpr size_t kMostChannels = 64;
  const Tensor& h = state.layers()[static_cast<size_t>(args.layer)].part("h").value();
  const std::vector<double> values = host_values(inspection.device(), h);
  const auto channels = static_cast<size_t>(h.dim(1)), states = static_cast<size_t>(h.dim(2));
  std::vector<double> norms(channels, 0.0);
  for (size_t i = 0; i < values.size(); ++i) norms[i / states] += values[i] * values[i];
  std::vector<size_t> order(channels);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return norms[a] > norms[b]; });
  order.resize(std::min(channels, kMostChannels));
  std::sort(order.begin(), order.end());
  HeatMap map = {.title = fmt::format("h of layer {}, the {} channels with the largest norms of {}",
                                      args.layer, order.size(), channels),
                 .row_heading = "channel",
                 .column_heading = "state"};
  for (size_t n = 0; n < states; ++n) map.columns.push_back(fmt::format("{}", n));
  for (const size_t channel : order) {
    map.rows.push_back(fmt::format("{}", channel));
    const auto first = values.begin() + static_cast<int64_t>(channel * states);
    map.values.insert(map.values.end(), first, first + static_cast<int64_t>(states));
  }
  return map;
}

void run_show(const Arguments& args) {
  Inspection inspection(args);
  const LanguageModel& model = inspection.model();
  ELAPSE_CHECK(args.layer < model.config().n_layers, "layer {}: the model has {}", args.layer,
               model.config().n_layers);
  if (args.layer >= 0) model.config().expect_mamba("the map of h by channel and state");
  const State state = one_sequence(inspection, args.from);
  Table table(
      {{"layer"}, {"part", Table::Align::left}, {"norm"}, {"largest at", Table::Align::left}});
  JsonWriter json;
  json.begin_object().field("method", "state").field("tokens", state.position());
  json.key("parts").begin_array();
  std::vector<double> norms;
  for (const StateDifference& d : difference(inspection.device(), state, model.make_state(1))) {
    table.add_row({d.layer, d.part, d.norm, largest_text(d, [](const StateEntry& e) {
                     return fmt::format("{:.4f}", e.first);
                   })});
    norms.push_back(d.norm);
    write_part(json, d);
    json.end_object();
  }
  json.end_array();
  const std::string what =
      fmt::format("{}: what is remembered of {} tokens.", args.from, state.position());
  Report report("A state", what);
  report.heat_map({.title = "Norm",
                   .row_heading = "layer",
                   .column_heading = "part",
                   .rows = inspection.layer_names(),
                   .columns = part_names(state),
                   .values = norms});
  if (args.layer >= 0) report.heat_map(layer_map(args, inspection, state));
  report.table(table);
  finish(args, fmt::format("{}\n\n{}", what, table.text()), report, json);
}

void run_diff(const Arguments& args) {
  Inspection inspection(args);
  const State a = one_sequence(inspection, args.from), b = one_sequence(inspection, args.to);
  Table table({{"layer"},
               {"part", Table::Align::left},
               {"norm"},
               {"difference"},
               {"relative"},
               {"most at", Table::Align::left}});
  JsonWriter json;
  json.begin_object().field("method", "state difference").key("parts").begin_array();
  std::vector<double> relative;
  for (const StateDifference& d : difference(inspection.device(), a, b)) {
    const double share = d.norm > 0 ? d.difference / d.norm : NAN;
    table.add_row(
        {d.layer, d.part, d.norm, d.difference, share, largest_text(d, [](const StateEntry& e) {
           return fmt::format("{:.4f} to {:.4f}", e.first, e.second);
         })});
    relative.push_back(share);
    write_part(json, d);
    json.field("difference", d.difference).end_object();
  }
  json.end_array();
  const std::string what = fmt::format("{} (after {} tokens) and {} (after {}).", args.from,
                                       a.position(), args.to, b.position());
  Report report("Two states", what);
  report
      .heat_map({.title = "Difference, as a share of the first one's norm",
                 .row_heading = "layer",
                 .column_heading = "part",
                 .rows = inspection.layer_names(),
                 .columns = part_names(a),
                 .values = relative})
      .table(table);
  finish(args, fmt::format("{}\n\n{}", what, table.text()), report, json);
}

// A made state has no logits yet: generate goes on from it with a prompt.
void save_made(const Arguments& args, Inspection& inspection, const State& state,
               const std::string& what) {
  check_writable(args.save);
  save_state(args.save, inspection.model(), state);
  Report report("A state", what);
  JsonWriter json;
  json.begin_object().field("method", what).field("saved", args.save);
  finish(args, fmt::format("{}\nSaved: {}\n", what, args.save), report, json);
}

void check_apart(const Arguments& args) {
  namespace fs = std::filesystem;
  for (const std::string& input : {args.from, args.to}) {
    std::error_code error;
    if (fs::equivalent(input, args.save, error)) {
      throw CLI::ValidationError("--save", "it is one of the states that are read");
    }
  }
}

void run_interpolate(const Arguments& args) {
  check_apart(args);
  Inspection inspection(args);
  const State a = one_sequence(inspection, args.from), b = one_sequence(inspection, args.to);
  save_made(args, inspection, interpolate(inspection.device(), a, b, args.share),
            fmt::format("{} + {} ({} - {}).", args.from, args.share, args.to, args.from));
}

void run_transplant(const Arguments& args) {
  check_apart(args);
  Inspection inspection(args);
  const State from = one_sequence(inspection, args.from);
  State into = one_sequence(inspection, args.to);
  Transplant what = {.layers = args.layers, .part = args.part};
  if (!args.channels.empty()) {
    what.channel_begin = args.channels[0];
    what.channel_end = args.channels[1];
  }
  transplant(inspection.device(), from, into, what);
  save_made(args, inspection, into,
            fmt::format("{} with {}{} of layers {} from {}.", args.to,
                        args.part.empty() ? "the whole memory" : args.part,
                        args.channels.empty() ? ""
                                              : fmt::format(" of channels {} to {}",
                                                            args.channels[0], args.channels[1] - 1),
                        fmt::join(args.layers, ", "), args.from));
}

void add_from(CLI::App& verb, Arguments& args) {
  verb.add_option("--from", args.from, "A saved state")
      ->type_name("FILE")
      ->required()
      ->check(not_empty());
}

std::shared_ptr<Arguments> add(CLI::App& state, const char* name, const char* about,
                               const std::string& example, void (*run)(const Arguments&),
                               CLI::App** out) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* verb = add_method(state, name, about, "state " + example, *args, "");
  add_from(*verb, *args);
  verb->add_option("--to", args->to, "Another")->type_name("FILE")->required()->check(not_empty());
  verb->callback([args, run] { run(*args); });
  *out = verb;
  return args;
}

}  // namespace

void add_inspect_state(CLI::App& inspect) {
  CLI::App* state = inspect.add_subcommand("state", "Saved states, shown, compared and mixed");
  state->require_subcommand(1);
  const auto shown = std::make_shared<Arguments>();
  CLI::App* verb =
      add_method(*state, "show", "What a state holds, layer by layer",
                 "state show -m run --from a.state --layer 3 --out out/state", *shown, "");
  add_from(*verb, *shown);
  verb->add_option("--layer", shown->layer,
                   "Draw this layer's h as well, of Mamba mixers; -1: none")
      ->check(whole_number(-1));
  verb->callback([shown] { run_show(*shown); });
  add(*state, "diff", "How two states differ, layer by layer",
      "diff -m run --from a.state --to b.state", run_diff, &verb);
  auto args = add(*state, "interpolate", "A state between two",
                  "interpolate -m run --from a.state --to b.state --share 0.5 --save c.state",
                  run_interpolate, &verb);
  verb->add_option("--share", args->share, "0: the first; 1: the second");
  verb->add_option("--save", args->save, "Where the state goes")
      ->type_name("FILE")
      ->required()
      ->check(not_empty());
  args = add(*state, "transplant", "Layers of one state put into another",
             "transplant -m run --from a.state --to b.state --layers 3,4 --save c.state",
             run_transplant, &verb);
  verb->add_option("--layers", args->layers, "Whose memory is taken over")
      ->delimiter(',')
      ->required()
      ->check(whole_number(0));
  verb->add_option("--channels", args->channels,
                   "The first and the one after the last, of those taken over; as a rule all")
      ->delimiter(',')
      ->expected(2)
      ->check(whole_number(0));
  verb->add_option("--part", args->part, "h or conv, as a rule both; cell of recurrent mixers");
  verb->add_option("--save", args->save, "Where the state goes")
      ->type_name("FILE")
      ->required()
      ->check(not_empty());
}

}  // namespace elapse
