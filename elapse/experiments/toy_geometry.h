// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace elapse {

// How features lie in the hidden space (Elhage et al., 2022): feature i is the column W_i of
// W (hidden, features). A hat is the vector over its length; a feature whose vector is 0 shares
// with nobody and has no dimension.
struct FeatureGeometry {
  std::vector<double> gram;           // (features, features): W^T W
  std::vector<double> norm;           // (features): |W_i|
  std::vector<double> superposition;  // (features): sum over j != i of (hat W_i . W_j)^2
  // (features): D_i = |W_i|^2 / sum over j of (hat W_i . W_j)^2
  std::vector<double> dimensionality;
  double frobenius_squared = 0;       // |W|_F^2, about how many features have a vector of length 1
  double dimensions_per_feature = 0;  // hidden / |W|_F^2
};
FeatureGeometry geometry_of(const std::vector<double>& weights, int64_t hidden, int64_t features);

// A feature counts as represented from this norm on.
inline constexpr double kRepresented = 0.5;
int64_t represented(const FeatureGeometry& geometry);

// The represented features of a plane, W (2, features), around the circle.
struct PlaneVector {
  int64_t feature;
  double norm;
  double to_next;  // degrees to the next one, counterclockwise; 360 for a lone one
};
std::vector<PlaneVector> around_the_circle(const std::vector<double>& weights, int64_t features);

// The name of what they form, where no angle is off by more than 10 degrees: "nothing", "one
// vector", "orthogonal pair", "antipodal pair", "antipodal pair and one across", "2 antipodal
// pairs", "triangle", "pentagon"; otherwise "irregular".
std::string shape_of(const std::vector<PlaneVector>& vectors);

}  // namespace elapse
