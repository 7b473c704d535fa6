// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/attention.h"

#include <functional>

#include "tests/ops/op_test.h"

namespace elapse {
namespace {

using namespace op_test;

struct Case {
  std::vector<int64_t> lengths;
  int64_t n_heads = 1, n_kv_heads = 1, head_dim = 8;
  AttentionPattern pattern = {};
  std::vector<std::vector<int64_t>> runs = {};  // of the past, by sequence
  int64_t row_padding = 0;
  bool some_unwanted = false;  // every other run's gradient
};

const std::vector<Case>& cases() {
  static const std::vector<Case> list = {
      {{}},
      {{0, 0}, 2, 1, 3, {}, {{4}, {}}},
      {{1}},
      {{1}, 3, 1, 1, {}, {{1}}},
      {{31}, 2, 2, 1},
      {{33, 0, 1, 7}, 4, 2, 8, {}, {}, 5},
      {{3, 9, 0, 31}, 4, 1, 17, {}, {{5}, {}, {2}, {64, 3}}, 3, true},
      {{130}, 2, 2, 64},
      {{300, 2}, 1, 1, 16, {}, {{}, {64, 64, 9}}},
      {{1, 1, 1}, 6, 2, 80, {}, {{64, 64, 17}, {}, {1}}, 7},
      {{1}, 4, 4, 5, {}, {{600, 600, 31}}},  // more than one part of a single query's
      {{40, 5}, 2, 1, 8, {1, 1}, {{3}, {}}},
      {{70, 3}, 2, 1, 8, {2, 1}, {{}, {1}}},
      {{257}, 1, 1, 8, {31, 1}},
      {{200, 1}, 2, 1, 8, {150, 1}, {{64, 64, 21}, {149}}},
      {{50}, 2, 2, 8, {1000, 1}},
      {{67, 1, 2}, 2, 1, 8, {0, 3}, {{}, {64, 10}, {5}}},
      {{131, 1}, 2, 2, 8, {64, 7}, {{63}, {63}}},
      {{9, 4}, 2, 1, 8, {3, 5}, {{2}, {}}},  // sees itself alone
      {{70, 1}, 2, 1, 130, {}, {{}, {64, 9}}, 3},
      {{9, 1}, 1, 1, 300, {}, {{}, {64, 70}}},  // several blocks of a head's columns
      {{1, 1, 1}, 2, 1, 16, {40, 3}, {{64, 5}, {200, 7}, {}}},
      {{1, 130, 65}, 2, 1, 80, {}, {{64, 64, 17}, {}, {1}}, 8, true},
      {{300, 64, 129}, 4, 2, 128, {}, {{9}, {}, {64, 64}}, 16},
      {{257, 63, 2}, 2, 2, 64, {31, 1}, {{}, {64, 64, 64, 9}, {3}}, 8},
      {{1030}, 3, 1, 40},
      {{150, 67}, 2, 1, 24, {100, 3}, {{64, 9}, {}}, 8},
  };
  return list;
}

PastRows make_past(const Case& c, const std::function<Tensor(Shape)>& make, bool some = false) {
  PastRows past;
  for (const auto& runs : c.runs) {
    past.emplace_back();
    for (const int64_t positions : runs) {
      const Shape shape = {positions, c.n_kv_heads * c.head_dim};
      const bool wanted = !some || past.back().size() % 2 == 0;
      past.back().push_back(wanted ? KeyValueRows{make(shape), make(shape)} : KeyValueRows());
    }
  }
  return past;
}

struct Call {
  AttentionForward forward;
  AttentionBackward backward;
};

Call make_call(Device& device, Operands& o, const Case& c) {
  const Sequences seqs = make_sequences(device, c.lengths);
  const Shape query = {seqs.tokens, c.n_heads * c.head_dim};
  const Shape key = {seqs.tokens, c.n_kv_heads * c.head_dim};
  const auto input = [&](Shape shape) { return o.activation(shape, -2, 2, c.row_padding); };
  const auto kept = [&](Shape shape) { return o.kept_activation(shape, -2, 2, c.row_padding); };
  Call call;
  auto& [forward, backward] = call;
  forward.in = {.q = input(query),
                .k = input(key),
                .v = input(key),
                .n_heads = c.n_heads,
                .n_kv_heads = c.n_kv_heads,
                .pattern = c.pattern,
                .seqs = seqs,
                .past = make_past(c, kept)};
  forward.z = o.assigned_activation(query);
  forward.lse = o.assigned({seqs.tokens, c.n_heads});
  backward.dz = o.activation(query, -1, 1, c.row_padding);
  backward.in = forward.in;
  backward.z = forward.z;
  backward.lse = forward.lse;
  backward.dq = o.assigned_activation(query, c.row_padding);
  backward.dk = o.assigned_activation(key, c.row_padding);
  backward.dv = o.assigned_activation(key, c.row_padding);
  backward.dpast = make_past(
      c, [&](Shape shape) { return o.accumulated(shape, c.row_padding); }, c.some_unwanted);
  return call;
}

void run(Device& device, const Call& call) {
  attention_forward(device, call.forward);
  attention_backward(device, call.backward);
}

// Scores are sums of head_dim terms of at most 4, whose errors weights and outputs have in turn;
// gradients of keys are sums over as many queries.
double tolerance(const Case& c) {
  int64_t most = 1;
  for (size_t s = 0; s < c.lengths.size(); ++s) {
    int64_t seen = c.lengths[s];
    for (const int64_t run : c.runs.empty() ? std::vector<int64_t>() : c.runs[s]) seen += run;
    most = std::max(most, seen);
  }
  return 16 * kEpsilon * std::sqrt(static_cast<double>((c.head_dim + 16) * (most + 16)));
}

TEST(Attention, AgreesWithRef) {
  for (size_t i = 0; i < cases().size(); ++i) {
    SCOPED_TRACE(::testing::Message() << "case " << i);
    const Case& c = cases()[i];
    expect_backends_agree(
        [&](Device& device, Operands& o) { run(device, make_call(device, o, c)); }, tolerance(c));
  }
}

// On the matrix units where rows are aligned, widened where not. Forward's lse is float32's there.
// Backward, from the z that forward left, weights and the gradients of scores are rounded before
// they are summed.
TEST(Attention, CudaAgreesWithRefInBf16) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  for (size_t i = 0; i < cases().size(); ++i) {
    SCOPED_TRACE(::testing::Message() << "case " << i);
    const Case& c = cases()[i];
    expect_cuda_agrees_in_bf16(
        [&](Device& device, Operands& o) {
          attention_forward(device, make_call(device, o, c).forward);
        },
        tolerance(c));
    expect_cuda_agrees_in_bf16(
        [&](Device& device, Operands& o) {
          const Call call = make_call(device, o, c);
          attention_forward(device, call.forward);
          const Tensor& z = call.forward.z;
          for_each_offset(z, [&](int64_t i) {
            if (device.host_memory()) put(z, i, rounded_to(DType::bf16, get(z, i)));
          });
          attention_backward(device, call.backward);
        },
        tolerance(c) + kBf16Epsilon / 2);
  }
}

// loss = z . dz, as a function of q, k, v and what stood before.
TEST(Attention, GradientsAreThoseOfFiniteDifferences) {
  Device ref("ref");
  const std::vector<Case> small = {
      {{5, 1, 0}, 2, 1, 3, {}, {{2, 1}, {}, {1}}},
      {{6}, 2, 2, 2, {3, 1}, {{4}}},
      {{6, 3}, 1, 1, 2, {5, 2}, {{4}, {}}},
  };
  for (const Case& c : small) {
    Operands o(DType::f64);
    const Call call = make_call(ref, o, c);
    const auto& forward = call.forward;
    const auto& backward = call.backward;
    for (const auto& runs : backward.dpast) {
      for (const KeyValueRows& run : runs) {
        for (const Tensor& t : {run.k, run.v}) {
          for_each_offset(t, [&](int64_t offset) { put(t, offset, 0); });
        }
      }
    }
    run(ref, call);
    const auto loss = [&] {
      attention_forward(ref, forward);
      return weighted_sum(forward.z, backward.dz);
    };
    expect_gradient(forward.in.q, backward.dq, loss, "q");
    expect_gradient(forward.in.k, backward.dk, loss, "k");
    expect_gradient(forward.in.v, backward.dv, loss, "v");
    for (size_t s = 0; s < c.runs.size(); ++s) {
      for (size_t i = 0; i < c.runs[s].size(); ++i) {
        expect_gradient(forward.in.past[s][i].k, backward.dpast[s][i].k, loss, "past k");
        expect_gradient(forward.in.past[s][i].v, backward.dpast[s][i].v, loss, "past v");
      }
    }
  }
}

// What a sequence's tokens see does not depend on where it is cut into past and present, nor on how
// the past is cut into runs.
TEST(Attention, APastIsAsIfItsTokensWereThere) {
  constexpr int64_t kLength = 90, kWidth = 16;
  for (const char* name : {"ref", "cpu"}) {
    Device device(name, 2);
    for (const AttentionPattern pattern : {AttentionPattern{}, {20, 1}, {0, 3}, {31, 4}}) {
      Operands o(DType::f32);
      const Call whole = make_call(device, o, {{kLength}, 2, 2, 8, pattern});
      attention_forward(device, whole.forward);
      for (const int64_t cut : {1, 16, 63, 64, 89}) {
        const AttentionInputs& in = whole.forward.in;
        const Call part = make_call(device, o, {{kLength - cut}, 2, 2, 8, pattern});
        AttentionForward forward = part.forward;
        forward.in.q = in.q.rows(cut, kLength);
        forward.in.k = in.k.rows(cut, kLength);
        forward.in.v = in.v.rows(cut, kLength);
        const int64_t middle = cut / 3;
        forward.in.past = {{{in.k.rows(0, middle), in.v.rows(0, middle)},
                            {in.k.rows(middle, cut), in.v.rows(middle, cut)}}};
        attention_forward(device, forward);
        expect_close(forward.z, whole.forward.z.rows(cut, kLength), 8 * kEpsilon, "z");
        ASSERT_EQ(forward.z.dim(1), kWidth);
      }
    }
  }
}

// Sequence `s` of a batch, and its gradients, have the bits of that sequence alone.
TEST(Attention, WhoElseIsThereChangesNoBit) {
  Device cpu("cpu", 2);
  const std::vector<int64_t> lengths = {5, 90, 1, 200, 1};
  for (const AttentionPattern pattern : {AttentionPattern{}, {40, 3}}) {
    Operands o(DType::f32);
    const Call all = make_call(cpu, o, {lengths, 4, 2, 24, pattern});
    run(cpu, all);
    int64_t begin = 0;
    for (const int64_t length : lengths) {
      const int64_t end = begin + length;
      Operands p(DType::f32);
      Call one = make_call(cpu, p, {{length}, 4, 2, 24, pattern});
      AttentionInputs& in = one.forward.in;
      in.q = all.forward.in.q.rows(begin, end);
      in.k = all.forward.in.k.rows(begin, end);
      in.v = all.forward.in.v.rows(begin, end);
      one.backward.in = in;
      one.backward.dz = all.backward.dz.rows(begin, end);
      run(cpu, one);
      EXPECT_EQ(values(one.forward.z), values(all.forward.z.rows(begin, end)));
      EXPECT_EQ(values(one.backward.dq), values(all.backward.dq.rows(begin, end)));
      EXPECT_EQ(values(one.backward.dk), values(all.backward.dk.rows(begin, end)));
      EXPECT_EQ(values(one.backward.dv), values(all.backward.dv.rows(begin, end)));
      begin = end;
    }
  }
}

// Scores far beyond where exp overflows or vanishes.
TEST(Attention, LargeScoresAreSoftmaxedAllTheSame) {
  for (const char* name : {"ref", "cpu"}) {
    Device device(name, 1);
    for (const int64_t length : {1, 40}) {
      Operands o(DType::f32);
      const Call call = make_call(device, o, {{length}, 1, 1, 4, {}, {{64}}});
      const auto fill = [](const Tensor& t, auto value) {
        int64_t i = 0;
        for_each_offset(t, [&](int64_t offset) { put(t, offset, value(i++)); });
      };
      fill(call.forward.in.q, [](int64_t) { return 1000.0; });
      // Position 10 of the past is far above all others.
      fill(call.forward.in.past[0][0].k, [](int64_t i) { return i / 4 == 10 ? 100.0 : -100.0; });
      fill(call.forward.in.k, [](int64_t) { return -100.0; });
      run(device, call);
      for (int64_t t = 0; t < length; ++t) {
        for (int64_t e = 0; e < 4; ++e) {
          EXPECT_EQ(call.forward.z.data<float>()[t * 4 + e],
                    call.forward.in.past[0][0].v.data<float>()[40 + e]);
        }
      }
      for (const double d : values(call.backward.dk)) EXPECT_EQ(d, 0);
    }
  }
}

// All of them as far below zero as floats reach: the mean of what is seen.
TEST(Attention, ScoresMayAllBeFarBelowZero) {
  for (const char* name : {"ref", "cpu"}) {
    Device device(name, 1);
    for (const int64_t length : {1, 3}) {
      Operands o(DType::f32);
      const Call call = make_call(device, o, {{length}, 1, 1, 1, {}, {{1}}});
      for (int64_t t = 0; t < length; ++t) {
        put(call.forward.in.q, t, 1e19);
        put(call.forward.in.k, t, -1e19);
      }
      put(call.forward.in.past[0][0].k, 0, -1e19);
      run(device, call);
      double sum = get(call.forward.in.past[0][0].v, 0);
      for (int64_t t = 0; t < length; ++t) {
        sum += get(call.forward.in.v, t);
        EXPECT_NEAR(get(call.forward.z, t), sum / static_cast<double>(t + 2), 1e-6);
      }
    }
  }
}

// Pairs counted one by one, and the order in which they grow.
TEST(Attention, PairsGrowAsThePatternSays) {
  for (const AttentionPattern pattern :
       {AttentionPattern{}, {1, 1}, {7, 1}, {7, 3}, {6, 3}, {0, 4}, {5, 9}}) {
    for (const int64_t past : {0, 1, 3, 6, 20}) {
      for (const int64_t length : {0, 1, 5, 30}) {
        int64_t expected = 0;
        for (int64_t i = past; i < past + length; ++i) {
          for (int64_t j = 0; j <= i; ++j) expected += pattern.sees(i - j);
        }
        EXPECT_EQ(attention_pairs(pattern, past, length), expected)
            << pattern.window << " " << pattern.dilation << " " << past << " " << length;
      }
    }
  }
  const auto growth = [](const AttentionPattern& pattern) {
    const auto pairs = [&](int64_t length) {
      return static_cast<double>(attention_pairs(pattern, 0, length));
    };
    return pairs(1 << 16) / pairs(1 << 15);
  };
  EXPECT_NEAR(growth({}), 4, 1e-3);
  EXPECT_NEAR(growth({0, 8}), 4, 2e-3);
  EXPECT_NEAR(growth({128, 1}), 2, 1e-2);
}

// A matrix of all scores would take 64 MiB a head.
TEST(Attention, LongSequencesNeedNoMatrixOfScores) {
  Device cpu("cpu", 2);
  if (cpu.name() == "ref") GTEST_SKIP() << "which takes its time";
  constexpr int64_t kLength = 4096, kHeads = 2, kHeadDim = 16;
  Operands o(DType::f32);
  const Call call = make_call(cpu, o, {{kLength}, kHeads, 1, kHeadDim});
  run(cpu, call);
  // Packed keys and values and their gradients by head, and two threads' blocks.
  constexpr int64_t kFloats = 2 * (1 + kHeads) * kLength * kHeadDim + 2 * 64 * (3 * kHeadDim + 300);
  EXPECT_LE(cpu.pool().bytes_held(), 2 * kFloats * 4);
}

TEST(Attention, RefusesWhatDoesNotFit) {
  Device ref("ref");
  Operands o(DType::f64);
  const Call call = make_call(ref, o, {{4}, 4, 2, 3, {}, {{2}}});
  const auto refuses = [&](auto change) {
    Call wrong = call;
    change(wrong);
    EXPECT_THROW(attention_forward(ref, wrong.forward), Error);
  };
  refuses([](Call& c) { c.forward.in.n_kv_heads = 3; });
  refuses([](Call& c) { c.forward.in.n_heads = 5; });
  refuses([](Call& c) { c.forward.in.pattern.dilation = 0; });
  refuses([](Call& c) { c.forward.in.pattern.window = -1; });
  refuses([](Call& c) { c.forward.in.past.emplace_back(); });
  refuses([&](Call& c) { c.forward.in.past[0][0].v = o.input({3, 6}); });
  Call wrong = call;
  wrong.backward.dpast.front().emplace_back();
  EXPECT_THROW(attention_backward(ref, wrong.backward), Error);
}

}  // namespace
}  // namespace elapse
