// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/toy_geometry.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

namespace elapse {
namespace {

constexpr double kTolerance = 10;  // degrees

bool near(double angle, double expected) { return std::abs(angle - expected) <= kTolerance; }

bool is_pair_and_one(const std::vector<PlaneVector>& three) {
  const auto count = [&](double angle) {
    return std::count_if(three.begin(), three.end(),
                         [angle](const PlaneVector& v) { return near(v.to_next, angle); });
  };
  return count(180) == 1 && count(90) == 2;
}

}  // namespace

FeatureGeometry geometry_of(const std::vector<double>& weights, int64_t hidden, int64_t features) {
  FeatureGeometry g;
  const auto n = static_cast<size_t>(features);
  g.gram.assign(n * n, 0);
  for (size_t k = 0; k < static_cast<size_t>(hidden); ++k) {
    const double* row = weights.data() + k * n;
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) g.gram[i * n + j] += row[i] * row[j];
    }
  }
  for (size_t i = 0; i < n; ++i) {
    const double own = g.gram[i * n + i];
    double squares = 0;  // of the dot products with the others
    for (size_t j = 0; j < n; ++j) squares += j == i ? 0 : g.gram[i * n + j] * g.gram[i * n + j];
    g.norm.push_back(std::sqrt(own));
    g.superposition.push_back(own > 0 ? squares / own : 0);
    g.dimensionality.push_back(own > 0 ? own / (own + squares / own) : 0);
    g.frobenius_squared += own;
  }
  g.dimensions_per_feature = static_cast<double>(hidden) / g.frobenius_squared;
  return g;
}

int64_t represented(const FeatureGeometry& geometry) {
  return std::count_if(geometry.norm.begin(), geometry.norm.end(),
                       [](double norm) { return norm >= kRepresented; });
}

std::vector<PlaneVector> around_the_circle(const std::vector<double>& weights, int64_t features) {
  std::vector<PlaneVector> vectors;
  std::vector<double> angles;
  for (int64_t i = 0; i < features; ++i) {
    const double x = weights[static_cast<size_t>(i)],
                 y = weights[static_cast<size_t>(features + i)];
    if (std::hypot(x, y) < kRepresented) continue;
    vectors.push_back({i, std::hypot(x, y), std::atan2(y, x) * 180 / std::numbers::pi});
  }
  // `to_next` holds the angle itself until they are in order.
  std::sort(vectors.begin(), vectors.end(),
            [](const PlaneVector& a, const PlaneVector& b) { return a.to_next < b.to_next; });
  const double first = vectors.empty() ? 0 : vectors.front().to_next;
  for (size_t i = 0; i < vectors.size(); ++i) {
    const double next = i + 1 < vectors.size() ? vectors[i + 1].to_next : first + 360;
    vectors[i].to_next = next - vectors[i].to_next;
  }
  return vectors;
}

std::string shape_of(const std::vector<PlaneVector>& v) {
  constexpr std::array kRegular = {"triangle", "2 antipodal pairs", "pentagon"};
  if (v.empty()) return "nothing";
  if (v.size() == 1) return "one vector";
  if (v.size() == 2) {
    const double angle = std::min(v[0].to_next, v[1].to_next);
    return near(angle, 90) ? "orthogonal pair" : near(angle, 180) ? "antipodal pair" : "irregular";
  }
  if (v.size() == 3 && is_pair_and_one(v)) return "antipodal pair and one across";
  const bool regular = std::all_of(v.begin(), v.end(), [&](const PlaneVector& p) {
    return near(p.to_next, 360 / static_cast<double>(v.size()));
  });
  if (!regular || v.size() - 3 >= kRegular.size()) return "irregular";
  return kRegular[v.size() - 3];
}

}  // namespace elapse
