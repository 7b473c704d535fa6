// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "elapse/model/config_fields.h"
#include "elapse/model/mixer_forms.h"

namespace elapse {
namespace {

constexpr std::array<std::string_view, 1> kFields = {"hidden_size"};

void set_defaults(ModelConfig& c) { c.d_inner = c.d_model; }

void read(const Json& ssm_cfg, ModelConfig& c) {
  c.d_inner = size_field(ssm_cfg, "hidden_size", c.d_model);
}

void write(JsonWriter& json, const ModelConfig& c) { json.field("hidden_size", c.d_inner); }

void visit_parameters(const ModelConfig& c, int64_t, const std::string& prefix,
                      const ModelConfig::VisitParameter& visit) {
  const int64_t gates = gate_count(cell_of(c.mixer)) * c.d_inner;
  visit(prefix + "weight_ih_l0", {gates, c.d_model});
  visit(prefix + "weight_hh_l0", {gates, c.d_inner});
  visit(prefix + "bias_ih_l0", {gates});
  visit(prefix + "bias_hh_l0", {gates});
  visit(prefix + "out_proj.weight", {c.d_model, c.d_inner});
}

int64_t state_size(const ModelConfig& c, int64_t) {
  return state_rows(cell_of(c.mixer)) * c.d_inner;
}

// All products are with weights of linear maps, the recurrent ones among them.
double mixing_operations(const ModelConfig&, const StepShape&) { return 0; }

constexpr MixerForm form(std::string_view name, std::string_view title) {
  return {name,         title,
          name,         kFields,
          set_defaults, read,
          write,        visit_parameters,
          state_size,   mixing_operations};
}

}  // namespace

constinit const MixerForm kRnnForm = form("rnn", "RNN");
constinit const MixerForm kLstmForm = form("lstm", "LSTM");
constinit const MixerForm kGruForm = form("gru", "GRU");

}  // namespace elapse
