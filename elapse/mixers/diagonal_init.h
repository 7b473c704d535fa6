// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <array>
#include <complex>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace elapse {

// What the diagonal A of S4D starts from (Gu, Gupta, Goel and Re, 2022): approximations of HiPPO,
// and one of real numbers. With N = d_state, for n from 0 on:
//   legs  the eigenvalues of HiPPO-LegS' normal part
//   lin   -1/2 + i pi n
//   inv   -1/2 + i N/pi (N / (2n + 1) - 1)
//   real  -(n + 1)
enum class DiagonalInit : uint8_t { legs, lin, inv, real };
inline constexpr std::array<std::string_view, 4> kDiagonalInitNames = {"legs", "lin", "inv",
                                                                       "real"};
inline std::string_view name_of(DiagonalInit init) {
  return kDiagonalInitNames[static_cast<size_t>(init)];
}
inline std::optional<DiagonalInit> diagonal_init_named(std::string_view name) {
  const auto found = std::find(kDiagonalInitNames.begin(), kDiagonalInitNames.end(), name);
  if (found == kDiagonalInitNames.end()) return std::nullopt;
  return static_cast<DiagonalInit>(found - kDiagonalInitNames.begin());
}
inline bool is_complex(DiagonalInit init) { return init != DiagonalInit::real; }

// How large d_state may be: the legs take d_state^2 operations, which 4096 make a second of.
constexpr int64_t most_states(DiagonalInit init) {
  return init == DiagonalInit::legs ? 4096 : int64_t{1} << 24;
}

// Of a channel of d_state real numbers: d_state / 2 of a complex kind's, with positive imaginary
// parts, each of which stands for its conjugate too; d_state real ones.
std::vector<std::complex<double>> diagonal_values(DiagonalInit init, int64_t d_state);

}  // namespace elapse
