// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "elapse/interpret/runs.h"
#include "elapse/io/named_tensor.h"

namespace elapse {

// The model's points that a pattern means, in the model's order: a name or another tool's for it
// (elapse/points/names.h), "*" standing for any run of characters. Values of (d_inner x d_state) a
// token are meant only where the pattern ends in their name ("layers.*.mixer.h", not "layers.3.*").
// Throws Error for a pattern that means none.
std::vector<std::string> matching_points(const LanguageModel& model, std::string_view pattern);
// What several mean, each point once.
std::vector<std::string> matching_points(const LanguageModel& model,
                                         const std::vector<std::string>& patterns);

// What is kept of the values passing points; `where` counts sequences among all prompts.
struct CacheOptions {
  std::vector<std::string> points = {"*"};  // patterns
  Selection where = {};                     // its sequences must be empty: all prompts are read
  int64_t batch_tokens = 4096;              // of one pass, where a prompt has not more
};

// Values that passed points while a model read prompts: on the host, independent of how the prompts
// were batched. Rows of points that have one for each token are ordered by prompt, then as
// `positions` are; of those that have one for each sequence, by prompt.
struct ActivationCache {
  std::vector<int64_t> lengths;    // of the prompts, in tokens
  std::vector<int64_t> positions;  // of each prompt; empty: all
  std::vector<NamedTensor> values = {};

  const Tensor* find(std::string_view point) const;  // null where there is none
  const Tensor& at(std::string_view point) const;    // Error where there is none
  int64_t bytes() const;
  // The rows of a point that has one for each token.
  int64_t token_rows() const;
  // The row of such a point. Error where that position is not kept.
  int64_t row(int64_t prompt, int64_t position) const;
};

// `edits`, by the number of the batch's first prompt and of the one after its last, are what the
// run is changed by (elapse/interpret/edits.h); the values kept are the edited ones. Throws Error
// for positions that a prompt does not have.
using EditsOfBatch = std::function<std::vector<Edit>(int64_t begin, int64_t end)>;
ActivationCache cache_activations(const LanguageModel& model, const TokenLists& prompts,
                                  const CacheOptions& options, const EditsOfBatch& edits = {});

// Numbers [begin, end) of prompts that are read in one pass, in turn.
std::vector<IndexRange> batches_of(const TokenLists& prompts, int64_t batch_tokens);

// As a safetensors file, each point a tensor of its name.
void save_cache(const std::string& path, const ActivationCache& cache);
// Throws Error for what is no such file. Its values are mapped.
ActivationCache load_cache(const std::string& path);

// How a point's values in one cache differ from those in another.
struct CacheDifference {
  std::string point;
  double largest = 0, mean = 0;  // of |b - a|
  double relative = 0;           // norm of b - a in norms of a
};
// Of the points that both have, in the first's order. Throws Error where there are none, and for
// caches of other prompts' lengths or positions.
std::vector<CacheDifference> difference(const ActivationCache& a, const ActivationCache& b);
// `relative`, row by row, of one point.
std::vector<double> row_differences(const ActivationCache& a, const ActivationCache& b,
                                    std::string_view point);

}  // namespace elapse
