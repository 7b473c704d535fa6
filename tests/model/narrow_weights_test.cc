// SPDX-License-Identifier: Apache-2.0
// Models whose matrices stay in bf16 or f16, against the same numbers computed in double.
#include <gtest/gtest.h>

#include <cmath>

#include "elapse/model/checkpoint.h"
#include "elapse/model/convert.h"
#include "tests/can_open.h"
#include "tests/io/expect_error.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

constexpr const char* kFixture = "tests/fixtures/transformers";

std::vector<double> logits_of(const LanguageModel& model, const std::vector<int64_t>& tokens) {
  Device& device = model.device();
  Tape tape(device, false);
  const auto count = static_cast<int64_t>(tokens.size());
  const Tensor logits =
      model.forward(tape, {device.upload(tokens, {count}), make_sequences(device, {count}), {}})
          .value();
  std::vector<double> values(static_cast<size_t>(logits.numel()));
  if (logits.dtype() == DType::f64) {
    device.download_bytes(logits, values.data());
    return values;
  }
  std::vector<float> narrow(values.size());
  device.download_bytes(logits, narrow.data());
  return {narrow.begin(), narrow.end()};
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0, scale = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(a[i] - b[i]));
    scale = std::max(scale, std::abs(b[i]));
  }
  return largest / scale;
}

// Activations of bf16, in a prompt as a whole and token by token, beside those of float32.
TEST(Bf16, CudaAgreesWithFloat32) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  Device device("cuda");
  const std::vector<int64_t> tokens = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5};
  const auto wide = load_model(device, kFixture, DType::f32, WeightMemory::mapped);
  for (const WeightMemory memory : {WeightMemory::mapped, WeightMemory::trained}) {
    const auto narrow = load_model(device, kFixture, DType::bf16, memory);
    const std::vector<double> expected = logits_of(*wide, tokens);
    // A rounding is 2^-8 at most of a value, and the two layers have some ten each on their way.
    EXPECT_LT(largest_difference(logits_of(*narrow, tokens), expected), 0.02);
    State state = narrow->make_state(1);
    std::vector<double> stepped;
    for (const int64_t token : tokens) {
      Tape tape(device, false);
      const Batch batch = {device.upload(std::vector<int64_t>{token}, {1}),
                           make_sequences(device, {1}, {0}, {0}),
                           {}};
      const Tensor logits = narrow->forward(tape, batch, &state).value();
      ASSERT_EQ(logits.dtype(), DType::f32);
      std::vector<float> row(static_cast<size_t>(logits.numel()));
      device.download_bytes(logits, row.data());
      stepped.insert(stepped.end(), row.begin(), row.end());
    }
    EXPECT_LT(largest_difference(stepped, expected), 0.02);
  }
}

TEST(Bf16, DevicesThatDoNotComputeInItSaySo) {
  Device ref("ref");
  expect_error([&] { load_model(ref, kFixture, DType::bf16); }, "does not compute in bf16");
}

class MappedWeights : public testing::Test {};

class NarrowWeights : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    convert_checkpoint(kFixture, folder_.path(), {.layout = {}, .dtype = GetParam()});
  }
  std::unique_ptr<LanguageModel> load(Device& device, DType dtype, WeightMemory memory) {
    return load_model(device, folder_.path(), dtype, memory);
  }
  TemporaryFolder folder_;
};

// With bf16, activations too may have been rounded, to 1/256 at most: errors of many factors
// average out. Else the error is that of float32.
TEST_P(NarrowWeights, LogitsAreThoseOfDouble) {
  Device ref("ref"), cpu("cpu", 2);
  const double on_cpu = GetParam() == DType::bf16 ? 1.0 / 64 : 1e-5;
  for (const int64_t count : {5, 40}) {
    std::vector<int64_t> tokens;
    for (int64_t i = 0; i < count; ++i) tokens.push_back(i * 7 % 11);
    const auto exact = logits_of(*load(ref, DType::f64, WeightMemory::owned), tokens);
    for (const WeightMemory memory : {WeightMemory::owned, WeightMemory::mapped}) {
      EXPECT_LT(largest_difference(logits_of(*load(cpu, DType::f32, memory), tokens), exact),
                on_cpu);
      EXPECT_LT(largest_difference(logits_of(*load(ref, DType::f32, memory), tokens), exact), 1e-5);
    }
  }
}

// Rounding does not depend on how many tokens are read together.
TEST_P(NarrowWeights, TokensReadTogetherAndOneByOneAgree) {
  Device cpu("cpu", 2);
  const auto model = load(cpu, DType::f32, WeightMemory::mapped);
  std::vector<int64_t> tokens;
  for (int64_t i = 0; i < 20; ++i) tokens.push_back(i * 5 % 11);
  const auto together = logits_of(*model, tokens);
  State state = model->make_state(1);
  std::vector<double> apart;
  for (const int64_t token : tokens) {
    Tape tape(cpu, false);
    const Tensor row = model
                           ->forward(tape,
                                     {cpu.upload(std::vector<int64_t>{token}, {1}),
                                      make_sequences(cpu, {1}, {0}, {0}),
                                      {}},
                                     &state)
                           .value();
    apart.insert(apart.end(), row.data<float>(), row.data<float>() + row.numel());
  }
  // An activation whose last bit differs may round to the other neighbour in bf16, rarely.
  EXPECT_LT(largest_difference(apart, together), GetParam() == DType::bf16 ? 2e-3 : 1e-5);
}

TEST_F(MappedWeights, AreNotTrained) {
  Device cpu("cpu", 1);
  for (const WeightMemory memory : {WeightMemory::owned, WeightMemory::mapped}) {
    const auto model = load_model(cpu, kFixture, DType::f32, memory);
    for (const Parameter& p : model->parameters().all()) {
      EXPECT_EQ(p.var.needs_grad(), memory == WeightMemory::owned) << p.name;
    }
  }
}

TEST_P(NarrowWeights, AreAllWidenedWhereTheyAreTrained) {
  Device cpu("cpu", 1);
  const auto model = load(cpu, DType::f32, WeightMemory::trained);
  for (const Parameter& p : model->parameters().all()) {
    EXPECT_EQ(p.var.dtype(), DType::f32) << p.name;
    EXPECT_TRUE(p.var.needs_grad()) << p.name;
  }
}

TEST_P(NarrowWeights, MatricesStayNarrowAndTheRestIsWidened) {
  Device cpu("cpu", 1);
  const auto model = load(cpu, DType::f32, WeightMemory::mapped);
  for (const Parameter& p : model->parameters().all()) {
    const bool matrix = p.decay && p.name.find("conv1d") == std::string::npos;
    EXPECT_EQ(p.var.dtype(), matrix ? GetParam() : DType::f32) << p.name;
    EXPECT_FALSE(p.var.needs_grad()) << p.name;
  }
}

// What people dissect are activations: their gradients pass through narrow weights.
TEST_P(NarrowWeights, ActivationsHaveGradients) {
  Device cpu("cpu", 1);
  const auto model = load(cpu, DType::f32, WeightMemory::mapped);
  State state = model->make_state(1, /*needs_grad=*/true);
  Tape tape(cpu);
  const Var logits = model->forward(
      tape, {cpu.upload(std::vector<int64_t>{2, 7}, {2}), make_sequences(cpu, {2}, {0}, {-1}), {}},
      &state);
  Var end = logits;
  end.set_grad(cpu.zeros(DType::f32, logits.value().shape()));
  end.grad().data<float>()[0] = 1;
  tape.backward();
  double size = 0;
  const Tensor gradient = state.layers()[0].part("h").grad();
  ASSERT_TRUE(gradient);
  for (int64_t i = 0; i < gradient.numel(); ++i) {
    size += std::abs(static_cast<double>(gradient.data<float>()[i]));
  }
  EXPECT_GT(size, 0);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, NarrowWeights, testing::Values(DType::bf16, DType::f16),
                         [](const auto& dtype) { return std::string(name_of(dtype.param)); });

}  // namespace
}  // namespace elapse
