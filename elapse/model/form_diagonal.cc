// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>

#include "elapse/core/error.h"
#include "elapse/io/messages.h"
#include "elapse/model/config_fields.h"
#include "elapse/model/mixer_forms.h"

namespace elapse {
namespace {

constexpr int64_t kDefaultState = 64;
constexpr std::array<std::string_view, 2> kFields = {"d_state", "init"};

void set_defaults(ModelConfig& c) {
  c.d_inner = c.d_model;
  c.d_state = kDefaultState;
  c.diagonal_init = c.mixer == MixerKind::h3 ? DiagonalInit::lin : DiagonalInit::legs;
}

DiagonalInit init_field(const Json& ssm_cfg, DiagonalInit fallback) {
  const std::string name = ssm_cfg.text("init", std::string(name_of(fallback)));
  const std::optional<DiagonalInit> init = diagonal_init_named(name);
  ELAPSE_CHECK(init, "{}: expected one of {}, found {}", ssm_cfg.at("init").where(),
               fmt::join(kDiagonalInitNames, ", "), quote(name));
  return *init;
}

void read(const Json& ssm_cfg, ModelConfig& c) {
  c.d_state = size_field(ssm_cfg, "d_state", kDefaultState);
  c.diagonal_init = init_field(ssm_cfg, c.diagonal_init);
  ELAPSE_CHECK(!is_complex(c.diagonal_init) || c.d_state % 2 == 0,
               "{}: expected an even number, two for each complex state, found {}",
               ssm_cfg.at("d_state").where(), c.d_state);
  ELAPSE_CHECK(c.d_state <= most_states(c.diagonal_init),
               "{}: expected at most {} with init {}, found {}", ssm_cfg.at("d_state").where(),
               most_states(c.diagonal_init), name_of(c.diagonal_init), c.d_state);
}

void write(JsonWriter& json, const ModelConfig& c) {
  json.field("d_state", c.d_state).field("init", name_of(c.diagonal_init));
}

void visit_ssm(const ModelConfig& c, const std::string& prefix, const std::string& D_name,
               const ModelConfig::VisitParameter& visit) {
  const bool pairs = is_complex(c.diagonal_init);
  const Shape states = {c.d_model, pairs ? c.d_state / 2 : c.d_state};
  visit(prefix + "log_dt", {c.d_model});
  visit(prefix + "C", pairs ? Shape{c.d_model, c.d_state / 2, 2} : states);
  visit(prefix + "log_A_real", states);
  if (pairs) visit(prefix + "A_imag", states);
  visit(D_name, {c.d_model});
}

void visit_linear(const std::string& name, int64_t rows, int64_t columns,
                  const ModelConfig::VisitParameter& visit) {
  visit(name + ".weight", {rows, columns});
  visit(name + ".bias", {rows});
}

void visit_s4d(const ModelConfig& c, int64_t, const std::string& prefix,
               const ModelConfig::VisitParameter& visit) {
  visit_ssm(c, prefix + "kernel.", prefix + "D", visit);
  visit_linear(prefix + "output_linear", 2 * c.d_model, c.d_model, visit);
}

void visit_h3(const ModelConfig& c, int64_t, const std::string& prefix,
              const ModelConfig::VisitParameter& visit) {
  for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
    visit_linear(prefix + name, c.d_model, c.d_model, visit);
  }
  visit(prefix + "shift.weight", {c.d_model, 1, c.d_state});
  visit_ssm(c, prefix + "ssm_kernel.", prefix + "D", visit);
  visit_linear(prefix + "output_linear", c.d_model, c.d_model, visit);
}

int64_t s4d_state_size(const ModelConfig& c, int64_t) { return c.d_inner * c.d_state; }
int64_t h3_state_size(const ModelConfig& c, int64_t) { return c.d_inner * (2 * c.d_state - 1); }

// By the recurrence, 14 for a complex state and 5 for a real one (decay, write, read); or by
// Fourier transforms, with a filter that is one run of the recurrence. Kernels choose what is less.
double ssm_operations(const ModelConfig& c, const StepShape& step) {
  const double recurrence = is_complex(c.diagonal_init) ? 14 * static_cast<double>(c.d_state) / 2
                                                        : 5 * static_cast<double>(c.d_state);
  const double convolution =
      convolution_operations(step, step.length) + recurrence / static_cast<double>(step.sequences);
  return static_cast<double>(c.d_inner) * std::min(recurrence, convolution);
}

// The shift is a convolution of d_state taps beside it, summed tap by tap.
double h3_operations(const ModelConfig& c, const StepShape& step) {
  return ssm_operations(c, step) + static_cast<double>(2 * c.d_inner * c.d_state);
}

}  // namespace

constinit const MixerForm kS4dForm = {"s4d", "S4D", "S4D",     kFields,        set_defaults,
                                      read,  write, visit_s4d, s4d_state_size, ssm_operations};
constinit const MixerForm kH3Form = {"h3", "H3",  "H3",     kFields,       set_defaults,
                                     read, write, visit_h3, h3_state_size, h3_operations};

}  // namespace elapse
