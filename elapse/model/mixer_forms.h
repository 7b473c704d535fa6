// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/model/mixer_form.h"

namespace elapse {

// One to each file form_*.cc, or to each kind of cell.
extern const MixerForm kMambaForm, kMamba2Form;
extern const MixerForm kRnnForm, kLstmForm, kGruForm;
extern const MixerForm kAttentionForm;
extern const MixerForm kS4dForm, kH3Form;
extern const MixerForm kLinearAttentionForm, kRetNetForm, kGlaForm;
extern const MixerForm kWaveNetForm;
extern const MixerForm kHyenaForm;

}  // namespace elapse
