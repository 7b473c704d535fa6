// SPDX-License-Identifier: Apache-2.0
// States compared, mixed and transplanted; scores of repeated tokens.
#include "elapse/interpret/states.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "elapse/interpret/scores.h"
#include "tests/interpret/planted.h"

namespace elapse {
namespace {

const std::vector<int64_t> kOne = {3, 1, 4, 1}, kOther = {2, 7, 1, 0};

class States : public testing::TestWithParam<MixerKind> {
 protected:
  States() : device_("ref"), model_(device_, config(), DType::f64, 5) {}

  static ModelConfig config() {
    ModelConfig config = GetParam() == MixerKind::mamba ? ModelConfig::mamba(20, 3, 8)
                                                        : ModelConfig::mamba2(20, 3, 8);
    config.d_state = 4;
    return config;
  }

  Batch one(const std::vector<int64_t>& tokens) {
    Batch batch = pack(model_, {tokens});
    batch.seqs = make_sequences(device_, {std::ssize(tokens)}, {0}, {0});
    return batch;
  }
  State after(const std::vector<int64_t>& tokens) {
    State state = model_.make_state(1);
    Tape tape(device_, false);
    model_.forward(tape, one(tokens), &state);
    return state;
  }
  LastLogits next(State& state, Points* points = nullptr) {
    Tape tape(device_, false);
    return last_logits(model_, model_.forward(tape, one({5}), &state, points).value());
  }

  Device device_;
  LanguageModel model_;
};

TEST_P(States, DifferencesAreTheirNorms) {
  const State a = after(kOne), b = after(kOther);
  const auto found = difference(device_, a, b);
  ASSERT_EQ(found.size(), 6u);
  for (const StateDifference& d : found) {
    EXPECT_GT(d.norm, 0);
    EXPECT_GT(d.difference, 0);
    EXPECT_LE(d.difference, d.norm + d.second_norm);
    EXPECT_GE(d.difference, std::abs(d.norm - d.second_norm));
    ASSERT_EQ(d.largest.size(), 1u);
    EXPECT_GE(d.difference, std::abs(d.largest[0].second - d.largest[0].first));
  }
  for (const StateDifference& d : difference(device_, a, a)) EXPECT_EQ(d.difference, 0);
  EXPECT_THROW(difference(device_, a, b.fork({0, 0})), Error);
  EXPECT_THROW(difference(device_, a.fork({0, 0}), b.fork({0, 0})), Error);
}

TEST_P(States, DifferencesNameTheirPlaces) {
  const State a = after(kOne);
  const State b = a.fork();
  double* h = b.layers()[1].part("h").value().data<double>();
  double* conv = b.layers()[2].part("conv").value().data<double>();
  const int64_t width = b.layers()[2].part("conv").value().dim(2);
  h[7 * 4 + 3] += 2;
  h[0] -= 5;
  conv[1 * width + 6] += 1;
  for (const StateDifference& d : difference(device_, a, b, 2)) {
    if (d.layer == 1 && d.part == "h") {
      EXPECT_NEAR(d.difference, std::sqrt(29.0), 1e-12);
      EXPECT_EQ(d.largest[0].channel, 0);
      EXPECT_EQ(d.largest[0].column, 0);
      EXPECT_NEAR(d.largest[0].second - d.largest[0].first, -5, 1e-12);
      EXPECT_EQ(d.largest[1].channel, 7);
      EXPECT_EQ(d.largest[1].column, 3);
    } else if (d.layer == 2 && d.part == "conv") {
      EXPECT_EQ(d.largest[0].channel, 6);
      EXPECT_EQ(d.largest[0].column, 1);
    } else {
      EXPECT_EQ(d.difference, 0);
    }
  }
}

TEST_P(States, InterpolationRunsFromOneToTheOther) {
  const State a = after(kOne), b = after(kOther);
  EXPECT_TRUE(interpolate(device_, a, b, 0).same_bits(a));
  EXPECT_TRUE(interpolate(device_, a, b, 1).same_bits(b));
  const State middle = interpolate(device_, a, b, 0.5);
  const auto whole = difference(device_, a, b), half = difference(device_, a, middle);
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_NEAR(half[i].difference, whole[i].difference / 2, 1e-12);
  }
}

// A state put in at a token by an edit of `h` is a pass that starts from the transplanted one.
TEST_P(States, ATransplantIsAnEditOfTheState) {
  const State donor = after(kOther);
  State patched = after(kOne);
  transplant(device_, donor, patched, {.layers = {2}, .part = "h"});
  const LastLogits expected = next(patched);

  Points points;
  const Tensor h = donor.layers()[2].part("h").value();
  points.edit({"layers.2.mixer.h", EditOp::set, h, {.positions = {3}}});
  std::vector<int64_t> tokens = kOne;
  tokens.push_back(5);
  Tape tape(device_, false);
  const LastLogits found =
      last_logits(model_, model_.forward(tape, pack(model_, {tokens}), nullptr, &points).value());
  for (size_t i = 0; i < found.values.size(); ++i) {
    EXPECT_NEAR(found.values[i], expected.values[i], 1e-12);
  }
}

// What one token reads is its own: the layer's other tokens, and the state, stay as they are.
TEST_P(States, AnEditOfWhatIsReadChangesOneToken) {
  const auto run = [&](Points points, State& end) {
    points.watch("layers.1.mixer.ssm_out");
    Tape tape(device_, false);
    model_.forward(tape, one(kOne), &end, &points);
    return host_values(device_, points.value("layers.1.mixer.ssm_out"));
  };
  Points edited;
  const Tensor two = device_.upload(std::vector<double>{2}, {1});
  edited.edit({"layers.1.mixer.readout_h", EditOp::add, two, {.positions = {2}}});
  State plain_end = model_.make_state(1), edited_end = model_.make_state(1);
  const std::vector<double> plain = run({}, plain_end), found = run(edited, edited_end);
  const size_t width = plain.size() / kOne.size();
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_EQ(found[i] != plain[i], i / width == 2) << i;
  }
  for (const StateDifference& d : difference(device_, plain_end, edited_end)) {
    EXPECT_EQ(d.difference == 0, d.layer <= 1) << d.layer << d.part;  // layer 2 sees the change
  }
}

TEST_P(States, TransplantsOfEverythingMakeTheOtherAndOfChannelsMakeParts) {
  const State donor = after(kOther);
  State all = after(kOne), parts = after(kOne);
  transplant(device_, donor, all, {.layers = {0, 1, 2}});
  EXPECT_TRUE(all.same_bits(donor));
  for (const auto& [begin, end] : {std::pair{0, 7}, std::pair{7, -1}}) {
    transplant(device_, donor, parts,
               {.layers = {2, 1, 0}, .part = "h", .channel_begin = begin, .channel_end = end});
  }
  transplant(device_, donor, parts, {.layers = {0, 1, 2}, .part = "conv"});
  EXPECT_TRUE(parts.same_bits(donor));
  EXPECT_THROW(transplant(device_, donor, parts, {.layers = {3}}), Error);
  EXPECT_THROW(transplant(device_, donor, parts, {.layers = {0}, .part = "x"}), Error);
  EXPECT_THROW(transplant(device_, donor, parts, {.layers = {0}, .channel_begin = 99}), Error);
}

TEST_P(States, TransplantsReachEverySequence) {
  const State one = after(kOne), other = after(kOther);
  State both = one.fork({0, 0});
  transplant(device_, other.fork({0, 0}), both, {.layers = {0, 1, 2}});
  EXPECT_TRUE(both.fork({0}).same_bits(other));
  EXPECT_TRUE(both.fork({1}).same_bits(other));
}

INSTANTIATE_TEST_SUITE_P(Mixers, States, testing::Values(MixerKind::mamba, MixerKind::mamba2));

TEST(RepetitionScores, AreThoseOfTheLosses) {
  Device device("ref");
  ModelConfig config = ModelConfig::mamba(20, 2, 8);
  config.d_state = 4;
  const LanguageModel model(device, config, DType::f64, 5);
  const RepetitionScores scores = repetition_scores(model, 6, 3, 1);
  EXPECT_EQ(scores.nats.size(), 11u);
  EXPECT_NEAR(scores.first_half,
              std::accumulate(scores.nats.begin(), scores.nats.begin() + 5, 0.0) / 5, 1e-15);
  EXPECT_NEAR(scores.in_context, scores.second_half - scores.first_half, 1e-15);
  // An untrained model knows nothing, and looks nowhere in particular.
  EXPECT_NEAR(scores.first_half, std::log(8.0), 0.3);
  EXPECT_NEAR(scores.second_half, std::log(8.0), 0.3);
  for (const double score : scores.prefix_matching) {
    EXPECT_GT(score, 0);
    EXPECT_LT(score, 0.5);
  }
  EXPECT_NEAR(scores.by_chance, (1 / 7. + 1 / 8. + 1 / 9. + 1 / 10. + 1 / 11. + 1 / 12.) / 6,
              1e-15);
  EXPECT_THROW(repetition_scores(model, 1, 3, 1), Error);
}

}  // namespace
}  // namespace elapse
