// SPDX-License-Identifier: Apache-2.0
// States saved by `elapse generate --save-state`: shown, compared, mixed, transplanted.
#include <fmt/format.h>

#include <cmath>
#include <filesystem>

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
  std::string part;
};

State one_sequence(const Inspection& inspection, const std::string& path) {
  State state = load_state(path, inspection.model());
  ELAPSE_CHECK(state.slots() == 1, "{}: expected the state of one sequence, found {}", path,
               state.slots());
  return state;
}

// "channel 3, 7: 0.1 to 0.4", of the part's axes.
std::string where_most(const StateDifference& d) {
  if (d.largest.empty()) return "";
  const StateEntry& most = d.largest.front();
  return fmt::format("channel {}, {} {}: {:.4f} to {:.4f}", most.channel,
                     d.part == "h" ? "state" : "place", most.column, most.first, most.second);
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
    table.add_row({d.layer, d.part, d.norm, d.difference, share, where_most(d)});
    relative.push_back(share);
    json.begin_object()
        .field("layer", d.layer)
        .field("part", d.part)
        .field("norm", d.norm)
        .field("difference", d.difference)
        .field("most_at", where_most(d))
        .end_object();
  }
  json.end_array();
  const std::string what = fmt::format("{} (after {} tokens) and {} (after {}).", args.from,
                                       a.position(), args.to, b.position());
  std::vector<std::string> parts;
  for (const StatePart& part : a.layers().front().parts) parts.push_back(part.name);
  Report report("Two states", what);
  report
      .heat_map({.title = "Difference, as a share of the first one's norm",
                 .row_heading = "layer",
                 .column_heading = "part",
                 .rows = inspection.layer_names(),
                 .columns = parts,
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
  transplant(inspection.device(), from, into, {.layers = args.layers, .part = args.part});
  save_made(args, inspection, into,
            fmt::format("{} with {} of layers {} from {}.", args.to,
                        args.part.empty() ? "the whole memory" : args.part,
                        fmt::join(args.layers, ", "), args.from));
}

std::shared_ptr<Arguments> add(CLI::App& state, const char* name, const char* about,
                               const std::string& example, void (*run)(const Arguments&),
                               CLI::App** out) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* verb = add_method(state, name, about, "state " + example, *args, "");
  verb->add_option("--from", args->from, "A saved state")
      ->type_name("FILE")
      ->required()
      ->check(not_empty());
  verb->add_option("--to", args->to, "Another")->type_name("FILE")->required()->check(not_empty());
  verb->callback([args, run] { run(*args); });
  *out = verb;
  return args;
}

}  // namespace

void add_inspect_state(CLI::App& inspect) {
  CLI::App* state = inspect.add_subcommand("state", "Saved states, compared and mixed");
  state->require_subcommand(1);
  CLI::App* verb = nullptr;
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
  verb->add_option("--part", args->part, "h or conv; as a rule both");
  verb->add_option("--save", args->save, "Where the state goes")
      ->type_name("FILE")
      ->required()
      ->check(not_empty());
}

}  // namespace elapse
