// SPDX-License-Identifier: Apache-2.0
#include "elapse/train/non_finite.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/train/tiny_run.h"

namespace elapse {
namespace {

constexpr float kHuge = 1e30f;

std::string found(TinyRun& run) {
  return first_non_finite(run.model(), run.task().training_batch(0, 0, 4, 8));
}

TEST(FirstNonFinite, a_weight_comes_before_all_it_spoils) {
  TinyRun run(tiny_training(3));
  run.set_weight("backbone.layers.1.mixer.D", std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(found(run), "weight \"backbone.layers.1.mixer.D\"");
}

TEST(FirstNonFinite, a_point_inside_a_mixer_is_found_behind_the_layer_it_spoils) {
  TinyRun run(tiny_training(3));
  for (const char* name :
       {"backbone.layers.1.mixer.dt_proj.bias", "backbone.layers.1.mixer.conv1d.bias"}) {
    run.set_weight(name, kHuge);
  }
  EXPECT_EQ(found(run), "point \"layers.1.mixer.B_bar\"");  // dt B: 1e30 times about 1e29
}

TEST(FirstNonFinite, a_point_between_layers_is_found) {
  TinyRun run(tiny_training(3));
  run.set_weight("backbone.norm_f.weight", std::numeric_limits<float>::max());
  EXPECT_EQ(found(run), "point \"norm_f\"");
}

TEST(FirstNonFinite, gradients_are_looked_at_last_from_the_models_end) {
  TinyRun run(tiny_training(3));
  run.model().parameters().zero_grad(run.device());
  for (const char* name : {"backbone.layers.0.norm.weight", "backbone.layers.1.norm.weight"}) {
    *run.model().parameters().find(name)->var.grad().data<float>() =
        std::numeric_limits<float>::infinity();
  }
  EXPECT_EQ(found(run), "gradient of \"backbone.layers.1.norm.weight\"");
}

TEST(FirstNonFinite, says_so_where_all_is_finite) {
  TinyRun run(tiny_training(3));
  EXPECT_EQ(found(run), "none that can be found again");
}

}  // namespace
}  // namespace elapse
