// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/cache.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <numeric>

#include "elapse/io/messages.h"
#include "elapse/io/safetensors.h"
#include "elapse/model/checkpoint.h"
#include "elapse/points/names.h"

namespace elapse {
namespace {

using Axis = PointInfo::Axis;

constexpr std::string_view kOfStates[] = {"decay", "B_bar", "write", "h", "readout_h"};
constexpr int64_t kMostTokens = int64_t{1} << 40;  // of a prompt in a file: sums do not overflow
constexpr const char* kLengths = "lengths";
constexpr const char* kPositions = "positions";

bool matches(std::string_view pattern, std::string_view name) {
  const size_t star = pattern.find('*');
  if (star == pattern.npos) return pattern == name;
  if (!name.starts_with(pattern.substr(0, star))) return false;
  pattern.remove_prefix(star + 1);
  for (size_t i = star; i <= name.size(); ++i) {
    if (matches(pattern, name.substr(i))) return true;
  }
  return false;
}

// "4,7": as a file's metadata has whole numbers.
std::string text_of(const std::vector<int64_t>& numbers) {
  return fmt::format("{}", fmt::join(numbers, ","));
}

std::string_view last_part(std::string_view name) { return name.substr(name.rfind('.') + 1); }

// Of (d_inner, d_state) for each token.
bool is_of_states(const LanguageModel& model, std::string_view name) {
  if (!is_mamba(model.config().mixer)) return false;
  return std::find(std::begin(kOfStates), std::end(kOfStates), last_part(name)) !=
         std::end(kOfStates);
}

const PointInfo& info_of(const LanguageModel& model, const std::string& name) {
  return *std::find_if(model.points().begin(), model.points().end(),
                       [&](const PointInfo& p) { return p.name == name; });
}

void check_positions(const TokenLists& prompts, const std::vector<int64_t>& positions) {
  for (const int64_t p : positions) {
    for (size_t i = 0; i < prompts.size(); ++i) {
      ELAPSE_CHECK(p >= 0 && p < std::ssize(prompts[i]),
                   "prompt {}: expected positions of 0 to {}, found {}", i, prompts[i].size() - 1,
                   p);
    }
  }
}

// The batches' values of one point, row after row.
Tensor joined(const std::vector<Tensor>& parts) {
  if (parts.size() == 1) return parts.front();
  Shape shape = parts.front().shape();
  int64_t rows = 0, bytes = 0;
  for (const Tensor& part : parts) {
    rows += part.dim(0);
    bytes += part.bytes();
  }
  shape.set(0, rows);
  const auto memory = std::make_shared<std::vector<char>>(static_cast<size_t>(bytes));
  char* to = memory->data();
  for (const Tensor& part : parts) {
    std::memcpy(to, part.raw(), static_cast<size_t>(part.bytes()));
    to += part.bytes();
  }
  return Tensor::wrap(memory->data(), parts.front().dtype(), shape, memory);
}

// All of a point's rows are told apart by the prompts alone.
Selection selection_of(const PointInfo& info, const CacheOptions& options) {
  Selection where = options.where;
  if (info.axis == Axis::sequence || info.axis == Axis::none) where.positions.clear();
  return where;
}

}  // namespace

std::vector<std::string> matching_points(const LanguageModel& model, std::string_view pattern) {
  const auto [own, position] = canonical_point(pattern);
  ELAPSE_CHECK(!position, "point {}: say the token in the positions, not in the name",
               quote(pattern));
  std::vector<std::string> names;
  for (const PointInfo& point : model.points()) {
    const bool too_large =
        is_of_states(model, point.name) && last_part(own) != last_part(point.name);
    if (!too_large && matches(own, point.name)) names.push_back(point.name);
  }
  ELAPSE_CHECK(!names.empty(), "the model has no point {} (it has {}, from {} to {})",
               quote(pattern), model.points().size(), quote(model.points().front().name),
               quote(model.points().back().name));
  return names;
}

std::vector<std::string> matching_points(const LanguageModel& model,
                                         const std::vector<std::string>& patterns) {
  std::vector<std::string> names;
  for (const std::string& pattern : patterns) {
    for (std::string& name : matching_points(model, pattern)) {
      const bool known = std::find(names.begin(), names.end(), name) != names.end();
      if (!known) names.push_back(std::move(name));
    }
  }
  return names;
}

const Tensor* ActivationCache::find(std::string_view point) const {
  const auto found = std::find_if(values.begin(), values.end(),
                                  [&](const NamedTensor& t) { return t.name == point; });
  return found == values.end() ? nullptr : &found->tensor;
}

const Tensor& ActivationCache::at(std::string_view point) const {
  const Tensor* found = find(canonical_point(point).name);
  ELAPSE_CHECK(found != nullptr, "point {} is not in the cache", quote(point));
  return *found;
}

int64_t ActivationCache::bytes() const {
  int64_t sum = 0;
  for (const NamedTensor& t : values) sum += t.tensor.bytes();
  return sum;
}

int64_t ActivationCache::token_rows() const {
  if (!positions.empty()) return std::ssize(lengths) * std::ssize(positions);
  return std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
}

int64_t ActivationCache::row(int64_t prompt, int64_t position) const {
  const auto p = static_cast<size_t>(prompt);
  ELAPSE_CHECK(position >= 0 && position < lengths[p],
               "the cache has no position {} of prompt {}, which is of {} tokens", position, prompt,
               lengths[p]);
  if (positions.empty()) {
    return std::accumulate(lengths.begin(), lengths.begin() + prompt, position);
  }
  const auto found = std::find(positions.begin(), positions.end(), position);
  ELAPSE_CHECK(found != positions.end(), "the cache has no position {}, but {} of each prompt",
               position, text_of(positions));
  return prompt * std::ssize(positions) + (found - positions.begin());
}

std::vector<IndexRange> batches_of(const TokenLists& prompts, int64_t batch_tokens) {
  std::vector<IndexRange> batches;
  int64_t tokens = 0;
  for (int64_t i = 0; i < std::ssize(prompts); ++i) {
    const int64_t more = std::ssize(prompts[static_cast<size_t>(i)]);
    if (batches.empty() || tokens + more > batch_tokens) {
      batches.push_back({i, i});
      tokens = 0;
    }
    batches.back().end = i + 1;
    tokens += more;
  }
  return batches;
}

ActivationCache cache_activations(const LanguageModel& model, const TokenLists& prompts,
                                  const CacheOptions& options, const EditsOfBatch& edits) {
  ELAPSE_CHECK(!prompts.empty(), "expected at least one prompt, found none");
  ELAPSE_CHECK(options.where.sequences.empty(),
               "a cache is of all prompts: no sequences of it can be selected");
  check_positions(prompts, options.where.positions);
  const std::vector<std::string> names = matching_points(model, options.points);
  ActivationCache cache = {.lengths = {}, .positions = options.where.positions};
  for (const auto& prompt : prompts) cache.lengths.push_back(std::ssize(prompt));

  std::vector<std::vector<Tensor>> parts(names.size());
  for (const IndexRange& range : batches_of(prompts, options.batch_tokens)) {
    Points points;
    for (const std::string& name : names) {
      points.watch(name, selection_of(info_of(model, name), options));
    }
    if (edits) {
      for (Edit& edit : edits(range.begin, range.end)) points.edit(std::move(edit));
    }
    Batch batch =
        pack(model, TokenLists(prompts.begin() + range.begin, prompts.begin() + range.end));
    const bool all_logits = std::find(names.begin(), names.end(), "logits") != names.end();
    if (all_logits) batch.logit_rows = {};
    Tape tape(model.device(), false);
    model.forward(tape, batch, nullptr, &points);
    for (size_t i = 0; i < names.size(); ++i) {
      const bool once = info_of(model, names[i]).axis == Axis::none;
      if (once && !parts[i].empty()) continue;
      parts[i].push_back(to_host(model.device(), points.value(names[i])));
    }
  }
  for (size_t i = 0; i < names.size(); ++i) cache.values.push_back({names[i], joined(parts[i])});
  return cache;
}

namespace {

std::vector<int64_t> numbers_of(const SafeTensors& file, const std::string& path, const char* key) {
  const auto found = file.metadata().find(key);
  ELAPSE_CHECK(found != file.metadata().end(),
               "{}: expected \"{}\" in its metadata, as in a cache of activations, found none",
               path, key);
  std::vector<int64_t> numbers;
  const char* at = found->second.data();
  const char* end = at + found->second.size();
  while (at < end) {
    int64_t number = 0;
    const auto [next, error] = std::from_chars(at, end, number);
    const bool fits = error == std::errc() && number >= 0 && number <= kMostTokens;
    ELAPSE_CHECK(fits && (next == end || *next == ','),
                 "{}: \"{}\": expected whole numbers with commas between, found {}", path, key,
                 quote(found->second));
    numbers.push_back(number);
    at = next == end ? end : next + 1;
  }
  return numbers;
}

}  // namespace

void save_cache(const std::string& path, const ActivationCache& cache) {
  write_safetensors(path, cache.values,
                    {{"format", "pt"},
                     {kLengths, text_of(cache.lengths)},
                     {kPositions, text_of(cache.positions)}});
}

ActivationCache load_cache(const std::string& path) {
  const SafeTensors file = open_safetensors(path);
  ActivationCache cache = {.lengths = numbers_of(file, path, kLengths),
                           .positions = numbers_of(file, path, kPositions),
                           .values = file.tensors()};
  ELAPSE_CHECK(!cache.lengths.empty(), "{}: \"{}\": expected a prompt, found none", path, kLengths);
  for (const NamedTensor& t : cache.values) {
    const DType dtype = t.tensor.dtype();
    ELAPSE_CHECK((dtype == DType::f32 || dtype == DType::f64) && t.tensor.shape().rank() >= 1,
                 "{}: {}: expected rows of f32 or f64, found {} {}", path, t.name, name_of(dtype),
                 t.tensor.shape().str());
  }
  return cache;
}

namespace {

double element(const Tensor& t, int64_t i) {
  return t.dtype() == DType::f64 ? t.data<double>()[i] : static_cast<double>(t.data<float>()[i]);
}

// Sums over elements [begin, end) of two tensors of one shape.
struct Sums {
  double squares = 0, squares_of_difference = 0, sizes = 0, largest = 0;

  Sums(const Tensor& a, const Tensor& b, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const double x = element(a, i), d = element(b, i) - x;
      squares += x * x;
      squares_of_difference += d * d;
      sizes += std::abs(d);
      largest = std::max(largest, std::abs(d));
    }
  }
  // Where `a` is zero: 0 if `b` is too, else infinite.
  double relative() const {
    return squares_of_difference == 0 ? 0 : std::sqrt(squares_of_difference / squares);
  }
};

void check_alike(const ActivationCache& a, const ActivationCache& b) {
  ELAPSE_CHECK(a.lengths == b.lengths,
               "expected caches of prompts of the same lengths, found {} and {} tokens",
               text_of(a.lengths), text_of(b.lengths));
  ELAPSE_CHECK(a.positions == b.positions, "expected caches of the same positions, found {} and {}",
               a.positions.empty() ? "all" : text_of(a.positions),
               b.positions.empty() ? "all" : text_of(b.positions));
}

void check_shapes(const std::string& point, const Tensor& a, const Tensor& b) {
  ELAPSE_CHECK(a.shape() == b.shape(),
               "point \"{}\": expected values of one shape, found {} and {}", point,
               a.shape().str(), b.shape().str());
}

}  // namespace

Summary summary_of(const Tensor& values) {
  Summary summary;
  for (int64_t i = 0; i < values.numel(); ++i) {
    summary.mean += element(values, i);
    summary.largest = std::max(summary.largest, std::abs(element(values, i)));
  }
  summary.mean /= static_cast<double>(std::max<int64_t>(1, values.numel()));
  return summary;
}

std::vector<CacheDifference> difference(const ActivationCache& a, const ActivationCache& b) {
  check_alike(a, b);
  std::vector<CacheDifference> list;
  for (const NamedTensor& mine : a.values) {
    const Tensor* other = b.find(mine.name);
    if (other == nullptr) continue;
    check_shapes(mine.name, mine.tensor, *other);
    const int64_t count = mine.tensor.numel();
    const Sums sums(mine.tensor, *other, 0, count);
    list.push_back({mine.name, sums.largest,
                    sums.sizes / static_cast<double>(std::max<int64_t>(1, count)),
                    sums.relative()});
  }
  ELAPSE_CHECK(!list.empty(), "the two caches have no point in common");
  return list;
}

std::vector<double> row_differences(const ActivationCache& a, const ActivationCache& b,
                                    std::string_view point) {
  check_alike(a, b);
  const Tensor &x = a.at(point), &y = b.at(point);
  check_shapes(std::string(point), x, y);
  const int64_t rows = x.dim(0), width = rows == 0 ? 0 : x.numel() / rows;
  std::vector<double> list;
  for (int64_t r = 0; r < rows; ++r) {
    list.push_back(Sums(x, y, r * width, (r + 1) * width).relative());
  }
  return list;
}

}  // namespace elapse
