// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/sample.h"

#include <limits>

#include "tests/ops/op_test.h"

namespace elapse {
namespace {

using namespace op_test;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kWithin = 1e-6;  // of all weights; what sample.h says of float32

const Sampling kHow[] = {
    {},
    {.temperature = 0.3},
    {.temperature = 4},
    {.temperature = 1e-300},
    {.temperature = 1e300},
    {.top_k = 1},
    {.top_k = 40},
    {.top_k = 1'000'000},
    {.top_p = 0},
    {.top_p = 0.5},
    {.top_p = 0.999},
    {.min_p = 0.05},
    {.min_p = 1},
    {.temperature = 0.8, .top_k = 50, .top_p = 0.9, .min_p = 0.02},
    {.temperature = 2, .top_k = 7, .top_p = 0.3, .min_p = 0.5},
};

Tensor numbers_of(Device& device, Operands& o, int64_t rows) {
  std::vector<double> numbers;
  for (int64_t r = 0; r < rows; ++r) numbers.push_back(o.random().uniform());
  return device.upload_bytes(numbers.data(), DType::f64, {rows});
}

// Logits about 4 apart in the mean, some of them the same number and some -inf.
Tensor some_logits(Operands& o, int64_t rows, int64_t classes) {
  const Tensor logits = o.input({rows, classes}, -1, 1, 3);
  for_each_offset(logits, [&](int64_t at) {
    const double v = get(logits, at);
    put(logits, at, v < -0.99 ? -kInfinity : std::round(12 * v * v * v * 512) / 512 + 30);
  });
  return logits;
}

TEST(Sample, AgreesWithRef) {
  for (const int64_t classes : {1, 2, 33, 1023, 1025, 50280}) {
    for (const Sampling& how : kHow) {
      SCOPED_TRACE(::testing::Message()
                   << classes << " classes, temperature " << how.temperature << ", top_k "
                   << how.top_k << ", top_p " << how.top_p << ", min_p " << how.min_p);
      const auto call = [&](Device& device, Operands& o) {
        const Tensor logits = some_logits(o, 3, classes);
        put(logits, 0, 30);  // one at least is finite
        put(logits, logits.stride(0), 30);
        put(logits, 2 * logits.stride(0), 30);
        sample(device, {logits, numbers_of(device, o, 3), how, o.output_of(DType::i64, {3})});
      };
      expect_backends_agree(call, 0);
    }
  }
}

// Of equal tokens as many as are asked for, of the lowest numbers.
TEST(Sample, KeepsTheFirstOfEqualTokens) {
  for (const Sampling& how : {Sampling{.top_k = 700}, Sampling{.top_p = 0.25}}) {
    const auto call = [&](Device& device, Operands& o) {
      const Tensor logits = o.input({40, 2800});
      for_each_offset(logits, [&](int64_t at) { put(logits, at, -3.5); });
      const Tensor index = o.output_of(DType::i64, {40});
      sample(device, {logits, numbers_of(device, o, 40), how, index});
      device.synchronize();
      int64_t most = 0;
      for (int64_t r = 0; r < 40; ++r) most = std::max(most, index.data<int64_t>()[r]);
      EXPECT_LT(most, 700);
      EXPECT_GT(most, 500);
    };
    expect_backends_agree(call, 0);
  }
}

TEST(Sample, GivesNoneWhereThereIsNone) {
  const std::vector<std::vector<double>> some = {{1, kNan, 2, 3},
                                                 {1, 2, 3, kInfinity},
                                                 {-kInfinity, -kInfinity, -kInfinity, -kInfinity},
                                                 {-kInfinity, -kInfinity, -1e30, -kInfinity}};
  const auto call = [&](Device& device, Operands& o) {
    const Tensor logits = o.input({4, 4});
    size_t i = 0;
    for_each_offset(logits, [&](int64_t at) { put(logits, at, some[i / 4][i % 4]), ++i; });
    const Tensor index = o.output_of(DType::i64, {4});
    sample(device, {logits, numbers_of(device, o, 4), {.top_k = 3, .top_p = 0.9}, index});
    device.synchronize();
    const std::vector<int64_t> expected = {-1, -1, -1, 2};
    for (size_t r = 0; r < 4; ++r) EXPECT_EQ(index.data<int64_t>()[r], expected[r]) << r;
  };
  expect_backends_agree(call, 0);
}

// What `index` takes of the line of all weights holds the number that was drawn, or all but.
void expect_drawn(const std::vector<double>& logits, double uniform, const Sampling& how,
                  int64_t index) {
  const auto likeliest = std::max_element(logits.begin(), logits.end()) - logits.begin();
  const std::vector<Candidate> kept = candidates(logits, likeliest, how);
  double total = 0, before = 0;
  for (const Candidate& c : kept) total += c.weight;
  for (const Candidate& c : kept) {
    if (c.token == index) {
      EXPECT_GE(uniform, before / total - kWithin) << index;
      EXPECT_LE(uniform, (before + c.weight) / total + kWithin) << index;
      return;
    }
    before += c.weight;
  }
  ADD_FAILURE() << "token " << index << " is no candidate";
}

TEST(Sample, CudaDrawsWhatTheNumberFallsOn) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  constexpr int64_t kRows = 300, kClasses = 50280;
  Device cuda("cuda");
  Operands o(DType::f32, 1, cuda.shared_memory());
  const Tensor logits = o.input({kRows, kClasses}, -8, 8);
  const Tensor uniform = o.output_of(DType::f64, {kRows}), index = o.output_of(DType::i64, {kRows});
  for (int64_t r = 0; r < kRows; ++r) uniform.data<double>()[r] = o.random().uniform();
  uniform.data<double>()[0] = 0;
  uniform.data<double>()[1] = 1 - std::numeric_limits<double>::epsilon() / 2;
  for (const Sampling& how : kHow) {
    SCOPED_TRACE(::testing::Message()
                 << "temperature " << how.temperature << ", top_k " << how.top_k << ", top_p "
                 << how.top_p << ", min_p " << how.min_p);
    sample(cuda, {logits, uniform, how, index});
    cuda.synchronize();
    for (int64_t r = 0; r < kRows; r += r < 2 ? 1 : 37) {
      const float* row = logits.data<float>() + r * logits.stride(0);
      expect_drawn({row, row + kClasses}, uniform.data<double>()[r], how, index.data<int64_t>()[r]);
    }
  }
  o.expect_guards_intact();
}

TEST(Sample, RefusesWhatDoesNotFit) {
  Device ref("ref", 1);
  Operands o(DType::f64);
  const Tensor logits = o.input({2, 3}), index = o.output_of(DType::i64, {2});
  const Tensor uniform = o.input({2}, 0, 1);
  EXPECT_NO_THROW(sample(ref, {logits, uniform, {}, index}));
  EXPECT_THROW(sample(ref, {logits, o.input({3}, 0, 1), {}, index}), Error);
  for (const Sampling& how :
       {Sampling{.temperature = 0}, Sampling{.top_k = -1}, Sampling{.top_p = -0.1},
        Sampling{.top_p = 1.5}, Sampling{.min_p = -0.1}, Sampling{.min_p = 1.5}}) {
    EXPECT_THROW(sample(ref, {logits, uniform, how, index}), Error);
  }
  EXPECT_THROW(sample(ref, {logits, uniform, {}, o.output_of(DType::i64, {3})}), Error);
}

}  // namespace
}  // namespace elapse
