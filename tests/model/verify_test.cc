// SPDX-License-Identifier: Apache-2.0
// Proves which path ran. The suite is run once for each value of ELAPSE_VERIFY (tests/CMakeLists);
// in each run these tests fail if the model took another path than that mode's.
#include <gtest/gtest.h>

#include <cstdlib>

#include "elapse/model/language_model.h"

namespace elapse {
namespace {

std::string mode() {
  const char* value = std::getenv("ELAPSE_VERIFY");
  return value == nullptr ? "" : value;
}

PathCounts counts_of(bool recording) {
  Device device("cpu", 2);
  const LanguageModel model(device, ModelConfig::mamba(8, 1, 5), DType::f32, 1);
  Tape tape(device, recording);
  const Batch batch = {
      device.upload(std::vector<int64_t>{1, 2, 3, 4, 0}, {5}), make_sequences(device, {3, 2}), {}};
  model.forward(tape, batch);
  return model.path_counts();
}

TEST(Verify, ForwardWithAGradientTookTheModesPath) {
  const PathCounts counts = counts_of(true);
  EXPECT_EQ(counts.parallel, mode() == "step" ? 0 : 1);
  EXPECT_EQ(counts.stepped, mode() == "step" ? 3 : 0);
  EXPECT_EQ(counts.restored, 0);
}

TEST(Verify, ForwardWithoutAGradientTookTheModesPath) {
  const PathCounts counts = counts_of(false);
  const bool by_tokens = mode() == "step" || mode() == "restore";
  EXPECT_EQ(counts.parallel, by_tokens ? 0 : 1);
  EXPECT_EQ(counts.stepped, by_tokens ? 3 : 0);
  EXPECT_EQ(counts.restored, mode() == "restore" ? 2 : 0);
}

TEST(Verify, DecodingPassesTheStateThroughAFileWhereAsked) {
  Device device("cpu", 1);
  const LanguageModel model(device, ModelConfig::mamba(8, 1, 5), DType::f32, 1);
  State state = model.make_state(1);
  for (int64_t t = 0; t < 3; ++t) {
    Tape tape(device, false);
    model.forward(
        tape,
        {device.upload(std::vector<int64_t>{t}, {1}), make_sequences(device, {1}, {0}, {0}), {}},
        &state);
  }
  EXPECT_EQ(state.position(), 3);
  EXPECT_EQ(model.path_counts().restored, mode() == "restore" ? 3 : 0);
}

// Forward and backward.
void learn_one_token(Device& device, const ModelConfig& config) {
  const LanguageModel model(device, config, DType::f32, 1);
  Tape tape(device);
  const Batch batch = {
      device.upload(std::vector<int64_t>{1}, {1}), make_sequences(device, {1}), {}};
  const Var loss =
      cross_entropy(tape, model.forward(tape, batch), device.upload(std::vector<int64_t>{2}, {1}));
  tape.backward(loss);
}

TEST(Verify, Mamba2RunsItsOwnKernels) {
  Device device("cpu", 1);
  learn_one_token(device, ModelConfig::mamba2(8, 2, 5));
  EXPECT_EQ(device.calls(Op::ssd_forward), 2);
  EXPECT_EQ(device.calls(Op::ssd_backward), 2);
  EXPECT_EQ(device.calls(Op::ssd_forward_by_tokens), 0);
  EXPECT_EQ(device.calls(Op::gated_rms_norm_backward), 2);
}

TEST(Verify, RecurrentCellsRunTheirOwnKernels) {
  for (const MixerKind cell : {MixerKind::rnn, MixerKind::lstm, MixerKind::gru}) {
    Device device("cpu", 1);
    learn_one_token(device, ModelConfig::of(cell, 8, 2, 5));
    EXPECT_EQ(device.calls(Op::recurrent_forward), 2);
    EXPECT_EQ(device.calls(Op::recurrent_backward), 2);
  }
}

TEST(Verify, DiagonalStateSpacesRunTheirOwnKernels) {
  for (const MixerKind mixer : {MixerKind::s4d, MixerKind::h3}) {
    Device device("cpu", 1);
    learn_one_token(device, ModelConfig::of(mixer, 8, 2, 5));
    EXPECT_EQ(device.calls(Op::diagonal_ssm_forward), 2);
    EXPECT_EQ(device.calls(Op::diagonal_ssm_backward), 2);
  }
}

TEST(Verify, LinearAttentionWaveNetAndHyenaRunTheirOwnKernels) {
  const auto calls = [](MixerKind mixer, std::initializer_list<Op> ops) {
    Device device("cpu", 1);
    learn_one_token(device, ModelConfig::of(mixer, 8, 2, 5));
    std::vector<int64_t> counts;
    for (const Op op : ops) counts.push_back(device.calls(op));
    return counts;
  };
  using Counts = std::vector<int64_t>;
  const auto ssd = {Op::ssd_forward, Op::ssd_backward, Op::ssd_forward_by_tokens};
  EXPECT_EQ(calls(MixerKind::linear_attention, ssd), (Counts{4, 4, 0}));  // of h and of z
  EXPECT_EQ(calls(MixerKind::retnet, ssd), (Counts{2, 2, 0}));
  EXPECT_EQ(calls(MixerKind::gla, {Op::gla_forward, Op::gla_backward, Op::gla_forward_by_tokens}),
            (Counts{2, 2, 0}));
  EXPECT_EQ(calls(MixerKind::wavenet, {Op::delayed_forward, Op::delayed_backward}), (Counts{2, 2}));
  // Token by token the long filter is one of causal_conv's, as the short one is.
  const bool by_tokens = mode() == "step";
  EXPECT_EQ(calls(MixerKind::hyena, {Op::long_conv_forward, Op::long_conv_backward,
                                     Op::causal_conv_forward, Op::causal_conv_backward}),
            by_tokens ? (Counts{0, 0, 4, 4}) : (Counts{2, 2, 2, 2}));
}

TEST(Verify, RefTakesThePlaceOfCpuWhereAsked) {
  Device device("cpu", 1);
  EXPECT_EQ(device.name(), mode() == "ref" ? "ref" : "cpu");
}

TEST(Verify, OnlyTheKernelsThatRanAreCounted) {
  Device device("cpu", 1);
  learn_one_token(device, ModelConfig::mamba(8, 2, 5));
  EXPECT_EQ(device.calls(Op::selective_scan_forward), 2);
  EXPECT_EQ(device.calls(Op::selective_scan_backward), 2);
  EXPECT_EQ(device.calls(Op::recurrence), 0);
}

TEST(Verify, RefStandsInWhereCpuHasNoKernelAndSaysSo) {
  const Device device("cpu", 1);
  if (device.name() == "ref") GTEST_SKIP() << "ref has every kernel";
  const std::vector<Op> own_f32 = device.stand_ins(DType::f32);
  EXPECT_EQ(own_f32,
            (std::vector<Op>{Op::likeliest, Op::sample, Op::causal_shift, Op::recurrence,
                             Op::recurrence_backward, Op::mamba_step, Op::ssd_forward_by_tokens,
                             Op::ssd_watch_by_tokens, Op::ssd_backward_by_tokens,
                             Op::gla_forward_by_tokens, Op::gla_backward_by_tokens}));
  // All but linear_cross_entropy, which linear and cross_entropy define.
  EXPECT_EQ(device.stand_ins(DType::f64).size(), static_cast<size_t>(Op::count) - 2);
}

}  // namespace
}  // namespace elapse
