// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/rotary.h"

#include <complex>

#include "tests/ops/op_test.h"

namespace elapse {
namespace {

using namespace op_test;

struct Case {
  std::vector<int64_t> lengths, first_positions;
  int64_t n_heads, half;
  double growth = 0;
  int64_t row_padding = 0;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> list = {
      {{}, {}, 1, 1},
      {{1}, {}, 1, 1},
      {{0, 3, 1}, {7, 0, 100000}, 3, 5, 0, 3},
      {{33}, {}, 2, 16},
      {{40, 31}, {1000, 0}, 2, 17, -0.0005},
      {{129}, {5}, 12, 32, -0.001, 7},
  };
  return list;
}

Rotary make_call(Device& device, Operands& o, const Case& c) {
  Rotary args;
  args.seqs = make_sequences(device, c.lengths);
  args.head_dim = 2 * c.half;
  for (int64_t i = 0; i < c.half; ++i) {
    args.frequencies.push_back(std::pow(10000.0, -static_cast<double>(i) / double(c.half)));
    if (c.growth != 0) args.growth.push_back(c.growth * static_cast<double>(i));
  }
  args.first_positions = c.first_positions;
  const Shape shape = {args.seqs.tokens, c.n_heads * args.head_dim};
  args.x = o.activation(shape, -1, 1, c.row_padding);
  args.out = o.assigned_activation(shape, c.row_padding);
  return args;
}

TEST(Rotary, AgreesWithRef) {
  for (size_t i = 0; i < cases().size(); ++i) {
    SCOPED_TRACE(::testing::Message() << "case " << i);
    // Cosine and sine are rounded once.
    const auto call = [&](Device& device, Operands& o) {
      rotary(device, make_call(device, o, cases()[i]));
    };
    expect_backends_agree(call, 4 * kEpsilon);
    expect_cuda_agrees_in_bf16(call, 4 * kEpsilon);
  }
}

// A pair of channels as a complex number, by its definition.
TEST(Rotary, TurnsPairsByPositionTimesFrequency) {
  Device ref("ref");
  Operands o(DType::f64);
  const Rotary args = make_call(ref, o, {{2, 3}, {0, 9}, 2, 3, 0.1});
  rotary(ref, args);
  const int64_t positions[] = {0, 1, 9, 10, 11};
  for (int64_t t = 0; t < 5; ++t) {
    for (int64_t h = 0; h < 2; ++h) {
      for (int64_t i = 0; i < 3; ++i) {
        const auto pair = [&](const Tensor& m) {
          const double* row = m.data<double>() + t * 12 + h * 6;
          return std::complex<double>(row[i], row[i + 3]);
        };
        const auto turn = std::exp(static_cast<double>(positions[t]) *
                                   std::complex<double>(args.growth[static_cast<size_t>(i)],
                                                        args.frequencies[static_cast<size_t>(i)]));
        EXPECT_LE(std::abs(pair(args.out) - pair(args.x) * turn), 1e-14);
      }
    }
  }
}

TEST(Rotary, BackwardTurnsBack) {
  Device ref("ref");
  Operands o(DType::f64);
  const Rotary forward = make_call(ref, o, {{3, 2}, {0, 50}, 2, 2, 0.03});
  Rotary backward = forward;
  for (double& frequency : backward.frequencies) frequency = -frequency;
  backward.x = o.input(forward.x.shape());
  backward.out = o.assigned(forward.x.shape());
  rotary(ref, backward);
  const auto loss = [&] {
    rotary(ref, forward);
    return weighted_sum(forward.out, backward.x);
  };
  expect_gradient(forward.x, backward.out, loss, "x");
}

// Products of queries and keys depend on distances alone, and with opposite growths fade by them.
TEST(Rotary, ScoresDependOnDistances) {
  Device ref("ref");
  Operands o(DType::f64);
  Rotary q = make_call(ref, o, {{1}, {0}, 1, 4, -0.01}),
         k = make_call(ref, o, {{1}, {0}, 1, 4, 0.01});
  const auto score = [&](int64_t query_at, int64_t key_at) {
    q.first_positions = {query_at};
    k.first_positions = {key_at};
    rotary(ref, q);
    rotary(ref, k);
    return weighted_sum(q.out, k.out);
  };
  for (const int64_t distance : {0, 1, 17}) {
    const double expected = score(distance, 0);
    for (const int64_t at : {3, 100, 1500}) EXPECT_NEAR(score(at + distance, at), expected, 1e-10);
  }
}

TEST(Rotary, RefusesWhatDoesNotFit) {
  Device ref("ref");
  Operands o(DType::f64);
  const Rotary args = make_call(ref, o, {{4}, {0}, 2, 3, 0.01});
  const auto refuses = [&](auto change) {
    Rotary wrong = args;
    change(wrong);
    EXPECT_THROW(rotary(ref, wrong), Error);
  };
  refuses([](Rotary& r) { r.head_dim = 5; });
  refuses([](Rotary& r) { r.growth.pop_back(); });
  refuses([](Rotary& r) { r.first_positions.clear(), r.first_positions.resize(2); });
  refuses([](Rotary& r) { r.first_positions = {1'000'000}; });  // beyond what float32 can scale
}

}  // namespace
}  // namespace elapse
