// SPDX-License-Identifier: Apache-2.0
// Every named point, walked through watching, setting to its own value and doubling, in training,
// prefill and decoding.
#include "elapse/points/points.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "elapse/core/random.h"
#include "elapse/model/by_tokens.h"
#include "elapse/model/language_model.h"

namespace elapse {
namespace {

enum class Mode { training, prefill, decoding };
constexpr Mode kModes[] = {Mode::training, Mode::prefill, Mode::decoding};

// Two sequences of different lengths.
const std::vector<int64_t> kLengths = {7, 4};
const std::vector<int64_t> kTokens = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5};

ModelConfig tiny_config(MixerKind mixer = MixerKind::mamba) {
  ModelConfig config =
      mixer == MixerKind::mamba ? ModelConfig::mamba(20, 2, 11) : ModelConfig::mamba2(20, 2, 11);
  config.d_state = 5;
  if (mixer == MixerKind::mamba2) {
    config.head_dim = 10;
    config.n_groups = 2;
  }
  return config;
}

using Bits = std::vector<char>;

Bits bits_of(Device& device, const Tensor& t) {
  Bits bits(static_cast<size_t>(t.bytes()));
  device.download_bytes(t, bits.data());
  return bits;
}

std::vector<double> numbers(Device& device, const Tensor& t) {
  const Bits bits = bits_of(device, t);
  std::vector<double> out(static_cast<size_t>(t.numel()));
  for (size_t i = 0; i < out.size(); ++i) {
    if (t.dtype() == DType::f64) {
      std::memcpy(&out[i], bits.data() + 8 * i, 8);
    } else {
      float f;
      std::memcpy(&f, bits.data() + 4 * i, 4);
      out[i] = f;
    }
  }
  return out;
}

// What one run gives: logits, and in training the gradient of every parameter.
struct Result {
  std::vector<Bits> bits;
  std::vector<std::vector<double>> values;

  void add(Device& device, const Tensor& t) {
    bits.push_back(bits_of(device, t));
    values.push_back(numbers(device, t));
  }
  bool operator==(const Result& other) const { return bits == other.bits; }
};

class Subject {
 public:
  Subject(std::string_view device, DType dtype, MixerKind mixer)
      : device_(device, 2), model_(device_, tiny_config(mixer), dtype, 7) {}

  Device& device() { return device_; }
  const std::vector<PointInfo>& points() const { return model_.points(); }

  Result run(Mode mode, Points* points) {
    switch (mode) {
      case Mode::training:
        return train(points);
      case Mode::prefill:
        return prefill(points);
      case Mode::decoding:
        return decode(points);
    }
    return {};
  }

  // The values a point has in each call of a mode.
  std::vector<Tensor> watch(Mode mode, const std::string& name) {
    seen_.clear();
    watching_ = name;
    Points points;
    points.watch(name);
    run(mode, &points);
    watching_.clear();
    return seen_;
  }

  // As run(), with the point set to `values`, one for each call.
  Result run_set(Mode mode, const std::string& name, const std::vector<Tensor>& values) {
    next_ = [&, i = size_t{0}](Points& points) mutable {
      points = Points();
      points.edit({name, EditOp::set, values.at(i++)});
    };
    Points points;
    Result result = run(mode, &points);
    next_ = nullptr;
    return result;
  }

 private:
  // Something to start from, so that h_start and conv_state are not zero.
  State start() {
    State state = model_.make_state(2);
    Random random(5);
    for (const LayerState& layer : state.layers()) {
      for (const StatePart& part : layer.parts) {
        std::vector<float> values(static_cast<size_t>(part.pool.value().numel()));
        for (float& v : values) v = static_cast<float>(random.normal());
        const Tensor t = device_.upload(values, part.pool.value().shape());
        copy(device_, {t, part.pool.value()});
      }
    }
    return state;
  }

  Var forward(Tape& tape, const Batch& batch, State* state, Points* points) {
    if (next_) next_(*points);
    Var logits = model_.forward(tape, batch, state, points);
    if (!watching_.empty()) seen_.push_back(points->value(watching_));
    return logits;
  }

  Batch whole() {
    return {device_.upload(kTokens, {11}), make_sequences(device_, kLengths, {0, 1}, {0, 1}), {}};
  }

  Result train(Points* points) {
    State state = start();
    const Parameters& parameters = model_.parameters();
    parameters.zero_grad(device_);
    Tape tape(device_);
    const Var logits = forward(tape, whole(), &state, points);
    std::vector<int64_t> targets(kTokens.begin() + 1, kTokens.end());
    targets.push_back(0);
    tape.backward(cross_entropy(tape, logits, device_.upload(targets, {11})));
    Result result;
    result.add(device_, logits.value());
    for (const Parameter& p : parameters.all()) result.add(device_, p.var.grad());
    return result;
  }

  Result prefill(Points* points) {
    State state = start();
    Tape tape(device_, false);
    Result result;
    result.add(device_, forward(tape, whole(), &state, points).value());
    return result;
  }

  Result decode(Points* points) {
    State state = start();
    Result result;
    for (int64_t t = 0; t < 4; ++t) {
      Tape tape(device_, false);
      const std::vector<int64_t> tokens = {kTokens[size_t(t)], kTokens[size_t(7 + t)]};
      const Batch batch = {
          device_.upload(tokens, {2}), make_sequences(device_, {1, 1}, {0, 1}, {0, 1}), {}};
      result.add(device_, forward(tape, batch, &state, points).value());
    }
    return result;
  }

  Device device_;
  LanguageModel model_;
  std::string watching_;
  std::vector<Tensor> seen_;
  std::function<void(Points&)> next_;
};

double largest(const std::vector<double>& values) {
  double m = 0;
  for (double v : values) m = std::max(m, std::abs(v));
  return m;
}

void expect_close(const Result& found, const Result& expected, double tolerance) {
  ASSERT_EQ(found.values.size(), expected.values.size());
  for (size_t i = 0; i < found.values.size(); ++i) {
    const double scale = std::max(largest(expected.values[i]), 1e-3);
    for (size_t j = 0; j < found.values[i].size(); ++j) {
      ASSERT_NEAR(found.values[i][j], expected.values[i][j], tolerance * scale)
          << "output " << i << " element " << j;
    }
  }
}

struct Kind {
  const char* device;
  DType dtype;
  MixerKind mixer;
};

class EveryPoint : public testing::TestWithParam<Kind> {};

TEST_P(EveryPoint, WatchingChangesNoBit) {
  Subject subject(GetParam().device, GetParam().dtype, GetParam().mixer);
  for (Mode mode : kModes) {
    const Result plain = subject.run(mode, nullptr);
    Points all;
    for (const PointInfo& p : subject.points()) {
      Points one;
      one.watch(p.name);
      all.watch(p.name);
      EXPECT_TRUE(subject.run(mode, &one) == plain) << p.name;
      EXPECT_GT(one.value(p.name).numel(), 0) << p.name;
    }
    EXPECT_TRUE(subject.run(mode, &all) == plain);
  }
}

TEST_P(EveryPoint, SettingToItsOwnValueChangesNoBit) {
  Subject subject(GetParam().device, GetParam().dtype, GetParam().mixer);
  for (Mode mode : kModes) {
    const Bits plain = subject.run(mode, nullptr).bits.front();
    for (const PointInfo& p : subject.points()) {
      const std::vector<Tensor> own = subject.watch(mode, p.name);
      EXPECT_EQ(subject.run_set(mode, p.name, own).bits.front(), plain) << p.name;
    }
  }
}

TEST_P(EveryPoint, DoublingDoesWhatItDoesInRefDouble) {
  Subject subject(GetParam().device, GetParam().dtype, GetParam().mixer);
  Subject definition("ref", DType::f64, GetParam().mixer);
  const double tolerance = GetParam().dtype == DType::f64 ? 1e-12 : 3e-5;
  for (Mode mode : kModes) {
    const Result plain = subject.run(mode, nullptr);
    for (const PointInfo& p : subject.points()) {
      SCOPED_TRACE(p.name);
      const auto doubled = [&](Subject& s) {
        Points points;
        points.edit({p.name, EditOp::scale, s.device().upload(std::vector<float>{2}, {1})});
        if (&s == &definition || GetParam().dtype == DType::f64) {
          points = Points();
          points.edit({p.name, EditOp::scale, s.device().upload(std::vector<double>{2}, {1})});
        }
        return s.run(mode, &points);
      };
      const Result found = doubled(subject);
      EXPECT_FALSE(found.bits.front() == plain.bits.front());
      expect_close(found, doubled(definition), tolerance);
    }
  }
}

TEST_P(EveryPoint, AddingWhatItIsEqualsDoubling) {
  Subject subject(GetParam().device, GetParam().dtype, GetParam().mixer);
  for (const PointInfo& p : subject.points()) {
    if (p.name.ends_with(".h")) continue;  // its value depends on the edit of the token before
    const Tensor own = subject.watch(Mode::prefill, p.name).front();
    Points added, doubled;
    added.edit({p.name, EditOp::add, own});
    const Tensor two = subject.device().empty(own.dtype(), {1});
    fill(subject.device(), {two, 2});
    doubled.edit({p.name, EditOp::scale, two});
    EXPECT_TRUE(subject.run(Mode::prefill, &added) == subject.run(Mode::prefill, &doubled))
        << p.name;
  }
}

std::vector<Kind> kinds() {
  std::vector<Kind> list;
  for (const MixerKind mixer : {MixerKind::mamba, MixerKind::mamba2}) {
    list.insert(list.end(), {{"ref", DType::f64, mixer}, {"ref", DType::f32, mixer}});
    for (const Backend* backend : backends()) {
      if (backend->name == "cpu") list.push_back({"cpu", DType::f32, mixer});
    }
  }
  return list;
}

INSTANTIATE_TEST_SUITE_P(Devices, EveryPoint, testing::ValuesIn(kinds()),
                         [](const testing::TestParamInfo<Kind>& kind) {
                           return fmt::format("{}_{}_{}", name_of(kind.param.mixer),
                                              kind.param.device, name_of(kind.param.dtype));
                         });

TEST(Points, RefusesNamesTheModelDoesNotHave) {
  Device device("ref");
  const LanguageModel model(device, tiny_config(), DType::f32, 1);
  Points points;
  points.watch("layers.2.mixer.dt");
  Tape tape(device, false);
  const Batch batch = {device.upload(kTokens, {11}), make_sequences(device, {11}), {}};
  EXPECT_THROW(model.forward(tape, batch, nullptr, &points), Error);
}

TEST(Points, KeyTellsWhatRunsApart) {
  Device device("ref");
  const Tensor one = device.zeros(DType::f32, {1});
  Points watched, edited, both;
  watched.watch("embed");
  edited.edit({"embed", EditOp::set, one});
  both.watch("embed");
  both.edit({"embed", EditOp::set, one});
  EXPECT_NE(watched.key(), edited.key());
  EXPECT_NE(watched.key(), both.key());
  EXPECT_NE(edited.key(), both.key());
  EXPECT_EQ(Points().key(), "");
  EXPECT_THROW(both.edit({"embed", EditOp::add, one}), Error);
}

}  // namespace
}  // namespace elapse
