// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/patching.h"

#include <algorithm>
#include <map>

#include "elapse/interpret/restarts.h"

namespace elapse {
namespace {

std::string layer_point(int64_t layer, const std::string& name) {
  return fmt::format("layers.{}.{}", layer, name);
}

// Some pairs: the runs that are patched, and the values of the others.
class PatchedRuns {
 public:
  PatchedRuns(const LanguageModel& model, const std::vector<PromptPair>& pairs, size_t begin,
              size_t end, const PatchingOptions& options)
      : model_(model), options_(options), restarts_(model, runs(pairs, begin, end, options)) {
    TokenLists sources;
    for (size_t p = begin; p < end; ++p) {
      sources.push_back(options.noising ? pairs[p].corrupt : pairs[p].clean);
      answers_.push_back(pairs[p].answer);
    }
    run_differences_ = logit_differences(restarts_.plain(), answers_);
    read_sources(sources);
  }

  using Patch = Restarts::Run;

  // Logit differences with the point of this layer patched, each of the patches on its own.
  std::vector<double> patched(int64_t layer, const std::vector<Patch>& patches) {
    std::vector<Answer> answers;
    for (const Patch& patch : patches) {
      answers.push_back(answers_[static_cast<size_t>(patch.prompt)]);
    }
    Points points;
    for (Edit& edit : edits(layer, patches)) points.edit(std::move(edit));
    return logit_differences(restarts_.run(layer, patches, points), answers);
  }

  int64_t length(int64_t pair) const { return restarts_.length(pair); }
  int64_t pairs() const { return std::ssize(restarts_.prompts()); }
  // By pair, without a patch.
  const std::vector<double>& run_differences() const { return run_differences_; }
  const std::vector<double>& source_differences() const { return source_differences_; }

 private:
  static TokenLists runs(const std::vector<PromptPair>& pairs, size_t begin, size_t end,
                         const PatchingOptions& options) {
    TokenLists lists;
    for (size_t p = begin; p < end; ++p) {
      lists.push_back(options.noising ? pairs[p].clean : pairs[p].corrupt);
    }
    return lists;
  }

  void read_sources(const TokenLists& prompts) {
    Points points;
    const int64_t n_layers = model_.config().n_layers;
    for (int64_t i = 0; i < n_layers; ++i) points.watch(layer_point(i, options_.point));
    Tape tape(model_.device(), false);
    const Batch batch = pack(model_, prompts);
    const Var logits = model_.forward(tape, batch, nullptr, &points);
    source_differences_ = logit_differences(last_logits(model_, logits.value()), answers_);
    for (int64_t i = 0; i < n_layers; ++i) {
      sources_.push_back(points.value(layer_point(i, options_.point)));
      ELAPSE_CHECK(sources_.back().dim(0) == batch.seqs.tokens,
                   "point \"{}\" has no value for each token: it cannot be patched by token",
                   options_.point);
    }
  }

  // An edit for each token that is patched, of all runs that are patched there.
  std::vector<Edit> edits(int64_t layer, const std::vector<Patch>& patches) {
    Device& device = model_.device();
    std::map<int64_t, std::vector<int64_t>> runs_at;  // by token, numbers of patches
    for (int64_t i = 0; i < std::ssize(patches); ++i) {
      runs_at[patches[static_cast<size_t>(i)].token].push_back(i);
    }
    const Tensor& source = sources_[static_cast<size_t>(layer)];
    std::vector<Edit> list;
    for (const auto& [token, which] : runs_at) {
      Shape shape = source.shape();
      shape.set(0, std::ssize(which));
      const Tensor rows = device.empty(source.dtype(), shape);
      for (int64_t r = 0; r < std::ssize(which); ++r) {
        const int64_t pair = patches[static_cast<size_t>(which[static_cast<size_t>(r)])].prompt;
        const int64_t from = restarts_.first_row(pair) + token;
        copy(device, {source.rows(from, from + 1), rows.rows(r, r + 1)});
      }
      list.push_back({layer_point(layer, options_.point),
                      EditOp::set,
                      rows,
                      {.sequences = which, .positions = {token}}});
    }
    return list;
  }

  const LanguageModel& model_;
  const PatchingOptions& options_;
  Restarts restarts_;
  std::vector<Answer> answers_;
  std::vector<double> run_differences_, source_differences_;
  std::vector<Tensor> sources_;  // by layer, the point's values in the other run
};

// As many pairs from `begin` on as `state_bytes` allow, at least one.
size_t end_of_group(const LanguageModel& model, const std::vector<PromptPair>& pairs, size_t begin,
                    int64_t state_bytes) {
  int64_t bytes = 0;
  size_t end = begin;
  for (; end < pairs.size(); ++end) {
    bytes += Restarts::bytes(model, std::ssize(pairs[end].clean));
    if (end > begin && bytes > state_bytes) break;
  }
  return end;
}

// What is added up over the pairs, by cell of the map, and by column for runs without a patch.
class Sums {
 public:
  Sums(int64_t layers, int64_t columns)
      : columns_(columns),
        patched_(static_cast<size_t>(layers * columns), 0.0),
        clean_(static_cast<size_t>(columns), 0.0),
        corrupted_(clean_),
        pairs_(clean_) {}

  int64_t column(int64_t length, int64_t token) const { return columns_ - length + token; }
  void add(int64_t layer, int64_t column, double patched) {
    patched_[static_cast<size_t>(layer * columns_ + column)] += patched;
  }
  void add_pair(int64_t length, double clean, double corrupted) {
    for (int64_t token = 0; token < length; ++token) {
      const auto c = static_cast<size_t>(column(length, token));
      clean_[c] += clean;
      corrupted_[c] += corrupted;
      pairs_[c] += 1;
    }
  }

  // Each column beside the pairs that have it.
  void write(PatchingMap& map) const {
    for (size_t i = 0; i < patched_.size(); ++i) {
      const size_t c = i % static_cast<size_t>(columns_);
      map.logit_difference.push_back(patched_[i] / pairs_[c]);
      map.score.push_back(normalised(map.logit_difference.back(), clean_[c] / pairs_[c],
                                     corrupted_[c] / pairs_[c]));
    }
    map.clean = clean_.back() / pairs_.back();
    map.corrupted = corrupted_.back() / pairs_.back();
  }

 private:
  int64_t columns_;
  std::vector<double> patched_, clean_, corrupted_, pairs_;
};

// Every token of every pair at this layer.
void patch_layer(PatchedRuns& runs, int64_t layer, int64_t batch_tokens, Sums& sums) {
  std::vector<PatchedRuns::Patch> waiting;
  int64_t tokens = 0;
  const auto flush = [&] {
    if (waiting.empty()) return;
    const std::vector<double> found = runs.patched(layer, waiting);
    for (size_t i = 0; i < waiting.size(); ++i) {
      sums.add(layer, sums.column(runs.length(waiting[i].prompt), waiting[i].token), found[i]);
    }
    waiting.clear();
    tokens = 0;
  };
  for (int64_t p = 0; p < runs.pairs(); ++p) {
    for (int64_t t = 0; t < runs.length(p); ++t) {
      const int64_t more = runs.length(p) - t;
      if (tokens + more > batch_tokens) flush();
      waiting.push_back({p, t});
      tokens += more;
    }
  }
  flush();
}

}  // namespace

PatchingMap patch_layers_and_tokens(const LanguageModel& model,
                                    const std::vector<PromptPair>& pairs,
                                    const PatchingOptions& options) {
  ELAPSE_CHECK(!pairs.empty(), "expected at least one pair of prompts, found none");
  PatchingMap map;
  map.layers = model.config().n_layers;
  for (const PromptPair& pair : pairs) {
    const int64_t length = std::ssize(pair.clean);
    map.columns = std::max(map.columns, length);
    map.naive_layer_tokens += map.layers * length * map.layers * length;
  }
  const int64_t before = model.path_counts().layer_tokens;
  Sums sums(map.layers, map.columns);
  int64_t done = 0;
  for (size_t begin = 0; begin < pairs.size();) {
    const size_t end = end_of_group(model, pairs, begin, options.state_bytes);
    PatchedRuns runs(model, pairs, begin, end, options);
    for (int64_t layer = 0; layer < map.layers; ++layer) {
      patch_layer(runs, layer, options.batch_tokens, sums);
      done += runs.pairs();
      options.progress(done, map.layers * std::ssize(pairs));
    }
    for (int64_t p = 0; p < runs.pairs(); ++p) {
      const double run = runs.run_differences()[static_cast<size_t>(p)];
      const double source = runs.source_differences()[static_cast<size_t>(p)];
      sums.add_pair(runs.length(p), options.noising ? run : source, options.noising ? source : run);
    }
    begin = end;
  }
  sums.write(map);
  map.layer_tokens = model.path_counts().layer_tokens - before;
  return map;
}

}  // namespace elapse
