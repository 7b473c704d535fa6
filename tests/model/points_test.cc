// SPDX-License-Identifier: Apache-2.0
// Every named point, walked through watching, setting to its own value and doubling, in training,
// prefill and decoding.
#include "elapse/points/points.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>

#include "elapse/core/random.h"
#include "elapse/model/by_tokens.h"
#include "elapse/model/language_model.h"
#include "tests/can_open.h"

namespace elapse {
namespace {

enum class Mode { training, prefill, decoding };
constexpr Mode kModes[] = {Mode::training, Mode::prefill, Mode::decoding};

// Two sequences of different lengths.
const std::vector<int64_t> kLengths = {7, 4};
const std::vector<int64_t> kTokens = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5};

std::vector<MixerKind> all_mixers() {
  std::vector<MixerKind> mixers;
  for (const std::string& name : mixer_names()) mixers.push_back(mixer_named(name));
  return mixers;
}

ModelConfig tiny_config(MixerKind mixer = MixerKind::mamba) {
  ModelConfig config = ModelConfig::of(mixer, 20, 2, 11);
  if (is_mamba(mixer)) config.d_state = 5;
  if (is_diagonal(mixer)) config.d_state = 6;
  if (mixer == MixerKind::hyena) config.l_max = 6;
  if (mixer == MixerKind::mamba2) {
    config.head_dim = 10;
    config.n_groups = 2;
  }
  // What may stand around any mixer, around some: an MLP, LayerNorm, learned positions.
  if (mixer == MixerKind::attention || mixer == MixerKind::lstm) config.d_intermediate = 12;
  if (mixer == MixerKind::gru) {
    config.norm = NormKind::layer;
    config.d_intermediate = 9;
    config.mlp = MlpKind::gelu;
    config.mlp_bias = true;
    config.max_positions = 16;
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

  // Of training.
  double loss(Points* points) {
    State state = start();
    Tape tape(device_, false);
    const Var logits = forward(tape, whole(), &state, points);
    return numbers(device_, cross_entropy(tape, logits, targets()).value()).front();
  }

  void expect_passes_from_layers() {
    State state = start();
    Points points;
    for (const char* name : {"layers.1.resid_pre", "layers.1.resid_post"}) points.watch(name);
    Tape tape(device_, false);
    const Bits expected = bits_of(device_, model_.forward(tape, whole(), &state, &points).value());
    const int64_t before = model_.path_counts().layer_tokens;
    State again = start();
    const Var stream(points.value("layers.1.resid_pre"));
    EXPECT_EQ(bits_of(device_, model_.forward_from(tape, 1, stream, whole(), &again).value()),
              expected);
    EXPECT_EQ(model_.path_counts().layer_tokens - before, 11);
    const Var last(points.value("layers.1.resid_post"));
    EXPECT_EQ(bits_of(device_, model_.forward_from(tape, 2, last, whole(), &again).value()),
              expected);
    Points early;
    early.watch("layers.0.mixer.out");
    EXPECT_THROW(model_.forward_from(tape, 1, stream, whole(), &again, &early), Error);
    EXPECT_THROW(model_.forward_from(tape, 3, stream, whole(), &again), Error);
    EXPECT_THROW(model_.forward_from(tape, 1, Var(), whole(), &again), Error);
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
        // A sum of keys, which are positive, and by which is divided.
        if (part.name == "z")
          for (float& v : values) v = std::abs(v) + 1;
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

  Tensor targets() {
    std::vector<int64_t> next(kTokens.begin() + 1, kTokens.end());
    next.push_back(0);
    return device_.upload(next, {11});
  }

  Result train(Points* points) {
    State state = start();
    const Parameters& parameters = model_.parameters();
    parameters.zero_grad(device_);
    Tape tape(device_);
    const Var logits = forward(tape, whole(), &state, points);
    tape.backward(cross_entropy(tape, logits, targets()));
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

double scale_of(const std::vector<double>& values) { return std::max(largest(values), 1e-3); }

void expect_close(const Result& found, const Result& expected, double tolerance) {
  ASSERT_EQ(found.values.size(), expected.values.size());
  for (size_t i = 0; i < found.values.size(); ++i) {
    const double scale = scale_of(expected.values[i]);
    for (size_t j = 0; j < found.values[i].size(); ++j) {
      ASSERT_NEAR(found.values[i][j], expected.values[i][j], tolerance * scale)
          << "output " << i << " element " << j;
    }
  }
}

// The least tolerance within which they are close.
double distance(const Result& found, const Result& expected) {
  double most = 0;
  for (size_t i = 0; i < expected.values.size(); ++i) {
    for (size_t j = 0; j < expected.values[i].size(); ++j) {
      const double away = std::abs(found.values[i][j] - expected.values[i][j]);
      most = std::max(most, away / scale_of(expected.values[i]));
    }
  }
  return most;
}

struct Kind {
  const char* device;
  DType dtype;
  MixerKind mixer;
};

// Against ref in double; of bf16 against itself. Hyena's filter multiplies what rounding leaves of
// its angles by frequencies of 14, thrice.
double tolerance_of(const Kind& kind) {
  if (kind.dtype == DType::f64) return 1e-12;
  return kind.mixer == MixerKind::hyena ? 1e-4 : 3e-5;
}

// Of a bf16 model, how far rounding may move what it gives, beside the largest of each output:
// twice as far as that of ref in double moved in some draws of every value that passes between
// operations being off by up to an epsilon of bf16, and its gradient with it. A rounding is half of
// that; matrices are rounded beside.
class Rounding {
 public:
  using Run = std::function<Result(Subject&, Points&)>;

  Rounding(Subject& rounded, Subject& definition, Mode mode) : definition_(definition) {
    for (const PointInfo& p : rounded.points()) {
      if (p.axis == PointInfo::Axis::none) continue;
      const Tensor value = rounded.watch(mode, p.name).front();
      if (is_of_bf16(numbers(rounded.device(), value))) names_.emplace_back(p.name, value.shape());
    }
  }

  double moves(const Result& exact, const Run& run) const {
    constexpr uint64_t kDraws = 3;
    double most = 0;
    for (uint64_t draw = 0; draw < kDraws; ++draw) {
      Points points = drawn(draw);
      most = std::max(most, distance(run(definition_, points), exact));
    }
    return 2 * most;
  }

 private:
  static bool is_of_bf16(const std::vector<double>& values) {
    return std::all_of(values.begin(), values.end(), [](double v) {
      return (std::bit_cast<uint32_t>(static_cast<float>(v)) & 0xffff) == 0;
    });
  }

  Points drawn(uint64_t draw) const {
    Points points;
    Random random(draw);
    for (const auto& [name, shape] : names_) {
      std::vector<double> scales(static_cast<size_t>(shape.numel()));
      for (double& s : scales) s = 1 + random.uniform(-1, 1) / 128;
      points.edit({name, EditOp::scale, definition_.device().upload(scales, shape)});
    }
    return points;
  }

  Subject& definition_;
  std::vector<std::pair<std::string, Shape>> names_;
};

// Of what one run gives, whose result in the definition is known.
using Tolerance = std::function<double(const Result& exact, const Rounding::Run& run)>;
Tolerance tolerances(const Kind& kind, Subject& subject, Subject& definition, Mode mode) {
  if (kind.dtype == DType::bf16) {
    return [rounding = Rounding(subject, definition, mode)](const Result& exact, auto& run) {
      return rounding.moves(exact, run);
    };
  }
  return [fixed = tolerance_of(kind)](auto&, auto&) { return fixed; };
}

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
  for (Mode mode : kModes) {
    const Result plain = subject.run(mode, nullptr), exact = definition.run(mode, nullptr);
    const auto tolerance = tolerances(GetParam(), subject, definition, mode);
    for (const PointInfo& p : subject.points()) {
      SCOPED_TRACE(p.name);
      const auto doubled = [&](Subject& s, Points& points) {
        const bool is_f64 = &s == &definition || GetParam().dtype == DType::f64;
        const Tensor two = is_f64 ? s.device().upload(std::vector<double>{2}, {1})
                                  : s.device().upload(std::vector<float>{2}, {1});
        points.edit({p.name, EditOp::scale, two});
        return s.run(mode, &points);
      };
      Points points, of_definition;
      const Result found = doubled(subject, points), expected = doubled(definition, of_definition);
      const double within = tolerance(expected, doubled);
      expect_close(found, expected, within);
      // Not in every call: a query of attention without a past sees one key whatever that is. A
      // norm takes a factor away but for its epsilon, which bf16 may not show.
      if (GetParam().dtype == DType::bf16 && distance(expected, exact) < within) continue;
      EXPECT_FALSE(found == plain);
    }
  }
}

// Whether a token's value depends on what the edit made of the same point at the token before.
bool follows_edits_before(MixerKind mixer, const std::string& name) {
  if (name.ends_with(".h")) return true;
  const std::string point = name.substr(name.rfind('.') + 1);
  if (mixer == MixerKind::linear_attention && point == "z") return true;
  return is_recurrent(mixer) && name.find(".mixer.") != name.npos && point.size() == 1;
}

// One inside the second layer's mixer: `of_mamba`, if it is Mamba's.
std::string inner_point(MixerKind mixer, const std::string& of_mamba) {
  const bool has_z = mixer == MixerKind::wavenet || mixer == MixerKind::attention;
  const std::string other = has_z ? "z" : mixer == MixerKind::hyena ? "w" : "h";
  return "layers.1.mixer." + (is_mamba(mixer) ? of_mamba : other);
}

TEST_P(EveryPoint, AddingWhatItIsEqualsDoubling) {
  Subject subject(GetParam().device, GetParam().dtype, GetParam().mixer);
  for (const PointInfo& p : subject.points()) {
    if (follows_edits_before(GetParam().mixer, p.name)) continue;
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

// A selection with an awkward order, and which rows of a whole value it is, in its order.
struct Selected {
  Selection where;
  std::vector<int64_t> rows;
};

// In the batch of training and prefill.
Selected some_of(const PointInfo& point) {
  if (point.axis == PointInfo::Axis::none) return {{.channels = {0, 2}}, {}};
  if (point.axis == PointInfo::Axis::sequence) return {{.sequences = {1}}, {1}};
  return {{.sequences = {1, 0}, .positions = {3, 0}}, {10, 7, 3, 0}};
}

// The elements of those rows, and of the selected channels and states.
std::vector<double> part_of(Device& device, const Tensor& whole, const Selected& selected,
                            bool has_rows) {
  const std::vector<double> all = numbers(device, whole);
  const Shape& shape = whole.shape();
  const int first = has_rows ? 1 : 0;
  const int64_t channels = shape.rank() > first ? shape[first] : 1;
  const int64_t states = shape.rank() > first + 1 ? shape[first + 1] : 1;
  std::vector<double> out;
  for (const int64_t row : has_rows ? selected.rows : std::vector<int64_t>{0}) {
    for (int64_t c = selected.where.channels.begin;
         c < std::min(channels, selected.where.channels.end); ++c) {
      for (int64_t n = selected.where.states.begin; n < std::min(states, selected.where.states.end);
           ++n) {
        out.push_back(all[static_cast<size_t>((row * channels + c) * states + n)]);
      }
    }
  }
  return out;
}

TEST_P(EveryPoint, SelectionsAreThePartsTheyName) {
  Subject subject(GetParam().device, GetParam().dtype, GetParam().mixer);
  for (Mode mode : {Mode::training, Mode::prefill}) {
    const Result plain = subject.run(mode, nullptr);
    for (const PointInfo& p : subject.points()) {
      SCOPED_TRACE(p.name);
      const Tensor whole = subject.watch(mode, p.name).front();
      Selected selected = some_of(p);
      const bool has_rows = p.axis != PointInfo::Axis::none;
      const int axes = whole.shape().rank() - (has_rows ? 1 : 0);
      const auto inner = [&](int axis) { return whole.dim(axis + (has_rows ? 1 : 0)); };
      if (axes > 0 && inner(0) > 2) selected.where.channels = {1, inner(0) - 1};
      if (axes > 0 && inner(0) <= 2) selected.where.channels = {};
      if (axes > 1 && inner(1) > 2) selected.where.states = {1, 3};
      Points points;
      points.watch(p.name, selected.where);
      EXPECT_TRUE(subject.run(mode, &points) == plain);
      const Tensor& part = points.value(p.name);
      EXPECT_EQ(numbers(subject.device(), part),
                part_of(subject.device(), whole, selected, has_rows));

      // Set to what it is, and doubled as the whole is with a source of ones elsewhere.
      Points same;
      same.edit({p.name, EditOp::set, part, selected.where});
      EXPECT_EQ(subject.run(mode, &same).bits.front(), plain.bits.front());
      Points changed;
      const Tensor two = subject.device().empty(whole.dtype(), {1});
      fill(subject.device(), {two, 2});
      changed.edit({p.name, EditOp::scale, two, selected.where});
      EXPECT_FALSE(subject.run(mode, &changed).bits.front() == plain.bits.front());
    }
  }
}

// What a pass of decoding sees of a position, whichever token it comes with.
TEST_P(EveryPoint, PositionsMeanTheSameWhileDecoding) {
  Subject subject(GetParam().device, GetParam().dtype, GetParam().mixer);
  const std::string name = inner_point(GetParam().mixer, "y");
  const std::vector<Tensor> each = subject.watch(Mode::decoding, name);
  Points points;
  points.watch(name, {.sequences = {1}, .positions = {3}});
  subject.run(Mode::decoding, &points);
  const std::vector<double> last = numbers(subject.device(), each.back());
  const std::vector<double> found = numbers(subject.device(), points.value(name));
  ASSERT_EQ(found.size() * 2, last.size());
  EXPECT_TRUE(std::equal(found.begin(), found.end(), last.begin() + std::ssize(found)));

  const Result plain = subject.run(Mode::decoding, nullptr);
  Points edited;
  const Tensor two = subject.device().empty(each.front().dtype(), {1});
  fill(subject.device(), {two, 2});
  // Twice RetNet's state is the same after its norm, but for epsilon.
  edited.edit({name, EditOp::add, two, {.positions = {2}}});
  const Result changed = subject.run(Mode::decoding, &edited);
  EXPECT_EQ(changed.bits[0], plain.bits[0]);
  EXPECT_EQ(changed.bits[1], plain.bits[1]);
  EXPECT_NE(changed.bits[2], plain.bits[2]);
}

// Many edits of one point, each of another token, do what one does with a row for each.
TEST_P(EveryPoint, EditsOfOnePointAddUp) {
  Subject subject(GetParam().device, GetParam().dtype, GetParam().mixer);
  const std::string inner = inner_point(GetParam().mixer, "dt");
  for (const std::string& name :
       {std::string("layers.0.mixer.out"), inner, std::string("layers.1.resid_pre")}) {
    const Tensor whole = subject.watch(Mode::prefill, name).front();
    Points together, apart;
    const Tensor two = subject.device().empty(whole.dtype(), {1});
    fill(subject.device(), {two, 2});
    together.edit({name, EditOp::set, whole.rows(2, 4), {.sequences = {0}, .positions = {2, 3}}});
    together.edit({name, EditOp::scale, two, {.sequences = {1}}});
    apart.edit({name, EditOp::set, whole.rows(3, 4), {.sequences = {0}, .positions = {3}}});
    apart.edit({name, EditOp::set, whole.rows(2, 3), {.sequences = {0}, .positions = {2}}});
    for (const int64_t t : {0, 1, 2, 3}) {
      apart.edit({name, EditOp::scale, two, {.sequences = {1}, .positions = {t}}});
    }
    EXPECT_TRUE(subject.run(Mode::prefill, &together) == subject.run(Mode::prefill, &apart));
    // One row for all tokens.
    Points broadcast, rows;
    broadcast.edit({name, EditOp::set, whole.rows(1, 2), {.sequences = {1}}});
    for (const int64_t t : {0, 1, 2, 3}) {
      rows.edit({name, EditOp::set, whole.rows(1, 2), {.sequences = {1}, .positions = {t}}});
    }
    EXPECT_TRUE(subject.run(Mode::prefill, &broadcast) == subject.run(Mode::prefill, &rows));
  }
}

// The gradient of a value is the derivative with respect to a number added to it.
void expect_gradient_of_added(Subject& subject, const std::string& name) {
  Device& device = subject.device();
  Points points;
  points.watch_gradient(name);
  subject.run(Mode::training, &points);
  const Tensor gradient = points.gradient(name);
  const std::vector<double> found = numbers(device, gradient);
  for (const size_t i : {size_t{0}, found.size() / 2, found.size() - 1}) {
    const auto loss = [&](double step) {
      std::vector<double> added(found.size(), 0.0);
      added[i] = step;
      Points change;
      change.edit({name, EditOp::add, device.upload(added, gradient.shape())});
      return subject.loss(&change);
    };
    constexpr double kStep = 1e-6;
    EXPECT_NEAR(found[i], (loss(kStep) - loss(-kStep)) / (2 * kStep), 1e-8) << "element " << i;
  }
}

TEST_P(EveryPoint, GradientsAreThoseInRefDouble) {
  Subject subject(GetParam().device, GetParam().dtype, GetParam().mixer);
  Subject definition("ref", DType::f64, GetParam().mixer);
  const auto tolerance = tolerances(GetParam(), subject, definition, Mode::training);
  const Result plain = subject.run(Mode::training, nullptr);
  for (const PointInfo& p : subject.points()) {
    SCOPED_TRACE(p.name);
    // After what a training gives.
    const auto with_gradient = [&](Subject& s, Points& points) {
      points.watch_gradient(p.name);
      Result result = s.run(Mode::training, &points);
      result.add(s.device(), points.gradient(p.name));
      return result;
    };
    Points points, of_definition;
    Result found = with_gradient(subject, points);
    const Result expected = with_gradient(definition, of_definition);
    expect_close(found, expected, tolerance(expected, with_gradient));
    EXPECT_TRUE(found.bits.front() == plain.bits.front());
    found.values.pop_back();
    expect_close(found, plain, tolerance_of(GetParam()));
  }
}

TEST(PointGradients, AreThoseOfWhatIsAdded) {
  for (const MixerKind mixer : all_mixers()) {
    Subject subject("ref", DType::f64, mixer);
    for (const PointInfo& p : subject.points()) {
      SCOPED_TRACE(p.name);
      expect_gradient_of_added(subject, p.name);
    }
  }
}

TEST_P(EveryPoint, APassFromALayerEndsAsTheWholeDoes) {
  Subject subject(GetParam().device, GetParam().dtype, GetParam().mixer);
  subject.expect_passes_from_layers();
}

std::vector<Kind> kinds() {
  std::vector<Kind> list;
  for (const MixerKind mixer : all_mixers()) {
    list.insert(list.end(), {{"ref", DType::f64, mixer}, {"ref", DType::f32, mixer}});
    for (const Backend* backend : backends()) {
      if (backend->name == "cpu") list.push_back({"cpu", DType::f32, mixer});
      if (backend->name == "cuda" && can_open("cuda")) {
        list.push_back({"cuda", DType::f32, mixer});
        list.push_back({"cuda", DType::bf16, mixer});
      }
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
  Points part;
  part.watch("embed", {.positions = {3}});
  EXPECT_NE(part.key(), watched.key());
  EXPECT_THROW(part.watch("hook_embed"), Error);
}

TEST(Points, NamesOfOtherToolsAreTaken) {
  Device device("ref");
  const LanguageModel model(device, tiny_config(), DType::f32, 1);
  Points points;
  points.watch("blocks.1.hook_h.3");
  points.watch("blocks.0.mixer.out_proj.hook_out");
  points.watch("layers.0.mixer.dt");
  Tape tape(device, false);
  model.forward(tape, {device.upload(kTokens, {11}), make_sequences(device, {11}), {}}, nullptr,
                &points);
  EXPECT_EQ(points.value("layers.1.mixer.h").shape(), Shape({1, 40, 5}));
  EXPECT_EQ(points.value("blocks.1.hook_h.3").shape(), Shape({1, 40, 5}));
  EXPECT_EQ(points.value("layers.0.mixer.out").shape(), Shape({11, 20}));
  EXPECT_EQ(points.value("blocks.0.hook_delta").shape(), Shape({11, 40}));
}

}  // namespace
}  // namespace elapse
