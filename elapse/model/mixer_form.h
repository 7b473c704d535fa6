// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "elapse/model/config.h"
#include "elapse/model/mixing_operations.h"

namespace elapse {

// What a kind of mixer adds to a model's configuration: each kind's in a file of its own,
// form_*.cc, and all of them listed in mixer_form.cc in the order of MixerKind.
struct MixerForm {
  std::string_view name;                     // on the command line: "mamba2"
  std::string_view title;                    // "Mamba-2"
  std::string_view layer;                    // in ssm_cfg, the original layout's: "Mamba2"
  std::span<const std::string_view> fields;  // of ssm_cfg, beside "layer"; others are refused

  // The fields' defaults, from mixer, d_model and n_layers, which stand; all else is as nothing has
  // it: 0, or false.
  void (*set_defaults)(ModelConfig& c);
  // The fields of ssm_cfg, onto the defaults; Error as config_fields.h says.
  void (*read)(const Json& ssm_cfg, ModelConfig& c);
  void (*write)(JsonWriter& json, const ModelConfig& c);
  // The parameters of the mixer of layer `layer`, in the order in which the mixer makes them.
  void (*visit)(const ModelConfig& c, int64_t layer, const std::string& prefix,
                const ModelConfig::VisitParameter& visit);
  // Numbers that the mixer of layer `layer` remembers of a sequence.
  int64_t (*state_size)(const ModelConfig& c, int64_t layer);
  // Multiplications and additions of one token in a layer's forward pass as training runs it,
  // beside the products with its weights of linear maps: those of the scan, the convolutions or
  // the scores, and, shared by the step's sequences, of filters that are made of parameters. What
  // is done once for a channel (gates, norms, activations) counts for no mixer.
  double (*mixing_operations)(const ModelConfig& c, const StepShape& step);
};

const MixerForm& form_of(MixerKind mixer);
// The form that ssm_cfg's "layer" names, which may be missing. Throws Error listing them all.
MixerKind mixer_of(const Json& ssm_cfg);

// ssm_cfg, as the original layout states the mixer: "layer" and its fields.
void write_ssm_cfg(JsonWriter& json, const ModelConfig& c);
std::string ssm_cfg_json(const ModelConfig& c);  // on one line

}  // namespace elapse
