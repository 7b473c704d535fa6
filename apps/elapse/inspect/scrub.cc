// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "apps/elapse/checks.h"
#include "apps/elapse/inspect/inspection.h"
#include "elapse/interpret/scrubbing.h"
#include "elapse/io/file.h"
#include "elapse/io/json.h"

namespace elapse {
namespace {

struct Arguments : InspectOptions {
  std::string hypothesis;
  std::vector<std::string> family;
  int64_t rounds = 10;
  uint64_t seed = 1;
};

int64_t node_of(const Json& value, const ResidualGraph& graph) {
  const std::string name = value.text();
  for (int64_t node = 0; node < graph.nodes(); ++node) {
    if (graph.name(node) == name) return node;
  }
  fail("{}: expected embed, layers.0 to {} or unembed, found \"{}\"", value.where(),
       graph.name(graph.unembed() - 1), name);
}

// "input": all of it; "nothing"; "answer"; "token:K": the K-th token, from the end where negative.
std::function<int64_t(size_t)> feature_of(const Json& value, const ScrubDataset& data) {
  const std::string name = value.text();
  if (name == "input") return [](size_t x) { return static_cast<int64_t>(x); };
  if (name == "nothing") return [](size_t) { return int64_t{0}; };
  if (name == "answer") return [&data](size_t x) { return data.labels[x]; };
  constexpr std::string_view kToken = "token:";
  const int64_t length = std::ssize(data.sequences.front());
  if (name.starts_with(kToken)) {
    int64_t place = 0;
    const char* end = name.data() + name.size();
    const auto [rest, error] = std::from_chars(name.data() + kToken.size(), end, place);
    if (place < 0) place += length;
    ELAPSE_CHECK(error == std::errc() && rest == end && place >= 0 && place < length,
                 "{}: expected a token's place, {} to {}, found \"{}\"", value.where(), -length,
                 length - 1, name);
    return [&data, place](size_t x) { return data.sequences[x][static_cast<size_t>(place)]; };
  }
  fail("{}: expected input, nothing, answer or token:K, found \"{}\"", value.where(), name);
}

// Tokens' places, from the end where negative.
std::vector<int64_t> positions_of(const Json& list, int64_t length) {
  std::vector<int64_t> positions;
  for (const Json& item : list.items()) {
    const int64_t place = item.integer();
    ELAPSE_CHECK(place >= -length && place < length,
                 "{}: expected a token's place, {} to {}, found {}", item.where(), -length,
                 length - 1, place);
    positions.push_back(place < 0 ? place + length : place);
    ELAPSE_CHECK(std::count(positions.begin(), positions.end(), positions.back()) == 1,
                 "{}: this token stands twice", item.where());
  }
  ELAPSE_CHECK(!positions.empty(), "{}: expected places of tokens, found none", list.where());
  return positions;
}

// {"nodes": [{"name": ..., "node": "unembed", "reads": [names]},
//            {..., "computes": "input", "positions": [3]}, ...]}
Hypothesis parse_hypothesis(const std::string& path, const ResidualGraph& graph,
                            const ScrubDataset& data) {
  const std::vector<Json> nodes = Json::parse(read_text(path), path).at("nodes").items();
  for (size_t i = 0; i < nodes.size(); ++i) {
    for (const auto& [key, value] : nodes[i].members()) {
      const bool of_any = key == "name" || key == "node" || key == "reads";
      const bool of_sender = i > 0 && (key == "computes" || key == "positions");
      ELAPSE_CHECK(of_any || of_sender, "{}: expected name, node, reads{}", value.where(),
                   i == 0 ? " of the first node" : ", computes or positions");
    }
  }
  std::map<std::string, size_t> index;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const bool fresh = index.emplace(nodes[i].text("name"), i).second;
    ELAPSE_CHECK(fresh, "{}: two nodes have this name", nodes[i].at("name").where());
  }
  Hypothesis hypothesis;
  for (size_t i = 0; i < nodes.size(); ++i) {
    ScrubNode node;
    node.node = node_of(nodes[i].at("node"), graph);
    if (i > 0) node.feature = feature_of(nodes[i].at("computes"), data);
    if (nodes[i].has("positions")) {
      node.positions = positions_of(nodes[i].at("positions"), std::ssize(data.sequences.front()));
    }
    if (nodes[i].has("reads")) {
      for (const Json& name : nodes[i].at("reads").items()) {
        const auto found = index.find(name.text());
        ELAPSE_CHECK(found != index.end(), "{}: no node has the name \"{}\"", name.where(),
                     name.text());
        node.parents.push_back(found->second);
      }
    }
    hypothesis.push_back(std::move(node));
  }
  return hypothesis;
}

// What a model of the family would have to be to lose as much as the scrubbed one.
struct EqualSize {
  std::vector<SizedLoss> family;
  double parameters = NAN;

  std::string sentence() const {
    std::string of;
    for (const SizedLoss& m : family) {
      of += fmt::format("{}{} parameters {:.4f}", of.empty() ? "" : ", ", m.parameters, m.loss);
    }
    if (std::isnan(parameters)) {
      return fmt::format("No size of the family loses as much as the scrubbed model ({}).", of);
    }
    return fmt::format("The scrubbed model loses as much as one of {:.0f} parameters ({}).",
                       parameters, of);
  }
};

std::vector<SizedLoss> family_losses(const Arguments& args, Inspection& inspection,
                                     const ScrubDataset& data) {
  std::vector<SizedLoss> family;
  const auto progress = inspection.progress("model");
  for (const std::string& folder : args.family) {
    const auto model = load_model(inspection.device(), folder, inspection.model().activations(),
                                  WeightMemory::mapped);
    ELAPSE_CHECK(model->config().vocab_size == inspection.model().config().vocab_size,
                 "{}: expected a model of {} classes, as {} is, found {}", folder,
                 inspection.model().config().vocab_size, args.model, model->config().vocab_size);
    family.push_back({model->parameters().count(), mean_loss(*model, data)});
    progress(std::ssize(family), std::ssize(args.family));
  }
  inspection.end_progress();
  return family;
}

void run(const Arguments& args) {
  Inspection inspection(args);
  const std::vector<PromptPair> pairs = inspection.pairs();
  ScrubDataset data = {clean_of(pairs), {}};
  for (const PromptPair& pair : pairs) data.labels.push_back(pair.answer.right);
  const Hypothesis hypothesis = parse_hypothesis(args.hypothesis, inspection.graph(), data);
  const LastLogits logits =
      last_logits(inspection.model(), pack(inspection.model(), data.sequences));
  const std::string task = inspection.task_sentence(logits, answers_of(pairs));
  EqualSize size = {family_losses(args, inspection, data)};
  const ScrubResult found = scrub(inspection.model(), data, hypothesis, args.rounds, args.seed,
                                  inspection.progress("round"));
  inspection.end_progress();
  size.parameters = size_of_equal_loss(size.family, found.scrubbed_loss);

  std::vector<double> gaps;
  for (size_t x = 0; x < found.model_losses.size(); ++x) {
    gaps.push_back(found.scrubbed_losses[x] - found.model_losses[x]);
  }
  Table table({{"", Table::Align::left}, {"nats", Table::Align::right, 4}});
  table.add_row({"loss of the model", found.model_loss});
  table.add_row({"loss scrubbed", found.scrubbed_loss});
  table.add_row({"loss with labels permuted", found.shuffled_loss});
  table.add_row({"KL(model || scrubbed)", found.kl});
  table.add_row({"rise by example: least", quantile(gaps, 0)});
  table.add_row({"rise by example: median", quantile(gaps, 0.5)});
  table.add_row({"rise by example: 90 % below", quantile(gaps, 0.9)});
  table.add_row({"rise by example: largest", quantile(gaps, 1)});
  const std::string what = fmt::format(
      "{:.1f} % of the loss recovered ({:.4f} scrubbed, {:.4f} model, {:.4f} permuted), {} "
      "examples, "
      "{} rounds.",
      100 * found.recovered, found.scrubbed_loss, found.model_loss, found.shuffled_loss,
      pairs.size(), args.rounds);
  const std::string size_told = args.family.empty() ? "" : size.sentence() + "\n";
  Plot plot("Loss by example, in order", {.label = "example"}, {.label = "nats"});
  std::vector<double> places, model = found.model_losses, scrubbed = found.scrubbed_losses;
  std::sort(model.begin(), model.end());
  std::sort(scrubbed.begin(), scrubbed.end());
  for (size_t i = 0; i < model.size(); ++i) places.push_back(static_cast<double>(i + 1));
  plot.add({.name = "model", .x = places, .y = model})
      .add({.name = "scrubbed", .x = places, .y = scrubbed});
  Report report("Causal scrubbing", what);
  report.paragraph(task).table(table).plot(plot);
  if (!size_told.empty()) report.paragraph(size_told);
  JsonWriter json;
  json.begin_object()
      .field("method", "causal scrubbing")
      .field("rounds", args.rounds)
      .field("seed", args.seed)
      .field("recovered", found.recovered)
      .field("model_loss", found.model_loss)
      .field("scrubbed_loss", found.scrubbed_loss)
      .field("shuffled_loss", found.shuffled_loss)
      .field("kl", found.kl)
      .field("model_losses", found.model_losses)
      .field("scrubbed_losses", found.scrubbed_losses);
  if (!args.family.empty()) {
    json.field("parameters_of_equal_loss", size.parameters).key("family").begin_array();
    for (const SizedLoss& m : size.family) {
      json.begin_object().field("parameters", m.parameters).field("loss", m.loss).end_object();
    }
    json.end_array();
  }
  finish(args, fmt::format("{}\n{}\n\n{}{}", task, what, table.text(), size_told), report, json);
}

}  // namespace

void add_inspect_scrub(CLI::App& inspect) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* verb = add_method(
      inspect, "scrub", "Causal scrubbing: test a hypothesis of who reads whom and for what",
      "scrub -m run --prompts pairs.jsonl --hypothesis hypothesis.json --out out/scrub", *args,
      "Pairs of prompts, a JSON object a line; the clean ones and their answers count");
  verb->add_option("--hypothesis", args->hypothesis, "The hypothesis, in JSON")
      ->type_name("FILE")
      ->required()
      ->check(not_empty());
  verb->add_option("--family", args->family,
                   "Folders of models of several sizes, trained alike: the size that loses as much "
                   "as the scrubbed model is told")
      ->type_name("DIR");
  verb->add_option("--rounds", args->rounds, "Times that every example is run")
      ->check(whole_number(1));
  verb->add_option("--seed", args->seed, "Of the draws")->check(seed());
  verb->callback([args] { run(*args); });
}

}  // namespace elapse
