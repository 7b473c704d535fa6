// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/experiments/comparison.h"

namespace elapse {

// What a token costs: time and memory of sampling one more against the tokens before it, and time
// of reading and of training on a sequence against its length, for models that differ in the mixer
// alone, and so in how far a token sees: WaveNet's depth and Hyena's filter are the mixers' own.
// The weights are random: what is measured does not depend on them.
struct SamplingSettings {
  std::vector<MixerKind> mixers;
  int64_t d_model = 64;
  int64_t n_layers = 4;
  int64_t vocab_size = 256;
  std::vector<int64_t> positions;  // that a token is sampled at, ascending
  std::vector<int64_t> lengths;    // that are read and trained on, ascending
  DType activations = DType::f32;  // what models compute in
  Seeds seeds;

  static SamplingSettings quick();  // up to 2^13 tokens
  static SamplingSettings full();   // up to 2^17
};

// One model's measurements.
struct TokenCosts {
  struct AtPosition {
    int64_t position = 0;
    double seconds = 0;  // of a token: the median of several
    int64_t bytes = 0;   // of the state
  };
  struct OfLength {
    int64_t length = 0;
    double reading = 0;   // seconds: the logits after the last token
    double training = 0;  // seconds: forward and backward of one sequence
  };
  std::vector<AtPosition> sampling;
  std::vector<OfLength> passes;
};

struct SamplingResult {
  struct Model {
    MixerKind mixer = MixerKind::mamba;
    int64_t parameters = 0;
    int64_t reach = 0;              // tokens that one sees, its own included; 0: all before it
    std::vector<TokenCosts> costs;  // (seeds)
  };
  std::vector<Model> models;
  std::string device;
};

// What is measured is kept below `folder`, and not measured again. Throws Error where something
// else was measured there.
SamplingResult run_sampling(Device& device, const SamplingSettings& settings,
                            const std::string& folder, const OnExperimentProgress& progress);

// The exponent p of a figure that grows as x^p, over the upper half of the points.
double growth(const std::vector<double>& x, const std::vector<double>& y);

std::vector<Table> sampling_tables(const SamplingSettings& settings, const SamplingResult& result);
Report sampling_report(const SamplingSettings& settings, const SamplingResult& result);
std::string sampling_json(const SamplingSettings& settings, const SamplingResult& result);

}  // namespace elapse
