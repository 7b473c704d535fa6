// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/mixer_form.h"

#include <algorithm>
#include <array>

#include "elapse/core/error.h"
#include "elapse/io/messages.h"
#include "elapse/model/mixer_forms.h"

namespace elapse {
namespace {

// In the order of MixerKind.
constexpr std::array<const MixerForm*, kMixerKinds> kForms = {
    &kMambaForm,  &kMamba2Form, &kRnnForm,
    &kLstmForm,   &kGruForm,    &kAttentionForm,
    &kS4dForm,    &kH3Form,     &kLinearAttentionForm,
    &kRetNetForm, &kGlaForm,    &kWaveNetForm,
    &kHyenaForm};

}  // namespace

const MixerForm& form_of(MixerKind mixer) { return *kForms[static_cast<size_t>(mixer)]; }

const std::vector<std::string>& mixer_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const MixerForm* form : kForms) list.emplace_back(form->name);
    return list;
  }();
  return names;
}

std::string_view name_of(MixerKind mixer) { return form_of(mixer).name; }
std::string_view title_of(MixerKind mixer) { return form_of(mixer).title; }

MixerKind mixer_named(std::string_view name) {
  const auto found = std::find(mixer_names().begin(), mixer_names().end(), name);
  ELAPSE_CHECK(found != mixer_names().end(), "mixer {}: expected one of {}", quote(name),
               fmt::join(mixer_names(), ", "));
  return static_cast<MixerKind>(found - mixer_names().begin());
}

MixerKind mixer_of(const Json& ssm_cfg) {
  const std::string layer = ssm_cfg.text("layer", kMambaForm.layer);
  std::vector<std::string> known;
  for (size_t i = 0; i < kForms.size(); ++i) {
    if (layer == kForms[i]->layer) return static_cast<MixerKind>(i);
    known.push_back(quote(kForms[i]->layer));
  }
  fail("{}: expected one of {} (the mixers known), found {}", ssm_cfg.at("layer").where(),
       fmt::join(known, ", "), quote(layer));
}

void write_ssm_cfg(JsonWriter& json, const ModelConfig& c) {
  const MixerForm& form = form_of(c.mixer);
  json.begin_object();
  // The first releases of mamba_ssm hand every field to Mamba, which has none of that name.
  if (c.mixer != MixerKind::mamba) json.field("layer", form.layer);
  form.write(json, c);
  json.end_object();
}

std::string ssm_cfg_json(const ModelConfig& c) {
  JsonWriter json(JsonWriter::Style::one_line);
  write_ssm_cfg(json, c);
  return json.text();
}

}  // namespace elapse
