// SPDX-License-Identifier: Apache-2.0
#include "tests/model/golden.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "elapse/model/checkpoint.h"
#include "tests/can_open.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> golden_folders(const std::string& root) {
  std::vector<std::string> folders;
  if (!fs::exists(root)) return folders;
  for (const auto& entry : fs::directory_iterator(root)) {
    if (fs::exists(entry.path() / "expected.safetensors")) folders.push_back(entry.path().string());
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

double largest_magnitude(const std::vector<double>& values) {
  double largest = 0;
  for (double v : values) largest = std::max(largest, std::abs(v));
  return largest;
}

// A backend of another memory computes whole models in float alone, and may find nothing here to
// run on.
bool runs(const Backend& backend, DType dtype) {
  if (backend.host_memory) return backend.kernels(dtype) != nullptr;
  if (dtype != DType::f32) return false;
  return can_open(std::string(backend.name));
}

}  // namespace

std::vector<GoldenCase> golden_cases(const std::string& root) {
  std::vector<GoldenCase> cases;
  for (const std::string& folder : golden_folders(root)) {
    for (const Backend* backend : backends()) {
      for (DType dtype : {DType::f64, DType::f32}) {
        if (!runs(*backend, dtype)) continue;
        cases.push_back({folder, std::string(backend->name), dtype});
      }
    }
  }
  return cases;
}

std::string name_of(const GoldenCase& golden) {
  std::string name = fmt::format("{}_{}_{}", fs::path(golden.folder).filename().string(),
                                 golden.device, name_of(golden.dtype));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

void PrintTo(const GoldenCase& golden, std::ostream* out) { *out << name_of(golden); }

std::vector<double> numbers(Device& device, const Tensor& t) {
  const Tensor host = to_host(device, t);
  if (t.dtype() == DType::f64) return {host.data<double>(), host.data<double>() + t.numel()};
  return {host.data<float>(), host.data<float>() + t.numel()};
}

std::vector<int64_t> integers(const Tensor& host) {
  return {host.data<int64_t>(), host.data<int64_t>() + host.numel()};
}

ScopedEnvironment::ScopedEnvironment(const char* name, const char* value) : name_(name) {
  const char* before = std::getenv(name);
  was_set_ = before != nullptr;
  if (was_set_) before_ = before;
  ::setenv(name, value, 1);
}

ScopedEnvironment::~ScopedEnvironment() {
  if (was_set_) {
    ::setenv(name_, before_.c_str(), 1);
  } else {
    ::unsetenv(name_);
  }
}

Golden::Golden(const GoldenCase& golden)
    : device_(golden.device, 2),
      dtype_(golden.dtype),
      model_(load_model(device_, golden.folder, golden.dtype)),
      expected_(open_safetensors(golden.folder + "/expected.safetensors")) {}

std::vector<std::string> Golden::expected_after(const std::string& start) const {
  std::vector<std::string> names;
  for (const NamedTensor& t : expected_.tensors()) {
    if (t.name.starts_with(start)) names.push_back(t.name.substr(start.size()));
  }
  return names;
}

void Golden::expect_near(const std::string& name, const Tensor& found, double tolerance) {
  const Tensor& tensor = expected_.at(name);
  ASSERT_TRUE(found.is_contiguous()) << name;
  const std::vector<double> wanted = numbers(device_, tensor), got = numbers(device_, found);
  ASSERT_EQ(got.size(), wanted.size()) << name;
  ASSERT_EQ(found.dim(-1), tensor.dim(-1)) << name;
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(got[i] - wanted[i]);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  // Of a bias that softmax takes away the gradient is 0 but for rounding.
  constexpr double kNothing = 1e-12, kLeast = 1e-2;
  const double largest = largest_magnitude(wanted);
  const bool vanishes = largest < kNothing && name.find("grad.") != name.npos;
  EXPECT_LE(worst, tolerance * (vanishes ? kLeast : largest)) << name;
}

std::vector<int64_t> Golden::lengths(const std::string& prefix) const {
  const Tensor& ids = expected_.at(prefix + "input_ids");
  if (ids.shape().rank() == 1) return integers(expected_.at(prefix + "lengths"));
  return std::vector<int64_t>(static_cast<size_t>(ids.dim(0)), ids.dim(1));
}

Batch Golden::batch(const std::string& prefix, const std::vector<int64_t>& starts,
                    const std::vector<int64_t>& ends) {
  const Tensor& ids = expected_.at(prefix + "input_ids");
  return {device_.upload(integers(ids), {ids.numel()}),
          make_sequences(device_, lengths(prefix), starts, ends),
          {}};
}

Tensor Golden::targets(const std::string& prefix) {
  std::vector<int64_t> next = integers(expected_.at(prefix + "input_ids"));
  next.erase(next.begin());
  next.push_back(0);
  int64_t end = 0;
  for (int64_t length : lengths(prefix)) {
    end += length;
    next[static_cast<size_t>(end - 1)] = kIgnoredTarget;
  }
  return device_.upload(next, {end});
}

void Golden::fill_slot(State& state, int64_t slot, const std::string& prefix, int64_t row) {
  for (size_t l = 0; l < state.layers().size(); ++l) {
    for (const StatePart& part : state.layers()[l].parts) {
      const Tensor& all = expected_.at(fmt::format("{}layers.{}.{}", prefix, l, part.name));
      const std::vector<double> values = numbers(device_, all.rows(row, row + 1));
      const Tensor into = part.pool.value().rows(slot, slot + 1);
      const Tensor from =
          dtype_ == DType::f64
              ? device_.upload(values, into.shape())
              : device_.upload(std::vector<float>(values.begin(), values.end()), into.shape());
      copy(device_, {from, into});
    }
  }
}

}  // namespace elapse
