// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/recall.h"

#include <algorithm>
#include <numeric>

namespace elapse {
namespace {

constexpr int64_t kTokensAtOnce = 4096;  // of one forward pass: activations stay in cache
constexpr int64_t kSequencesAtOnce = 16;

struct Example {
  std::vector<int64_t> tokens;
  int64_t answer;
};

std::vector<Example> examples(const TokenSource& task, int64_t length, int64_t count) {
  std::vector<Example> list;
  for (int64_t b = 0; b < task.held_out_batches(length) && std::ssize(list) < count; ++b) {
    const TokenBatch batch = task.held_out_batch(b, length);
    for (size_t s = 0; s < batch.lengths.size() && std::ssize(list) < count; ++s) {
      const auto begin = batch.tokens.begin() + static_cast<int64_t>(s) * length;
      list.push_back({{begin, begin + length}, batch.targets[s]});
    }
  }
  ELAPSE_CHECK(std::ssize(list) == count,
               "induction: {} held-out sequences of length {} asked, "
               "but there are {}",
               count, length, list.size());
  return list;
}

std::vector<int64_t> largest_logits(const LanguageModel& model, const Tensor& logits) {
  std::vector<float> values(static_cast<size_t>(logits.numel()));
  model.device().download_bytes(logits, values.data());
  std::vector<int64_t> classes;
  for (int64_t r = 0; r < logits.dim(0); ++r) {
    const auto row = values.begin() + r * logits.dim(1);
    classes.push_back(std::max_element(row, row + model.config().vocab_size) - row);
  }
  return classes;
}

// Tokens [begin, end) of each example, from and into the states; the logits of `rows`.
Tensor feed(const LanguageModel& model, const std::vector<Example>& group, int64_t begin,
            int64_t end, State& state, const std::vector<int64_t>& rows) {
  Device& device = model.device();
  std::vector<int64_t> tokens, slots(group.size());
  for (const Example& e : group) {
    tokens.insert(tokens.end(), e.tokens.begin() + begin, e.tokens.begin() + end);
  }
  std::iota(slots.begin(), slots.end(), 0);
  const std::vector<int64_t> lengths(group.size(), end - begin);
  const Batch batch = {device.upload(tokens, {std::ssize(tokens)}),
                       make_sequences(device, lengths, slots, slots),
                       device.upload(rows, {std::ssize(rows)})};
  Tape tape(device, false);
  return model.forward(tape, batch, &state).value();
}

int64_t count_in_group(const LanguageModel& model, const std::vector<Example>& group,
                       int64_t length, const std::function<void(int64_t)>& after_tokens) {
  const auto count = std::ssize(group);
  const int64_t chunk = std::clamp<int64_t>(kTokensAtOnce / count, 1, length);
  State state = model.make_state(count);
  for (int64_t begin = 0;; begin += chunk) {
    const int64_t end = std::min(begin + chunk, length);
    std::vector<int64_t> last_rows;
    for (int64_t s = 0; end == length && s < count; ++s) {
      last_rows.push_back((s + 1) * (end - begin) - 1);
    }
    const Tensor logits = feed(model, group, begin, end, state, last_rows);
    after_tokens(count * (end - begin));
    if (end < length) continue;
    const std::vector<int64_t> found = largest_logits(model, logits);
    int64_t right = 0;
    for (size_t s = 0; s < group.size(); ++s) right += found[s] == group[s].answer ? 1 : 0;
    return right;
  }
}

}  // namespace

int64_t count_recalled(const LanguageModel& model, const TokenSource& task, int64_t length,
                       int64_t sequences, const std::function<void(double)>& progress) {
  ELAPSE_CHECK(model.dtype() == DType::f32, "induction: expected a model in f32, found {}",
               name_of(model.dtype()));
  const std::vector<Example> all = examples(task, length, sequences);
  const auto total = static_cast<double>(length) * static_cast<double>(sequences);
  int64_t right = 0, tokens = 0;
  for (size_t begin = 0; begin < all.size(); begin += kSequencesAtOnce) {
    const size_t end = std::min(begin + kSequencesAtOnce, all.size());
    const std::vector<Example> group(all.begin() + static_cast<int64_t>(begin),
                                     all.begin() + static_cast<int64_t>(end));
    right += count_in_group(model, group, length, [&](int64_t fed) {
      tokens += fed;
      progress(static_cast<double>(tokens) / total);
    });
  }
  return right;
}

}  // namespace elapse
