// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/model/config.h"

namespace elapse {

// The mixer's defaults, but heads that suit widths below 256, where the usual ones of 64 channels
// would be one or two: each has 16 channels of d_model (or as many as divide both), and
//   attention                     a head of keys and values for each of queries
//   Mamba-2                       32 states
//   linear attention, GLA         keys of 32 channels, values of 16
//   RetNet                        keys of 16, values of 32, twice as wide as published
// so that the last three remember 32 d_model numbers a layer, as Mamba does, with about as many
// parameters. RetNet's heads then forget in 32, 64, 128, ... tokens, a single one in 32.
ModelConfig with_heads(MixerKind mixer, int64_t d_model, int64_t n_layers, int64_t vocab_size);

// Whether a token sees so many before it and none beyond: of Hyena and WaveNet.
bool has_reach(MixerKind mixer);
// Tokens that one sees through all layers, its own included, of a model of those.
int64_t reach_of(const ModelConfig& model);

// The model that learns a synthetic task with sequences of `length` tokens: with_heads, and where a
// token's reach is bounded it is the sequence or more. Hyena's filter has `length` taps, three
// features of a lag and sines that start at a frequency of 1, as Zoology's has in its MQAR
// (HazyResearch/ zoology, iclr24_zoology_figure2, by the defaults of its class). WaveNet gets its
// reach from depth: where `n_layers` of dilations 1, 2, 4, ... see less than `length`, it has as
// many layers as it takes, each twice as far as the one before.
ModelConfig task_model(MixerKind mixer, int64_t d_model, int64_t n_layers, int64_t vocab_size,
                       int64_t length);

}  // namespace elapse
