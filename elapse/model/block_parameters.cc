// SPDX-License-Identifier: Apache-2.0
// Names and shapes of what stands around the mixers. Apart from what runs them: whoever only reads
// configurations, such as the fuzzers, needs no more.
#include <fmt/format.h>

#include "elapse/model/mlp.h"
#include "elapse/model/norm.h"

namespace elapse {

void Norm::for_each_parameter(const ModelConfig& config, const std::string& name,
                              const ModelConfig::VisitParameter& visit) {
  visit(name + ".weight", {config.d_model});
  if (config.norm == NormKind::layer) visit(name + ".bias", {config.d_model});
}

void Mlp::for_each_parameter(const ModelConfig& config, const std::string& prefix,
                             const ModelConfig::VisitParameter& visit) {
  const auto map = [&](const char* name, int64_t out, int64_t in) {
    visit(fmt::format("{}{}.weight", prefix, name), {out, in});
    if (config.mlp_bias) visit(fmt::format("{}{}.bias", prefix, name), {out});
  };
  const int64_t d_model = config.d_model, d_intermediate = config.d_intermediate;
  if (config.mlp == MlpKind::swiglu) {
    map("up_proj", d_intermediate, d_model);
    map("gate_proj", d_intermediate, d_model);
    map("down_proj", d_model, d_intermediate);
  } else {
    map("fc", d_intermediate, d_model);
    map("proj", d_model, d_intermediate);
  }
}

}  // namespace elapse
