// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>

#include "elapse/experiments/spread.h"
#include "elapse/experiments/universal_and.h"

namespace elapse {

// A figure of one seed, over the seeds of a result. NaN: not there.
using FigureOfSeed = std::function<double(const UniversalAndResult::OfSeed&)>;
Spread spread_of(const UniversalAndResult& result, const FigureOfSeed& figure);

// Mean over the three classes, each counting as much as another.
double balanced_mean_square(const ClassErrors& errors);
double balanced_within(const ClassErrors& errors);

// The errors that remain to the best read-out that is linear in x, which minimises the classes'
// mean squares added up and reads AND as -1/6, 1/3, 5/6 with none, one, both on, and XOR as 1/3
// whatever comes.
std::array<double, kPairClasses> linear_read_errors(PairTarget target);

}  // namespace elapse
