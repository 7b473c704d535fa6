// SPDX-License-Identifier: Apache-2.0
#include "elapse/train/non_finite.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "elapse/model/checkpoint.h"
#include "elapse/train/predict.h"

namespace elapse {
namespace {

using Names = std::vector<std::string>;

template <class T>
bool is_finite(const Tensor& host) {
  const T* values = host.data<T>();
  return std::all_of(values, values + host.numel(), [](T v) { return std::isfinite(v); });
}

bool is_finite(Device& device, const Tensor& t) {
  const Tensor contiguous = device.empty(t.dtype(), t.shape());
  copy(device, {t, contiguous});
  const Tensor host = to_host(device, contiguous);
  return host.dtype() == DType::f32 ? is_finite<float>(host) : is_finite<double>(host);
}

bool is_inside_mixer(const std::string& point) {
  return point.find(".mixer.") != std::string::npos;
}

// The first of `names`, in their order, that is not finite when the model runs over `batch`.
std::optional<size_t> first_in_one_pass(const LanguageModel& model, const TokenBatch& batch,
                                        std::span<const std::string> names) {
  Points points;
  for (const std::string& name : names) points.watch(name);
  Tape tape(model.device(), false);
  predict(tape, model, batch, &points);
  for (size_t i = 0; i < names.size(); ++i) {
    if (!is_finite(model.device(), points.value(names[i]))) return i;
  }
  return {};
}

// Points inside mixers can be as large as d_state activations: those of one layer at most are
// looked at, after the points between the layers have told which, and one in each pass.
std::optional<std::string> first_point(const LanguageModel& model, const TokenBatch& batch) {
  Names all, between;
  for (const auto& p : model.points()) {
    all.push_back(p.name);
    if (!is_inside_mixer(p.name)) between.push_back(p.name);
  }
  const auto found = first_in_one_pass(model, batch, between);
  if (!found) return {};
  auto at = std::find(all.begin(), all.end(), between[*found]);
  const auto end = at;
  while (at != all.begin() && is_inside_mixer(*(at - 1))) --at;
  for (; at != end; ++at) {
    if (first_in_one_pass(model, batch, {&*at, 1})) return *at;
  }
  return *end;
}

}  // namespace

std::string first_non_finite(const LanguageModel& model, const TokenBatch& batch) {
  const std::vector<Parameter>& parameters = model.parameters().all();
  for (const Parameter& p : parameters) {
    if (!is_finite(model.device(), p.var.value())) return fmt::format("weight \"{}\"", p.name);
  }
  if (const auto point = first_point(model, batch)) {
    return fmt::format("point \"{}\"", *point);
  }
  Tape tape(model.device(), false);
  const Tensor loss = predict_loss(tape, model, batch).value();
  if (!is_finite(model.device(), loss)) return "the loss itself";
  for (auto p = parameters.rbegin(); p != parameters.rend(); ++p) {
    if (p->var.grad() && !is_finite(model.device(), p->var.grad())) {
      return fmt::format("gradient of \"{}\"", p->name);
    }
  }
  return "none that can be found again";
}

}  // namespace elapse
