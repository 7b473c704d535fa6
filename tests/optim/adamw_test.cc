// SPDX-License-Identifier: Apache-2.0
#include "elapse/optim/adamw.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/io/expect_error.h"

namespace elapse {
namespace {

// Two parameters, the second exempt from weight decay, with gradients that the test sets.
class Subject {
 public:
  explicit Subject(const AdamWConfig& config)
      : device_("ref"), parameters_(make()), optimizer_(device_, parameters_, config) {}

  void set_gradients(std::vector<double> first, std::vector<double> second) {
    set(0, first);
    set(1, second);
    optimizer_.measure_gradients();
  }
  AdamWOptimizer& optimizer() { return optimizer_; }
  double value(size_t parameter, int64_t i) const {
    return parameters_.all()[parameter].var.value().data<double>()[i];
  }

 private:
  Parameters make() {
    Parameters parameters;
    parameters.add("decays", device_.upload(std::vector<double>{1, -2}, {2}), true);
    parameters.add("does not", device_.upload(std::vector<double>{0.5}, {1}), false);
    return parameters;
  }
  void set(size_t parameter, const std::vector<double>& values) {
    Var var = parameters_.all()[parameter].var;
    var.set_grad(device_.upload(values, var.value().shape()));
  }

  Device device_;
  Parameters parameters_;
  AdamWOptimizer optimizer_;
};

AdamWConfig config() {
  AdamWConfig c;
  c.beta1 = 0.9;
  c.beta2 = 0.99;
  c.weight_decay = 0.5;
  c.max_norm = 0;
  return c;
}

// The published update by itself.
struct Expected {
  double param, m = 0, v = 0;
  void update(double g, double lr, double decay, int step) {
    param -= lr * decay * param;
    m = 0.9 * m + 0.1 * g;
    v = 0.99 * v + 0.01 * g * g;
    const double mean = m / (1 - std::pow(0.9, step)), square = v / (1 - std::pow(0.99, step));
    param -= lr * mean / (std::sqrt(square) + 1e-8);
  }
};

TEST(AdamW, three_updates_follow_the_formula_and_spare_what_does_not_decay) {
  Subject subject(config());
  Expected a{1}, b{-2}, c{0.5};
  const double gradients[3][3] = {{0.3, -1, 2}, {0.1, 4, -2}, {-0.5, 0, 1e-3}};
  for (int step = 1; step <= 3; ++step) {
    const auto& g = gradients[step - 1];
    const double lr = 0.1 * step;
    subject.set_gradients({g[0], g[1]}, {g[2]});
    subject.optimizer().update(lr);
    a.update(g[0], lr, 0.5, step);
    b.update(g[1], lr, 0.5, step);
    c.update(g[2], lr, 0, step);
    EXPECT_NEAR(subject.value(0, 0), a.param, 1e-12);
    EXPECT_NEAR(subject.value(0, 1), b.param, 1e-12);
    EXPECT_NEAR(subject.value(1, 0), c.param, 1e-12);
    EXPECT_EQ(subject.optimizer().updates(), step);
  }
}

TEST(AdamW, the_gradient_norm_is_over_all_parameters) {
  Subject subject(config());
  subject.set_gradients({3, 4}, {12});
  EXPECT_DOUBLE_EQ(subject.optimizer().gradient_norm(), 13);
}

TEST(AdamW, clipping_scales_large_gradients_and_no_small_ones) {
  AdamWConfig clipped = config();
  clipped.max_norm = 1.3;
  for (const double size : {1.0, 0.05}) {
    Subject subject(clipped);
    subject.set_gradients({3 * size, 4 * size}, {12 * size});
    subject.optimizer().update(0.1);
    const double factor = size == 1.0 ? 0.1 : 1;
    EXPECT_NEAR(subject.optimizer().moments()[1].m.data<double>()[0], 0.1 * 12 * size * factor,
                1e-6);
  }
}

TEST(AdamW, continues_from_moments_and_updates_alone) {
  Subject whole(config()), first(config()), second(config());
  for (Subject* s : {&whole, &first}) {
    s->set_gradients({0.3, -1}, {2});
    s->optimizer().update(0.1);
  }
  for (size_t p = 0; p < 2; ++p) {
    const auto& from = first.optimizer().moments()[p];
    const auto& into = second.optimizer().moments()[p];
    std::copy_n(from.m.data<double>(), from.m.numel(), into.m.data<double>());
    std::copy_n(from.v.data<double>(), from.v.numel(), into.v.data<double>());
  }
  second.optimizer().set_updates(1);
  const double before = second.value(1, 0), reference = whole.value(1, 0);
  for (Subject* s : {&whole, &second}) {
    s->set_gradients({1, 1}, {1});
    s->optimizer().update(0.1);
  }
  EXPECT_NEAR(second.value(1, 0) - before, whole.value(1, 0) - reference, 1e-15);
}

TEST(AdamW, names_the_setting_out_of_range) {
  const auto broken = [](auto change) {
    return [change] {
      AdamWConfig c = config();
      change(c);
      c.check();
    };
  };
  expect_error(broken([](AdamWConfig& c) { c.beta1 = 1; }), "beta1");
  expect_error(broken([](AdamWConfig& c) { c.beta2 = -0.1; }), "beta2");
  expect_error(broken([](AdamWConfig& c) { c.eps = 0; }), "eps");
  expect_error(broken([](AdamWConfig& c) { c.weight_decay = -1; }), "weight_decay: expected 0");
  expect_error(broken([](AdamWConfig& c) { c.max_norm = NAN; }), "max_norm: expected 0");
}

}  // namespace
}  // namespace elapse
