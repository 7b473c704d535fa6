// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

namespace elapse {

// A of (K + diag(ridge)) A = Y, by Cholesky in double. Of K only the upper triangle is read. Throws
// Error where the sum is not positive definite.
//
// With K_mn = phi(x_m) . phi(x_n) and ridge_n = lambda / w_n this is weighted ridge regression in
// its dual form: sum_n A_n phi(x_n) is the r that minimises
//   sum_n w_n (r . phi(x_n) - y_n)^2 + lambda |r|^2,
// whose cost depends on the number of examples and not on that of the features.
std::vector<double> solve_ridge(std::vector<double> K,             // (n, n)
                                const std::vector<double>& ridge,  // (n)
                                std::vector<double> Y);            // (n, columns)

}  // namespace elapse
