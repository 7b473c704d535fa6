// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/restarts.h"

#include <algorithm>
#include <numeric>

namespace elapse {
namespace {

std::string stream_point(int64_t layer) { return fmt::format("layers.{}.resid_pre", layer); }

int64_t slots_of(const TokenLists& prompts) {
  int64_t count = 0;
  for (const auto& prompt : prompts) count += std::ssize(prompt) + 1;
  return count;
}

}  // namespace

Restarts::Restarts(const LanguageModel& model, TokenLists prompts)
    : model_(model), prompts_(std::move(prompts)), state_(model.make_state(slots_of(prompts_))) {
  pack(model, prompts_);  // refuses what are no prompts
  int64_t rows = 0, longest = 0;
  for (const auto& prompt : prompts_) {
    first_rows_.push_back(rows);
    rows += std::ssize(prompt);
    longest = std::max<int64_t>(longest, std::ssize(prompt));
  }
  const int64_t classes = model.config().vocab_size, count = std::ssize(prompts_);
  plain_ = {count, classes, std::vector<double>(static_cast<size_t>(count * classes))};
  for (int64_t i = 0; i < model.config().n_layers; ++i) {
    streams_.push_back(model.device().empty(model.dtype(), {rows, model.config().d_model}));
  }
  for (int64_t place = 0; place < longest; ++place) read_tokens(place);
}

int64_t Restarts::slot(int64_t prompt, int64_t token) const {
  return first_row(prompt) + prompt + token;
}

int64_t Restarts::bytes(const LanguageModel& model, int64_t tokens) {
  const ModelConfig& config = model.config();
  const int64_t stream = config.n_layers * config.d_model * size_of(model.dtype());
  // A memory that grows shares all pages but the last with the one a token before.
  const int64_t page = TokenMemory::kPageTokens * config.state_bytes_per_token();
  const int64_t in_float32 = config.state_bytes() + page;
  return (tokens + 1) * in_float32 * size_of(model.dtype()) / 4 + tokens * stream;
}

// The tokens at this place of all prompts that have one, in one pass.
void Restarts::read_tokens(int64_t place) {
  Device& device = model_.device();
  std::vector<int64_t> tokens, starts, ends, rows, last, ended;
  for (int64_t p = 0; p < std::ssize(prompts_); ++p) {
    if (place >= length(p)) continue;
    tokens.push_back(prompts_[static_cast<size_t>(p)][static_cast<size_t>(place)]);
    starts.push_back(slot(p, place));
    ends.push_back(slot(p, place + 1));
    rows.push_back(first_row(p) + place);
    if (place + 1 < length(p)) continue;
    last.push_back(std::ssize(tokens) - 1);
    ended.push_back(p);
  }
  if (ended.empty()) last = {0};  // some row must be asked for
  Points points;
  for (size_t i = 0; i < streams_.size(); ++i) points.watch(stream_point(static_cast<int64_t>(i)));
  Tape tape(device, false);
  const Batch batch = {device.upload(tokens, {std::ssize(tokens)}),
                       make_sequences(device, std::vector<int64_t>(tokens.size(), 1), starts, ends),
                       device.upload(last, {std::ssize(last)})};
  const Var logits = model_.forward(tape, batch, &state_, &points);
  for (size_t i = 0; i < streams_.size(); ++i) {
    const Tensor& stream = points.value(stream_point(static_cast<int64_t>(i)));
    for (int64_t r = 0; r < std::ssize(rows); ++r) {
      const int64_t to = rows[static_cast<size_t>(r)];
      copy(device, {stream.rows(r, r + 1), streams_[i].rows(to, to + 1)});
    }
  }
  if (ended.empty()) return;
  const LastLogits found = last_logits(model_, logits.value());
  for (size_t i = 0; i < ended.size(); ++i) {
    std::copy_n(found.values.begin() + static_cast<int64_t>(i) * found.classes, found.classes,
                plain_.values.begin() + ended[i] * found.classes);
  }
}

LastLogits Restarts::run(int64_t layer, const std::vector<Run>& runs, Points& points) {
  Device& device = model_.device();
  int64_t tokens = 0;
  std::vector<int64_t> lengths, starts, last;
  for (const Run& run : runs) {
    lengths.push_back(length(run.prompt) - run.token);
    starts.push_back(slot(run.prompt, run.token));
    tokens += lengths.back();
    last.push_back(tokens - 1);
  }
  const Tensor stream = device.empty(model_.dtype(), {tokens, model_.config().d_model});
  int64_t row = 0;
  for (const Run& run : runs) {
    const int64_t begin = first_row(run.prompt) + run.token;
    const int64_t count = length(run.prompt) - run.token;
    copy(device, {streams_[static_cast<size_t>(layer)].rows(begin, begin + count),
                  stream.rows(row, row + count)});
    row += count;
  }
  const std::vector<int64_t> none(runs.size(), Sequences::kNoSlot);
  const Batch batch = {
      {}, make_sequences(device, lengths, starts, none), device.upload(last, {std::ssize(last)})};
  Tape tape(device, false);
  const Var logits = model_.forward_from(tape, layer, Var(stream), batch, &state_, &points);
  return last_logits(model_, logits.value());
}

namespace {

// A variant of a prompt, to be run.
struct Job {
  size_t variant;
  int64_t prompt, layer, token;
};

// Runs from one layer on, as long as they fit.
class Sweep {
 public:
  Sweep(const LanguageModel& model, const std::vector<EditPlan>& plans,
        const VariantOptions& options, std::vector<LastLogits>& into)
      : model_(model), plans_(plans), options_(options), into_(into) {}

  // Prompts [begin, end) of every variant.
  void run(int64_t begin, int64_t end) {
    const TokenLists all = tokens_of(plans_.front().prompts());
    Restarts restarts(model_, TokenLists(all.begin() + begin, all.begin() + end));
    std::vector<Job> jobs;
    for (size_t v = 0; v < plans_.size(); ++v) {
      for (int64_t p = begin; p < end; ++p) {
        keep(v, p, restarts.plain(), p - begin);
        const auto start = plans_[v].start(p);
        if (!start) continue;
        const int64_t layer = std::min(start->layer, model_.config().n_layers - 1);
        jobs.push_back({v, p, layer, start->token});
      }
    }
    std::stable_sort(jobs.begin(), jobs.end(),
                     [](const Job& a, const Job& b) { return a.layer < b.layer; });
    for (size_t first = 0; first < jobs.size();) {
      first = run_some(restarts, begin, jobs, first);
      options_.progress(static_cast<int64_t>(first), std::ssize(jobs));
    }
  }

 private:
  // As many as fit a pass, from jobs[first] on: the number of the next.
  size_t run_some(Restarts& restarts, int64_t first_prompt, const std::vector<Job>& jobs,
                  size_t first) {
    std::vector<Restarts::Run> runs;
    Points points;
    int64_t tokens = 0;
    size_t i = first;
    for (; i < jobs.size() && jobs[i].layer == jobs[first].layer; ++i) {
      const Job& job = jobs[i];
      const int64_t prompt = job.prompt - first_prompt;
      tokens += restarts.length(prompt) - job.token;
      if (i > first && tokens > options_.batch_tokens) break;
      for (Edit& edit : plans_[job.variant].edits({job.prompt}, std::ssize(runs))) {
        ELAPSE_CHECK(!edit.where.sequences.empty(),
                     "point \"{}\" is the same for all prompts: variants that are run together "
                     "cannot differ in it",
                     edit.point);
        if (edit.point == "embed") {
          ELAPSE_CHECK(model_.config().max_positions == 0,
                       "point \"embed\": variants that are run together start from what enters a "
                       "layer, which in this model has its position's embedding added");
          edit.point = stream_point(0);  // which it is
        }
        points.edit(std::move(edit));
      }
      runs.push_back({prompt, job.token});
    }
    const LastLogits found = restarts.run(jobs[first].layer, runs, points);
    for (size_t r = 0; r < runs.size(); ++r) {
      keep(jobs[first + r].variant, jobs[first + r].prompt, found, static_cast<int64_t>(r));
    }
    return i;
  }

  void keep(size_t variant, int64_t prompt, const LastLogits& found, int64_t row) {
    std::copy_n(found.values.begin() + row * found.classes, found.classes,
                into_[variant].values.begin() + prompt * found.classes);
  }

  const LanguageModel& model_;
  const std::vector<EditPlan>& plans_;
  const VariantOptions& options_;
  std::vector<LastLogits>& into_;
};

}  // namespace

std::vector<LastLogits> run_variants(const LanguageModel& model, const std::vector<EditPlan>& plans,
                                     const VariantOptions& options) {
  if (plans.empty()) return {};
  const TokenLists prompts = tokens_of(plans.front().prompts());
  for (const EditPlan& plan : plans) {
    ELAPSE_CHECK(tokens_of(plan.prompts()) == prompts,
                 "expected variants of the same prompts, found others");
  }
  const int64_t classes = model.config().vocab_size, count = std::ssize(prompts);
  std::vector<LastLogits> results(
      plans.size(), {count, classes, std::vector<double>(static_cast<size_t>(count * classes))});
  Sweep sweep(model, plans, options, results);
  for (int64_t begin = 0; begin < count;) {
    int64_t end = begin, bytes = 0;
    for (; end < count; ++end) {
      bytes += Restarts::bytes(model, std::ssize(prompts[static_cast<size_t>(end)]));
      if (end > begin && bytes > options.state_bytes) break;
    }
    sweep.run(begin, end);
    begin = end;
  }
  return results;
}

}  // namespace elapse
