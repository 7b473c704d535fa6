// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/interpret/runs.h"

namespace elapse {

// A Mamba layer as attention (Ali, Zimerman and Wolf, 2024), for one sequence read from an empty
// state. For a unit u (a channel of Mamba-1, a head of Mamba-2), source token j and query i:
//   alpha[i][j][u] = sum_n C_i[n] (prod over k = j + 1 .. i of exp(dt_k[u] A[u, n])) dt_j[u] B_j[n]
//   ssm_out_i[e] = sum_{j <= i} alpha[i][j][u(e)] x_j[e] + D[e] x_i[e],   alpha = 0 for j > i
// Rows are made on demand by running products from i backwards, in double: never all (u, i, j).
class HiddenAttention {
 public:
  HiddenAttention(const LanguageModel& model, int64_t layer, const std::vector<int64_t>& tokens);

  // The same from a pass over one sequence, from an empty state, that watched what watch() asks.
  static void watch(Points& points, int64_t layer);
  HiddenAttention(const LanguageModel& model, int64_t layer, const Points& passed);

  int64_t tokens() const { return tokens_; }
  int64_t channels() const { return d_inner_; }
  int64_t states() const { return d_state_; }
  int64_t units() const { return units_; }
  int64_t unit_of(int64_t channel) const { return channel / (d_inner_ / units_); }

  std::vector<double> row(int64_t query) const;  // (query + 1, units)
  // What each source token's channel adds to ssm_out of the query: alpha x; (query + 1, d_inner).
  std::vector<double> contributions(int64_t query) const;
  // Of one channel, apart by the state that carried it: (query + 1, d_state).
  std::vector<double> contributions_by_state(int64_t query, int64_t channel) const;
  std::vector<double> skip(int64_t query) const;  // (d_inner): D x

  // For all queries: (tokens, tokens), zero above the diagonal.
  enum class Reduction : uint8_t { mean, mean_absolute };
  std::vector<double> map(Reduction reduction) const;  // over the units
  std::vector<double> map_of_unit(int64_t unit) const;
  // sum_e slope_i[e] alpha[i][j][e] x_j[e]: what each source token adds along a direction of
  // ssm_out that each query has of its own; `slopes` (tokens, d_inner).
  std::vector<double> map_along(const std::vector<double>& slopes) const;

 private:
  template <class Visit>
  void walk_back(int64_t unit, int64_t query, const std::vector<double>& decays,
                 Visit&& visit) const;
  template <class Visit>
  void for_each_alpha(int64_t unit, Visit&& visit) const;
  template <class Add>
  std::vector<double> sum_over_units(Add&& add) const;
  std::vector<double> decays(int64_t unit) const;
  void check_query(int64_t query) const;

  double dt(int64_t token, int64_t unit) const {
    return dt_[static_cast<size_t>(token * units_ + unit)];
  }
  int64_t BC_at(int64_t token, int64_t unit) const {  // of the unit's row of B and of C
    return (token * groups_ + unit / (units_ / groups_)) * d_state_;
  }

  int64_t tokens_ = 0, d_inner_, d_state_, units_, groups_;
  int threads_;
  std::vector<double> dt_;     // (tokens, units)
  std::vector<double> A_;      // (units, d_state) or (units)
  std::vector<double> B_, C_;  // (tokens, groups, d_state)
  std::vector<double> x_;      // (tokens, d_inner)
  std::vector<double> D_;      // (d_inner) or (units)
};

}  // namespace elapse
