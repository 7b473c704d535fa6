// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <array>

#include "elapse/core/random.h"
#include "elapse/mixers/mixer.h"

namespace elapse {

struct HyenaConfig {
  int64_t d_model = 0;
  int64_t l_max = 0;         // tokens that one sees, its own included; from 2 to kMostLags
  int64_t filter_order = 0;  // channels of the MLP that makes the filter
  int64_t emb_dim = 0;       // numbers that say a lag to it; odd, from 3 on
  double sine_freq = 0;      // that its sines start from: safari's w; above 0, to kMostFreq

  static constexpr int64_t kShortTaps = 3;
  // Far beyond the published 1, 10 and 14, and still a number whose sine float32 knows.
  static constexpr double kMostFreq = 1000;
  // No weight's shape depends on l_max, but tables of l_max emb_dim numbers, filters and states of
  // l_max d_model do: neither may have more than kMostNumbers. The longest that is published,
  // HyenaDNA's of a million tokens and 256 channels, fits.
  static constexpr int64_t kMostLags = int64_t{1} << 20, kMostNumbers = int64_t{1} << 28;
  static constexpr int64_t most_lags(int64_t d_model, int64_t emb_dim) {
    return std::min(kMostLags, kMostNumbers / std::max(d_model, emb_dim));
  }
};

// The Hyena operator of order 2 (Poli, Massaroli, Nguyen, Fu, Dao, Baccus, Bengio, Ermon and Re,
// 2023, arXiv 2302.10866), as HazyResearch/safari has it in src/models/sequence/hyena.py:
//   x0, x1, v = short_filter(in_proj u);  w = v x1
//   y = K * w + filter_fn.bias w;  out = out_proj (y x0)
// short_filter is a causal convolution of each channel with 3 taps and a bias. K * w is another,
// whose l_max taps an MLP makes from the lag t:
//   K[e][t] = mlp(z(t))[e] exp(-|delta_e| t / (l_max - 1))
//   z(t) = (t / (l_max - 1), cos(f_1 a), ..., cos(f_n a), -sin(f_1 a), ..., -sin(f_n a))
// with a = 2 pi t / l_max, n = (emb_dim - 1) / 2 and f evenly from 1e-4 to n - 1; the MLP is three
// linear maps, each followed by sin(freq x) with the same trained freq, and a fourth without bias;
// delta goes evenly from ln(0.01) / 1.5 in the first channel to ln(0.01) / 0.3 in the last. Of that
// code's options: one head, no MLP between, no activation, no `shift`, filters not normalised, z
// and delta not trained.
//
// A token sees the w of the last l_max tokens, its own included, and nothing before them, however
// long sequences are; published models are given none that are longer.
class Hyena final : public Mixer {
 public:
  // Adds its parameters under `prefix`, drawn from `random` in their order as PyTorch starts
  // layers; freq starts at sine_freq, and out_proj is divided by sqrt(n_layers), as Mamba's is.
  // Nothing of filter_fn decays.
  Hyena(Device& device, const HyenaConfig& config, int64_t n_layers, DType dtype,
        const std::string& prefix, Random& random, Parameters& parameters);

  // By Fourier transforms without a state, by sums over the queue with one.
  Var forward(Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
              const PointScope& points) const override;
  // "conv" (slots, 2, 3 d_model), of short_filter, and "queue" (slots, l_max - 1, d_model), the
  // last rows of w, oldest first.
  LayerState make_state(Device& device, int64_t slots, bool needs_grad) const override;
  std::vector<PointInfo> points() const override;

 private:
  struct Linear {
    Var weight;  // (out, in)
    Var bias;    // (out); the last of the filter's has none
  };
  // What the filter is made from; of some lags in some order.
  struct Lags {
    Var features;  // (lags, emb_dim): z
    Var t;         // (1, lags): t / (l_max - 1)
  };

  Lags lags(Device& device, bool furthest_first) const;
  bool filter_is_frozen() const;
  Var filter(Tape& tape, const Lags& lags) const;  // (d_model, lags)
  // K * w, from the state's part "queue" and into it.
  Var long_filtered(Tape& tape, const Var& w, const Sequences& seqs, const LayerState* state,
                    const PointScope& points) const;

  HyenaConfig config_;
  DType dtype_;
  Linear in_proj_, short_filter_, out_proj_;
  Var D_;  // (d_model): filter_fn.bias
  std::array<Linear, 4> mlp_;
  Var freq_;   // (1, filter_order)
  Var delta_;  // (d_model, 1), negative
  Lags nearest_first_, furthest_first_;
  // K of furthest_first_ where its parameters are frozen; else empty, and made in every pass.
  Var kept_filter_;
};

}  // namespace elapse
