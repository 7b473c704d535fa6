// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/experiments/and_construction.h"
#include "elapse/experiments/and_net.h"
#include "elapse/experiments/progress.h"
#include "elapse/experiments/random_readouts.h"
#include "elapse/report/report.h"
#include "elapse/report/table.h"

namespace elapse {

// Universal AND (Vaintrob, Mendel and Hänni, 2024): the construction and its error law, the same
// read-outs of layers drawn at random, and nets trained to them.
struct UniversalAndSettings {
  struct Construction {
    std::vector<int64_t> d0 = {64, 128, 256, 512};
    std::vector<int64_t> d = {1024, 4096, 16384};
    std::vector<double> p_sqrt_d = {1.28, 1.81, 2.56, 3.62, 5.12};  // the grid of p, times sqrt(d)
    int64_t ones = 3;                                               // inputs on
    int64_t inputs = 512;  // drawn for each size; every pair is read on each of them
    // The best p has the least worst-class error of those that leave at most this share of the
    // pairs without a shared neuron.
    double empty_allowed = 0.01;

    void check() const;  // throws Error naming the field out of its range
  };

  Construction construction;
  ReadoutSettings readouts;
  AndNetSettings net;
  uint64_t seed = 1;
  int64_t seeds = 1;  // everything for each of seed, seed + 1, ...

  void check() const;
};

struct UniversalAndResult {
  struct Cell {
    int64_t d0 = 0, d = 0;
    double p = 0;
    ConstructionErrors errors;
  };
  struct OfSeed {
    uint64_t seed = 0;
    std::vector<Cell> construction;  // by d0, d, p
    std::vector<ReadoutErrors> readouts;
    std::vector<AndNetResult> nets;

    // Null where no p of the grid leaves few enough pairs without a shared neuron.
    const Cell* best(int64_t d0, int64_t d, double empty_allowed) const;
    // Of log(worst-class error) at the best p by log(d): -1/2 by the law. NaN of fewer than 2 d.
    double slope(int64_t d0, double empty_allowed) const;
  };

  std::vector<OfSeed> seeds;
  double construction_seconds = 0, readout_seconds = 0, training_seconds = 0;
  std::string device;
};

UniversalAndResult run_universal_and(Device& device, const UniversalAndSettings& settings,
                                     const OnExperimentProgress& progress);

// With several seeds, medians with the least and the largest.
std::vector<Table> universal_and_tables(const UniversalAndSettings& settings,
                                        const UniversalAndResult& result);
std::string universal_and_json(const UniversalAndSettings& settings,
                               const UniversalAndResult& result);
Report universal_and_report(const UniversalAndSettings& settings, const UniversalAndResult& result);

}  // namespace elapse
