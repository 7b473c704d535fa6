// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/universal_and.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "elapse/experiments/power_law.h"
#include "elapse/experiments/universal_and_streams.h"

namespace elapse {
namespace {

using Clock = std::chrono::steady_clock;
using Construction = UniversalAndSettings::Construction;
using OfSeed = UniversalAndResult::OfSeed;

constexpr int64_t kLargestD0 = 4096;  // a table of all its pairs is held

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Which seed of how many, before a stage's name.
std::string stage_of(const std::string& name, const UniversalAndSettings& settings, uint64_t seed) {
  return settings.seeds == 1 ? name : fmt::format("seed {}: {}", seed, name);
}

void measure_cells(const UniversalAndSettings& settings, OfSeed& run, int threads,
                   const OnExperimentProgress& progress) {
  const Construction& s = settings.construction;
  const int64_t total = std::ssize(s.d0) * std::ssize(s.d) * std::ssize(s.p_sqrt_d);
  for (const int64_t d0 : s.d0) {
    for (const int64_t d : s.d) {
      for (const double p_sqrt_d : s.p_sqrt_d) {
        const double p = p_sqrt_d / std::sqrt(static_cast<double>(d));
        const int64_t n = std::ssize(run.construction);
        const NeuronSets sets = NeuronSets::bernoulli(
            d0, d, p, run.seed, stream_of(RandomUse::construction_sets, n * kLargestD0), threads);
        Random random(run.seed, stream_of(RandomUse::construction_inputs, n));
        std::vector<OnList> inputs;
        for (int64_t i = 0; i < s.inputs; ++i) inputs.push_back(draw_on(random, d0, s.ones));
        run.construction.push_back({d0, d, p, measure_construction(sets, inputs, threads)});
        progress({stage_of("construction", settings, run.seed), n + 1, total,
                  fmt::format("d0 {}, d {}", d0, d)});
      }
    }
  }
}

void train_nets(Device& device, const UniversalAndSettings& settings, OfSeed& run,
                const OnExperimentProgress& progress) {
  run.nets = train_and_nets(device, settings.net, run.seed,
                            [&](const std::string& net, int64_t step, double loss) {
                              progress({stage_of(net, settings, run.seed), step, settings.net.steps,
                                        fmt::format("loss {:.4f}", loss)});
                            });
}

template <class Part>
double timed(Part&& part) {
  const auto start = Clock::now();
  part();
  return seconds_since(start);
}

}  // namespace

void Construction::check() const {
  ELAPSE_CHECK(ones >= 1, "ones: expected at least 1 input on, found {}", ones);
  ELAPSE_CHECK(inputs >= 2, "inputs: expected at least 2, found {}", inputs);
  ELAPSE_CHECK(empty_allowed >= 0 && empty_allowed <= 1,
               "empty_allowed: expected a share from 0 to 1, found {}", empty_allowed);
  ELAPSE_CHECK(!d0.empty() && !d.empty() && !p_sqrt_d.empty(),
               "d0, d and p_sqrt_d: expected a value of each, found {}, {} and {}", d0.size(),
               d.size(), p_sqrt_d.size());
  for (const int64_t size : d0) {
    ELAPSE_CHECK(size >= std::max<int64_t>(2, ones) && size <= kLargestD0,
                 "d0: expected {} to {} inputs, found {}", std::max<int64_t>(2, ones), kLargestD0,
                 size);
  }
  for (const int64_t size : d) {
    ELAPSE_CHECK(size >= 1 && size <= kLargestWidth, "d: expected 1 to {} neurons, found {}",
                 kLargestWidth, size);
    for (const double p : p_sqrt_d) {
      const double largest = std::sqrt(static_cast<double>(size));
      ELAPSE_CHECK(p > 0 && p <= largest,
                   "p_sqrt_d: expected positive and at most {:.4g}, where p is 1 for d = {}, "
                   "found {}",
                   largest, size, p);
    }
  }
}

void UniversalAndSettings::check() const {
  construction.check();
  readouts.check();
  net.check();
  ELAPSE_CHECK(seeds >= 1, "seeds: expected at least 1, found {}", seeds);
}

const UniversalAndResult::Cell* OfSeed::best(int64_t d0, int64_t d, double empty_allowed) const {
  const Cell* found = nullptr;
  for (const Cell& cell : construction) {
    if (cell.d0 != d0 || cell.d != d || cell.errors.empty_share() > empty_allowed) continue;
    if (!found || cell.errors.worst_class() < found->errors.worst_class()) found = &cell;
  }
  return found;
}

double OfSeed::slope(int64_t d0, double empty_allowed) const {
  std::vector<double> d, errors;
  int64_t last = 0;
  for (const Cell& cell : construction) {
    const Cell* const found = best(d0, cell.d, empty_allowed);
    if (cell.d0 != d0 || cell.d == last || !found) continue;
    last = cell.d;
    d.push_back(static_cast<double>(cell.d));
    errors.push_back(found->errors.worst_class());
  }
  return fitted(d, errors).exponent;
}

UniversalAndResult run_universal_and(Device& device, const UniversalAndSettings& settings,
                                     const OnExperimentProgress& progress) {
  settings.check();
  UniversalAndResult result;
  result.device =
      fmt::format("{} ({}, {} threads)", device.name(), device.describe(), device.threads());
  for (int64_t n = 0; n < settings.seeds; ++n) {
    OfSeed& run = result.seeds.emplace_back();
    run.seed = settings.seed + static_cast<uint64_t>(n);
    result.construction_seconds +=
        timed([&] { measure_cells(settings, run, device.threads(), progress); });
    result.readout_seconds += timed([&] {
      run.readouts =
          measure_readouts(device, settings.readouts, run.seed, [&](int64_t done, int64_t total) {
            progress({stage_of("read-outs of random layers", settings, run.seed), done, total, ""});
          });
    });
    result.training_seconds += timed([&] { train_nets(device, settings, run, progress); });
  }
  return result;
}

}  // namespace elapse
