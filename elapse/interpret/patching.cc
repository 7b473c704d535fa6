// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/patching.h"

#include <algorithm>
#include <map>

namespace elapse {
namespace {

std::string layer_point(int64_t layer, const std::string& name) {
  return fmt::format("layers.{}.{}", layer, name);
}

// Some pairs: the run that is patched, read token by token, and the values of the other.
class PatchedRuns {
 public:
  PatchedRuns(const LanguageModel& model, const std::vector<PromptPair>& pairs, size_t begin,
              size_t end, const PatchingOptions& options)
      : model_(model), options_(options), state_(model.make_state(slots(pairs, begin, end))) {
    TokenLists sources;
    for (size_t p = begin; p < end; ++p) {
      const PromptPair& pair = pairs[p];
      runs_.push_back(options.noising ? pair.clean : pair.corrupt);
      sources.push_back(options.noising ? pair.corrupt : pair.clean);
      answers_.push_back(pair.answer);
      first_row_.push_back(rows_);
      rows_ += std::ssize(pair.clean);
    }
    read_runs();
    read_sources(sources);
  }

  struct Patch {
    size_t pair;
    int64_t token;
  };

  // Logit differences with the point of this layer patched, each of the patches on its own.
  std::vector<double> patched(int64_t layer, const std::vector<Patch>& patches) {
    Device& device = model_.device();
    int64_t tokens = 0;
    std::vector<int64_t> lengths, starts, last;
    std::vector<Answer> answers;
    for (const Patch& patch : patches) {
      lengths.push_back(length(patch.pair) - patch.token);
      starts.push_back(slot(patch.pair, patch.token));
      tokens += lengths.back();
      last.push_back(tokens - 1);
      answers.push_back(answers_[patch.pair]);
    }
    const Tensor stream = device.empty(model_.dtype(), {tokens, model_.config().d_model});
    int64_t row = 0;
    for (const Patch& patch : patches) {
      const int64_t begin = first_row_[patch.pair] + patch.token;
      const int64_t end = first_row_[patch.pair] + length(patch.pair);
      copy(device, {streams_[static_cast<size_t>(layer)].rows(begin, end),
                    stream.rows(row, row + end - begin)});
      row += end - begin;
    }
    Points points;
    for (Edit& edit : edits(layer, patches)) points.edit(std::move(edit));
    const std::vector<int64_t> none(patches.size(), Sequences::kNoSlot);
    const Batch batch = {
        {}, make_sequences(device, lengths, starts, none), device.upload(last, {std::ssize(last)})};
    Tape tape(device, false);
    const Var logits = model_.forward_from(tape, layer, Var(stream), batch, &state_, &points);
    return logit_differences(last_logits(model_, logits.value()), answers);
  }

  int64_t length(size_t pair) const { return std::ssize(runs_[pair]); }
  size_t pairs() const { return runs_.size(); }
  // Sums over the pairs of logit differences without a patch.
  double run_difference() const { return run_difference_; }
  double source_difference() const { return source_difference_; }

 private:
  // One for each token of each pair, before it, and one after the last.
  static int64_t slots(const std::vector<PromptPair>& pairs, size_t begin, size_t end) {
    int64_t count = 0;
    for (size_t p = begin; p < end; ++p) count += std::ssize(pairs[p].clean) + 1;
    return count;
  }
  int64_t slot(size_t pair, int64_t token) const {
    return first_row_[pair] + static_cast<int64_t>(pair) + token;
  }

  void read_runs() {
    Device& device = model_.device();
    const int64_t n_layers = model_.config().n_layers;
    for (int64_t i = 0; i < n_layers; ++i) {
      streams_.push_back(device.empty(model_.dtype(), {rows_, model_.config().d_model}));
    }
    for (int64_t t = 0;; ++t) {
      std::vector<int64_t> tokens, starts, ends, rows, last;
      std::vector<Answer> ended;
      for (size_t p = 0; p < runs_.size(); ++p) {
        if (t >= length(p)) continue;
        tokens.push_back(runs_[p][static_cast<size_t>(t)]);
        starts.push_back(slot(p, t));
        ends.push_back(slot(p, t + 1));
        rows.push_back(first_row_[p] + t);
        if (t + 1 < length(p)) continue;
        last.push_back(std::ssize(tokens) - 1);
        ended.push_back(answers_[p]);
      }
      if (tokens.empty()) return;
      Points points;
      for (int64_t i = 0; i < n_layers; ++i) points.watch(layer_point(i, "resid_pre"));
      const std::vector<int64_t> ones(tokens.size(), 1);
      if (ended.empty()) last = {0};  // some row must be asked for
      Tape tape(device, false);
      const Var logits = model_.forward(
          tape,
          {device.upload(tokens, {std::ssize(tokens)}), make_sequences(device, ones, starts, ends),
           device.upload(last, {std::ssize(last)})},
          &state_, &points);
      if (!ended.empty()) add_differences(logits, ended, run_difference_);
      for (int64_t i = 0; i < n_layers; ++i) {
        const Tensor& stream = points.value(layer_point(i, "resid_pre"));
        for (int64_t r = 0; r < std::ssize(rows); ++r) {
          const int64_t to = rows[static_cast<size_t>(r)];
          copy(device, {stream.rows(r, r + 1), streams_[static_cast<size_t>(i)].rows(to, to + 1)});
        }
      }
    }
  }

  void read_sources(const TokenLists& sources) {
    Points points;
    const int64_t n_layers = model_.config().n_layers;
    for (int64_t i = 0; i < n_layers; ++i) points.watch(layer_point(i, options_.point));
    Tape tape(model_.device(), false);
    const Var logits = model_.forward(tape, pack(model_, sources), nullptr, &points);
    add_differences(logits, answers_, source_difference_);
    for (int64_t i = 0; i < n_layers; ++i) {
      sources_.push_back(points.value(layer_point(i, options_.point)));
      ELAPSE_CHECK(sources_.back().dim(0) == rows_,
                   "point \"{}\" has no value for each token: it cannot be patched by token",
                   options_.point);
    }
  }

  void add_differences(const Var& logits, const std::vector<Answer>& answers, double& sum) const {
    for (const double f : logit_differences(last_logits(model_, logits.value()), answers)) sum += f;
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
        const size_t pair = patches[static_cast<size_t>(which[static_cast<size_t>(r)])].pair;
        const int64_t from = first_row_[pair] + token;
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
  State state_;
  TokenLists runs_;
  std::vector<Answer> answers_;
  std::vector<int64_t> first_row_;  // of each pair
  int64_t rows_ = 0;
  double run_difference_ = 0, source_difference_ = 0;
  std::vector<Tensor> streams_;  // by layer, what enters it: (rows, d_model)
  std::vector<Tensor> sources_;  // by layer, the point's values in the other run
};

// As many pairs from `begin` on as `state_bytes` allow, at least one.
size_t end_of_group(const LanguageModel& model, const std::vector<PromptPair>& pairs, size_t begin,
                    int64_t state_bytes) {
  const int64_t each = model.config().state_bytes();
  int64_t bytes = 0;
  size_t end = begin;
  for (; end < pairs.size(); ++end) {
    bytes += each * (std::ssize(pairs[end].clean) + 1);
    if (end > begin && bytes > state_bytes) break;
  }
  return end;
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

  const auto cells = static_cast<size_t>(map.layers * map.columns);
  map.logit_difference.assign(cells, 0.0);
  std::vector<double> counted(cells, 0.0);
  int64_t done = 0;
  const int64_t total = map.layers * std::ssize(pairs);
  for (size_t begin = 0; begin < pairs.size();) {
    const size_t end = end_of_group(model, pairs, begin, options.state_bytes);
    PatchedRuns runs(model, pairs, begin, end, options);
    for (int64_t layer = 0; layer < map.layers; ++layer) {
      std::vector<PatchedRuns::Patch> waiting;
      int64_t tokens = 0;
      const auto flush = [&] {
        if (waiting.empty()) return;
        const std::vector<double> found = runs.patched(layer, waiting);
        for (size_t i = 0; i < waiting.size(); ++i) {
          const int64_t column = map.columns - runs.length(waiting[i].pair) + waiting[i].token;
          const auto cell = static_cast<size_t>(layer * map.columns + column);
          map.logit_difference[cell] += found[i];
          counted[cell] += 1;
        }
        waiting.clear();
        tokens = 0;
      };
      for (size_t p = 0; p < runs.pairs(); ++p) {
        for (int64_t t = 0; t < runs.length(p); ++t) {
          const int64_t more = runs.length(p) - t;
          if (tokens + more > options.batch_tokens) flush();
          waiting.push_back({p, t});
          tokens += more;
        }
      }
      flush();
      done += static_cast<int64_t>(runs.pairs());
      options.progress(done, total);
    }
    const double run = runs.run_difference(), source = runs.source_difference();
    map.clean += (options.noising ? run : source) / static_cast<double>(pairs.size());
    map.corrupted += (options.noising ? source : run) / static_cast<double>(pairs.size());
    begin = end;
  }
  for (size_t i = 0; i < cells; ++i) {
    map.logit_difference[i] /= counted[i];
    map.score.push_back(normalised(map.logit_difference[i], map.clean, map.corrupted));
  }
  map.layer_tokens = model.path_counts().layer_tokens - before;
  return map;
}

}  // namespace elapse
