// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdlib>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "elapse/io/safetensors.h"
#include "elapse/model/language_model.h"

namespace elapse {

// A folder of a checkpoint and expected.safetensors (tests/fixtures/README.md), and what to run it
// on.
struct GoldenCase {
  std::string folder;
  std::string device;
  DType dtype = DType::f32;
};

// From the repository's root, where tests run.
inline constexpr const char* kFixtures = "tests/fixtures";
inline constexpr const char* kSharedGoldens = "../shared/goldens";  // not everywhere

// Every folder of a checkpoint below `root`, on every device and in every dtype it computes
// in; nothing where there is no such folder.
std::vector<GoldenCase> golden_cases(const std::string& root);
std::string name_of(const GoldenCase& golden);
void PrintTo(const GoldenCase& golden, std::ostream* out);

// The elements of a contiguous tensor as numbers.
std::vector<double> numbers(Device& device, const Tensor& t);
std::vector<int64_t> integers(const Tensor& host);

// Sets an environment variable for a scope.
class ScopedEnvironment {
 public:
  ScopedEnvironment(const char* name, const char* value);
  ~ScopedEnvironment();
  ScopedEnvironment(const ScopedEnvironment&) = delete;
  ScopedEnvironment& operator=(const ScopedEnvironment&) = delete;

 private:
  const char* name_;
  std::string before_;
  bool was_set_;
};

// A checkpoint on one device beside what it must compute.
class Golden {
 public:
  explicit Golden(const GoldenCase& golden);

  Device& device() { return device_; }
  const LanguageModel& model() const { return *model_; }
  const SafeTensors& expected() const { return expected_; }
  // Names of expected tensors that start so, without that start.
  std::vector<std::string> expected_after(const std::string& start) const;

  // Holds `found` to the expected tensor: no element off by more than `tolerance` times the
  // expected one's largest magnitude. Leading axes may be packed differently.
  void expect_near(const std::string& name, const Tensor& found, double tolerance);

  // The batch of "<prefix>input_ids": rows of equal length, or "packed.lengths".
  Batch batch(const std::string& prefix, const std::vector<int64_t>& starts = {},
              const std::vector<int64_t>& ends = {});
  // For each packed token the next one of its sequence; the last has none.
  Tensor targets(const std::string& prefix);

  // Fills a slot of every part of a state with row `row` of "<prefix>layers.<i>.<part>".
  void fill_slot(State& state, int64_t slot, const std::string& prefix, int64_t row);

 private:
  std::vector<int64_t> lengths(const std::string& prefix) const;

  Device device_;
  DType dtype_;
  std::unique_ptr<LanguageModel> model_;
  SafeTensors expected_;
};

}  // namespace elapse
