// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/states.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "elapse/core/error.h"
#include "elapse/interpret/runs.h"
#include "elapse/ops/pointwise.h"

namespace elapse {
namespace {

void check_alike(const State& a, const State& b) {
  ELAPSE_CHECK(a.layers().size() == b.layers().size(),
               "expected states of as many layers, found {} and {}", a.layers().size(),
               b.layers().size());
  for (size_t l = 0; l < a.layers().size(); ++l) {
    for (const StatePart& part : a.layers()[l].parts) {
      const Shape& x = part.pool.value().shape();
      const Shape& y = b.layers()[l].part(part.name).value().shape();
      ELAPSE_CHECK(x == y, "layer {}, \"{}\": expected states of one shape, found {} and {}", l,
                   part.name, x.str(), y.str());
    }
  }
}

// Of one slot, some channels: "h" has them on its first axis, other parts on their last.
Tensor channels_of(const Tensor& pool, const std::string& part, int64_t slot, int64_t begin,
                   int64_t end) {
  const Tensor one = pool.rows(slot, slot + 1).reshape({pool.dim(1), pool.dim(2)});
  return part == "h" ? one.rows(begin, end) : one.columns(begin, end);
}

int64_t channel_count(const Tensor& pool, const std::string& part) {
  return pool.dim(part == "h" ? 1 : 2);
}

// The places where two parts differ most, at most `count` of them.
std::vector<StateEntry> largest_differences(const StatePart& part, const std::vector<double>& x,
                                            const std::vector<double>& y, int64_t count) {
  std::vector<size_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  const auto end = order.begin() + std::min<int64_t>(count, std::ssize(order));
  std::partial_sort(order.begin(), end, order.end(), [&](size_t i, size_t j) {
    const double a = std::abs(y[i] - x[i]), b = std::abs(y[j] - x[j]);
    return a != b ? a > b : i < j;
  });
  std::vector<StateEntry> entries;
  const int64_t width = part.pool.value().dim(2);
  for (auto place = order.begin(); place != end; ++place) {
    const int64_t row = static_cast<int64_t>(*place) / width;
    const int64_t column = static_cast<int64_t>(*place) % width;
    const bool channels_first = part.name == "h";
    entries.push_back(
        {channels_first ? row : column, channels_first ? column : row, x[*place], y[*place]});
  }
  return entries;
}

double norm(const std::vector<double>& values) {
  return std::sqrt(std::inner_product(values.begin(), values.end(), values.begin(), 0.0));
}

}  // namespace

std::vector<StateDifference> difference(Device& device, const State& a, const State& b,
                                        int64_t entries) {
  check_alike(a, b);
  ELAPSE_CHECK(a.slots() == 1, "expected states of one sequence, found {}", a.slots());
  std::vector<StateDifference> list;
  for (size_t l = 0; l < a.layers().size(); ++l) {
    for (const StatePart& part : a.layers()[l].parts) {
      const std::vector<double> x = host_values(device, part.pool.value());
      const std::vector<double> y = host_values(device, b.layers()[l].part(part.name).value());
      std::vector<double> change = y;
      for (size_t i = 0; i < x.size(); ++i) change[i] -= x[i];
      list.push_back({static_cast<int64_t>(l), part.name, norm(x), norm(y), norm(change),
                      largest_differences(part, x, y, entries)});
    }
  }
  return list;
}

State interpolate(Device& device, const State& a, const State& b, double share) {
  ELAPSE_CHECK(std::isfinite(share), "share: expected a finite number, found {}", share);
  check_alike(a, b);
  State result = a.fork();
  for (size_t l = 0; l < a.layers().size(); ++l) {
    for (const StatePart& part : result.layers()[l].parts) {
      const Tensor& to = part.pool.value();
      const Tensor& other = b.layers()[l].part(part.name).value();
      const Tensor weighed = device.empty(to.dtype(), to.shape());
      const auto add_times = [&](const Tensor& x, double factor, bool first) {
        const Tensor weight = device.empty(to.dtype(), {1, 1, 1});
        fill(device, {weight, factor});
        binary(device, {BinaryFunction::mul, x, weight, weighed});
        if (first) copy(device, {weighed, to});
        else binary(device, {BinaryFunction::add, to, weighed, to});
      };
      add_times(a.layers()[l].part(part.name).value(), 1 - share, true);
      add_times(other, share, false);
    }
  }
  return result;
}

void transplant(Device& device, const State& from, State& into, const Transplant& what) {
  check_alike(from, into);
  for (const int64_t layer : what.layers) {
    ELAPSE_CHECK(layer >= 0 && layer < std::ssize(into.layers()), "layer {}: the state has {}",
                 layer, into.layers().size());
    bool found = false;
    for (const StatePart& part : into.layers()[static_cast<size_t>(layer)].parts) {
      if (!what.part.empty() && part.name != what.part) continue;
      found = true;
      const Tensor& to = part.pool.value();
      const Tensor& source = from.layers()[static_cast<size_t>(layer)].part(part.name).value();
      const int64_t channels = channel_count(to, part.name);
      const int64_t end = what.channel_end < 0 ? channels : what.channel_end;
      ELAPSE_CHECK(what.channel_begin >= 0 && what.channel_begin < end && end <= channels,
                   "layer {}, \"{}\": channels {} to {} are chosen, but it has {}", layer,
                   part.name, what.channel_begin, end - 1, channels);
      for (int64_t slot = 0; slot < into.slots(); ++slot) {
        copy(device, {channels_of(source, part.name, slot, what.channel_begin, end),
                      channels_of(to, part.name, slot, what.channel_begin, end)});
      }
    }
    ELAPSE_CHECK(found, "layer {} has no part \"{}\"", layer, what.part);
  }
}

}  // namespace elapse
