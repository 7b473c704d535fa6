// SPDX-License-Identifier: Apache-2.0
#include "elapse/generate/session.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "elapse/model/state_file.h"
#include "elapse/ops/rows.h"
#include "elapse/ops/sample.h"

namespace elapse {
namespace {

// A recording takes some time and memory, which a session of few steps does not give back.
constexpr int64_t kRecordedStep = 3;

Sequences one_sequence(Device& device, int64_t length) {
  return make_sequences(device, {length}, {0}, {0});
}

Tensor token_tensor(Device& device, std::span<const int64_t> tokens) {
  return device.upload_bytes(tokens.data(), DType::i64, {static_cast<int64_t>(tokens.size())});
}

}  // namespace

Session::Session(const LanguageModel& model, Points* points)
    : Session(model, points, model.make_state(1), {}) {}

Session::Session(const LanguageModel& model, Points* points, State state,
                 std::vector<double> logits)
    : model_(&model),
      points_(points),
      state_(std::move(state)),
      logits_(std::move(logits)),
      one_token_(one_sequence(model.device(), 1)) {}

void Session::prefill(std::span<const int64_t> tokens) {
  check_tokens(tokens);
  Device& device = model_->device();
  while (!tokens.empty()) {
    const auto length = std::min<int64_t>(static_cast<int64_t>(tokens.size()), kPrefillChunk);
    const auto chunk = tokens.first(static_cast<size_t>(length));
    tokens = tokens.subspan(chunk.size());
    if (length == 1) {
      read_one(chunk[0]);
    } else {
      const int64_t last = length - 1;
      forward({token_tensor(device, chunk), one_sequence(device, length),
               token_tensor(device, {&last, 1})});
    }
  }
}

void Session::check_tokens(std::span<const int64_t> tokens) const {
  const int64_t classes = model_->config().vocab_size;
  for (size_t i = 0; i < tokens.size(); ++i) {
    ELAPSE_CHECK(tokens[i] >= 0 && tokens[i] < classes,
                 "token {} of the input: expected 0 to {}, found {}", i, classes - 1, tokens[i]);
  }
}

void Session::forward(const Batch& batch) {
  Tape tape(model_->device(), false);
  keep_logits(model_->forward(tape, batch, &state_, points_).value());
}

void Session::read_one(int64_t token) {
  const bool looks = points_ != nullptr && !points_->empty();
  const bool records =
      !looks && (recorded_ || (RecordedStep::serves(*model_) && ++steps_ >= kRecordedStep));
  if (!records) return forward({token_tensor(model_->device(), {&token, 1}), one_token_, {}});
  if (!recorded_) recorded_.emplace(*model_, std::vector<int64_t>{0});
  recorded_->step(state_, {&token, 1});
  keep_logits(recorded_->logits());
}

void Session::keep_logits(const Tensor& row) {
  row_ = row.columns(0, model_->config().vocab_size);
  if (model_->device().host_memory()) host_logits();
}

const std::vector<double>& Session::host_logits() const {
  if (!row_) return logits_;
  Device& device = model_->device();
  const Tensor row = std::exchange(row_, Tensor());
  logits_.resize(static_cast<size_t>(row.numel()));
  if (row.dtype() == DType::f64) {
    device.download_bytes(row, logits_.data());
  } else if (device.host_memory()) {
    std::copy_n(row.data<float>(), logits_.size(), logits_.begin());
  } else {
    const auto values = std::make_unique_for_overwrite<float[]>(logits_.size());
    device.download_bytes(row, values.get());
    std::copy_n(values.get(), logits_.size(), logits_.begin());
  }
  return logits_;
}

std::span<const double> Session::logits() const {
  ELAPSE_CHECK(has_logits(), "there are no logits: no token was read since the session began");
  return host_logits();
}

int64_t Session::sample(const Sampler& sampler) const {
  const Op op = sampler.is_greedy() ? Op::likeliest : Op::sample;
  if (row_ && model_->device().has(row_.dtype(), op)) {
    const int64_t token = sample_on_device(sampler);
    if (token >= 0) return token;
  }
  return sampler.sample(logits(), position());
}

int64_t Session::sample_on_device(const Sampler& sampler) const {
  Device& device = model_->device();
  const Tensor index = device.empty(DType::i64, {1});
  if (sampler.is_greedy()) {
    likeliest(device, {row_, index});
  } else {
    const double uniform = sampler.uniform(position());
    const Tensor number = device.upload_bytes(&uniform, DType::f64, {1});
    elapse::sample(device, {row_, number, sampler.sampling(), index});
  }
  int64_t token = 0;
  device.download_bytes(index, &token);
  return token;
}

bool Session::same_bits(const Session& other) const {
  const std::vector<double>&own = host_logits(), &others = other.host_logits();
  return state_.same_bits(other.state_) && own.size() == others.size() &&
         std::memcmp(own.data(), others.data(), own.size() * sizeof(double)) == 0;
}

Session Session::fork() const { return {*model_, points_, state_.fork(), host_logits()}; }

void Session::save(const std::string& path) const {
  std::vector<double> values = host_logits();
  const Shape shape = {1, static_cast<int64_t>(values.size())};
  save_state(path, *model_, state_,
             values.empty() ? Tensor() : Tensor::wrap(values.data(), DType::f64, shape));
}

Session Session::load(const std::string& path, const LanguageModel& model, Points* points) {
  SavedState saved = load_state_and_logits(path, model);
  ELAPSE_CHECK(saved.state.slots() == 1, "{}: expected the state of one sequence, found {}", path,
               saved.state.slots());
  if (!saved.logits) return {model, points, std::move(saved.state), {}};
  const Shape shape = {1, model.config().vocab_size};
  ELAPSE_CHECK(saved.logits.dtype() == DType::f64 && saved.logits.shape() == shape,
               "{}: tensor \"logits\": expected f64 {}, found {} {}", path, shape.str(),
               name_of(saved.logits.dtype()), saved.logits.shape().str());
  const auto* values = saved.logits.data<double>();
  return {model, points, std::move(saved.state), {values, values + shape.numel()}};
}

}  // namespace elapse
