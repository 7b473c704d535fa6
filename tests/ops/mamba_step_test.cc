// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/mamba_step.h"

#include "tests/ops/op_test.h"

namespace elapse {
namespace {

using namespace op_test;

struct Case {
  int64_t tokens, d_model, d_inner, dt_rank, d_state = 16, d_conv = 4;
  std::vector<int64_t> starts = {}, ends = {};
  bool bias = false;
  int64_t row_padding = 0;

  // `tokens` sequences, most of which end in another slot than they start from.
  static Case of_many(int64_t tokens, int64_t d_model, int64_t d_inner, int64_t dt_rank,
                      int64_t d_state, bool bias) {
    Case c = {tokens, d_model, d_inner, dt_rank, d_state, 4, {}, {}, bias, 8};
    for (int64_t s = 0; s < tokens; ++s) {
      c.starts.push_back(s % 5 == 0 ? -1 : s);
      c.ends.push_back(s % 7 == 3 ? -1 : s % 3 == 0 ? s : tokens + s);
    }
    return c;
  }
};

const Case kCases[] = {
    {1, 768, 1536, 48, 16, 4, {0}, {0}},
    {1, 2560, 640, 160, 16, 4, {0}, {0}},
    {1, 1032, 24, 8, 16, 4, {1}, {0}, true},
    {4, 64, 136, 168, 6, 4, {0, 0, -1, 3}, {1, -1, 2, 3}, true, 8},
    {3, 16, 40, 8, 12, 4, {2, 1, 0}, {2, 1, 0}},
    {5, 16, 40, 8, 8, 4, {0, 1, 2, 3, 4}, {0, 1, 2, 3, 4}, true},  // many rows
    {1, 15, 17, 3, 5, 4, {0}, {0}, true},                          // no vectors
    {2, 16, 40, 8, 20, 3, {0, 1}, {0, 1}},                         // many states, few taps
    {0, 16, 40, 8, 16, 4},
    Case::of_many(5, 104, 56, 24, 16, true),
    Case::of_many(33, 768, 152, 48, 16, false),
    Case::of_many(65, 72, 64, 168, 6, true),
    Case::of_many(256, 40, 72, 8, 12, true),
    Case::of_many(257, 24, 40, 8, 16, false),
};

// Matrices whose products are about 1.
MambaStep make_step(Device& device, Operands& o, const Case& c) {
  const auto matrix = [&](int64_t rows, int64_t columns) {
    const double bound = 1 / std::sqrt(static_cast<double>(columns));
    return o.activation({rows, columns}, -bound, bound);
  };
  MambaStep step;
  step.seqs = make_sequences(device, std::vector<int64_t>(static_cast<size_t>(c.tokens), 1),
                             c.starts, c.ends);
  const int64_t slots = step.seqs.max_slot + 1;
  step.u = o.activation({c.tokens, c.d_model}, -1, 1, c.row_padding);
  step.in_proj = matrix(2 * c.d_inner, c.d_model);
  if (c.bias) step.in_proj_bias = o.input({2 * c.d_inner});
  step.conv_weight = o.input({c.d_inner, c.d_conv});
  if (c.bias) step.conv_bias = o.input({c.d_inner});
  step.x_proj = matrix(c.dt_rank + 2 * c.d_state, c.d_inner);
  step.dt_proj = matrix(c.d_inner, c.dt_rank);
  step.dt_bias = o.input({c.d_inner}, -4, 1);
  step.A = o.input({c.d_inner, c.d_state}, -4, -0.1);
  step.D = o.input({c.d_inner});
  if (slots > 0) {
    step.conv_pool = o.accumulated({slots, c.d_conv - 1, c.d_inner});
    step.state_pool = o.accumulated({slots, c.d_inner, c.d_state});
  }
  step.gated = o.assigned_activation({c.tokens, c.d_inner}, c.row_padding);
  return step;
}

void run(Device& device, Operands& o, const Case& c) {
  const MambaStep step = make_step(device, o, c);
  for (int i = 0; i < 3; ++i) mamba_step(device, step);
}

// What passes between its parts is rounded to bf16 some ten times, all of it about 1.
constexpr double kRoundings = 10 * kBf16Epsilon / 2;

TEST(MambaStep, CudaAgreesWithRef) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  for (const Case& c : kCases) {
    SCOPED_TRACE(::testing::Message() << c.tokens << " of " << c.d_model << " to " << c.d_inner);
    const auto call = [&](Device& device, Operands& o) { run(device, o, c); };
    expect_cuda_agrees_in_bf16(call, kRoundings);
  }
}

TEST(MambaStep, CudaAgreesWithItsParts) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  Device cuda("cuda");
  for (const Case& c : kCases) {
    SCOPED_TRACE(::testing::Message() << c.tokens << " of " << c.d_model << " to " << c.d_inner);
    Operands whole(DType::f32, 1, cuda.shared_memory(), DType::bf16, Guarded::kAligned);
    Operands parts(DType::f32, 1, cuda.shared_memory(), DType::bf16, Guarded::kAligned);
    mamba_step(cuda, make_step(cuda, whole, c));
    mamba_step_by_parts(cuda, make_step(cuda, parts, c));
    cuda.synchronize();
    for (size_t i = 0; i < whole.outputs().size(); ++i) {
      expect_close(whole.outputs()[i].tensor(), parts.outputs()[i].tensor(), kRoundings / 2,
                   "output " + std::to_string(i));
    }
  }
}

TEST(MambaStep, TakesSequencesOfOneTokenAlone) {
  Device ref("ref");
  Operands o(DType::f64);
  MambaStep step = make_step(ref, o, {2, 3, 4, 2, 2, 4, {0, 1}, {0, 1}});
  EXPECT_NO_THROW(mamba_step(ref, step));
  step.seqs = make_sequences(ref, {2}, {0}, {0});
  EXPECT_THROW(mamba_step(ref, step), Error);
  step.seqs = make_sequences(ref, {1, 0, 1}, {0, 1, 2}, {0, 1, 2});
  EXPECT_THROW(mamba_step(ref, step), Error);
}

}  // namespace
}  // namespace elapse
