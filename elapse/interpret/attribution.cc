// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/attribution.h"

#include "elapse/ops/linear.h"

namespace elapse {
namespace {

void check(const AttributionTask& task, int64_t classes) {
  ELAPSE_CHECK(!task.sequences.empty(), "expected at least one sequence to attribute, found none");
  ELAPSE_CHECK(
      task.answers.size() == task.sequences.size() && task.others.size() == task.sequences.size(),
      "expected {} other sequences and answers, found {} and {}", task.sequences.size(),
      task.others.size(), task.answers.size());
  for (size_t s = 0; s < task.sequences.size(); ++s) {
    ELAPSE_CHECK(task.sequences[s].size() == task.others[s].size(),
                 "pair {}: expected sequences of equal lengths, found {} and {} tokens", s,
                 task.sequences[s].size(), task.others[s].size());
    for (const int64_t c : {task.answers[s].right, task.answers[s].wrong}) {
      ELAPSE_CHECK(c >= 0 && c < classes, "answer {}: {} is no class of the model, which has {}", s,
                   c, classes);
    }
  }
}

// dm / d logits
Tensor logit_gradient(Device& device, const Tensor& logits, const std::vector<Answer>& answers) {
  const int64_t vocab = logits.dim(1);
  std::vector<double> gradient(static_cast<size_t>(logits.numel()), 0.0);
  const double share = 1 / static_cast<double>(answers.size());
  for (size_t s = 0; s < answers.size(); ++s) {
    gradient[s * static_cast<size_t>(vocab) + static_cast<size_t>(answers[s].right)] += share;
    gradient[s * static_cast<size_t>(vocab) + static_cast<size_t>(answers[s].wrong)] -= share;
  }
  const Tensor values = device.upload(gradient, logits.shape());
  if (logits.dtype() == DType::f64) return values;
  const Tensor out = device.empty(logits.dtype(), logits.shape());
  copy(device, {values, out});
  return out;
}

// Runs forward from the stream entering layer 0 (the tokens' own where it is empty), and back.
void run_back(const LanguageModel& model, const Batch& batch, const Tensor& stream,
              const std::vector<Answer>& answers, Points& points) {
  Tape tape(model.device());
  Var logits = stream ? model.forward_from(tape, 0, Var(stream), batch, nullptr, &points)
                      : model.forward(tape, batch, nullptr, &points);
  logits.set_grad(logit_gradient(model.device(), logits.value(), answers));
  tape.backward();
}

// total += share * part, for contiguous tensors of the same shape.
void add_share(Device& device, const Tensor& part, double share, const Tensor& total) {
  const Tensor scaled = device.empty(part.dtype(), part.shape());
  const Tensor factor = device.empty(part.dtype(), {1, 1});
  fill(device, {factor, share});
  binary(device, {BinaryFunction::mul, part, factor, scaled});
  binary(device, {BinaryFunction::add, total, scaled, total});
}

// a + share * (b - a)
Tensor between(Device& device, const Tensor& a, const Tensor& b, double share) {
  const Tensor out = device.zeros(a.dtype(), a.shape());
  add_share(device, a, 1 - share, out);
  add_share(device, b, share, out);
  return out;
}

}  // namespace

std::vector<double> edge_attribution(const LanguageModel& model, const AttributionTask& task,
                                     int64_t steps) {
  check(task, model.config().vocab_size);
  ELAPSE_CHECK(steps >= 1, "steps of integrated gradients: expected at least 1, found {}", steps);
  Device& device = model.device();
  const ResidualGraph graph(model.config());
  const Batch batch = pack(model, task.sequences);
  const NodeOutputs own = node_outputs(model, batch);
  const NodeOutputs other = node_outputs(model, pack(model, task.others));
  const int64_t senders = graph.unembed(), width = own.front().numel();

  const Tensor gradients = device.zeros(model.dtype(), {senders, width});  // of nodes 1, 2, ...
  for (int64_t k = 1; k <= steps; ++k) {
    Points points;
    for (int64_t to = 1; to < graph.nodes(); ++to) points.watch_gradient(graph.input_point(to));
    const double share = static_cast<double>(k) / static_cast<double>(steps);
    const Tensor stream =
        steps == 1 ? Tensor() : between(device, other.front(), own.front(), share);
    run_back(model, batch, stream, task.answers, points);
    for (int64_t to = 1; to < graph.nodes(); ++to) {
      const Tensor& gradient = points.gradient(graph.input_point(to));
      add_share(device, gradient.reshape({1, width}), 1 / static_cast<double>(steps),
                gradients.rows(to - 1, to));
    }
  }
  const Tensor changes = device.empty(model.dtype(), {senders, width});
  for (int64_t from = 0; from < senders; ++from) {
    const auto i = static_cast<size_t>(from);
    const Tensor into = changes.rows(from, from + 1);
    copy(device, {other[i].reshape({1, width}), into});
    add_share(device, own[i].reshape({1, width}), -1, into);
  }
  const Tensor product = device.empty(model.dtype(), {senders, senders});
  linear_forward(device, {gradients, changes, {}, product});

  const std::vector<double> all = host_values(device, product);
  std::vector<double> scores;
  for (int64_t i = 0; i < graph.edges(); ++i) {
    const Edge edge = graph.edge(i);
    scores.push_back(all[static_cast<size_t>((edge.to - 1) * senders + edge.from)]);
  }
  return scores;
}

std::vector<double> point_attribution(const LanguageModel& model, const AttributionTask& task,
                                      const std::string& point, const Selection& where) {
  check(task, model.config().vocab_size);
  Device& device = model.device();
  Points there;
  there.watch(point, where);
  Tape tape(device, false);
  model.forward(tape, pack(model, task.others), nullptr, &there);
  Points here;
  here.watch(point, where);
  here.watch_gradient(point, where);
  run_back(model, pack(model, task.sequences), {}, task.answers, here);

  const std::vector<double> own = host_values(device, here.value(point));
  const std::vector<double> other = host_values(device, there.value(point));
  const std::vector<double> gradient = host_values(device, here.gradient(point));
  const int64_t rows = here.value(point).dim(0);
  const size_t width = own.size() / static_cast<size_t>(std::max<int64_t>(1, rows));
  std::vector<double> scores(static_cast<size_t>(rows), 0.0);
  for (size_t i = 0; i < own.size(); ++i) scores[i / width] += (other[i] - own[i]) * gradient[i];
  return scores;
}

}  // namespace elapse
