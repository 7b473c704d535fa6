// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/bench/temporary_model.h"

#include <stdlib.h>

#include <bit>
#include <cmath>
#include <vector>

#include "elapse/core/error.h"
#include "elapse/io/file.h"
#include "elapse/io/safetensors.h"

namespace elapse::bench {
namespace {

namespace fs = std::filesystem;

// Numbers that only have to look like weights: of random sign, between bound / 2 and bound.
class QuickWeights {
 public:
  explicit QuickWeights(double bound) : exponent_(std::bit_cast<uint32_t>(power_below(bound))) {}

  uint32_t next() {  // the bits of a float
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    const auto random = static_cast<uint32_t>(state_ >> 32);
    return (random & 0x807FFFFFu) | exponent_;
  }

 private:
  static float power_below(double bound) {
    return std::ldexp(1.0f, static_cast<int>(std::floor(std::log2(bound))) - 1);
  }

  uint32_t exponent_;
  uint64_t state_ = 1;
};

void write_weights(FileWriter& file, const Shape& shape, DType dtype) {
  constexpr int64_t kPiece = int64_t{1} << 16;
  QuickWeights weights(1 / std::sqrt(static_cast<double>(shape[-1])));
  std::vector<uint32_t> wide;
  std::vector<uint16_t> narrow;
  for (int64_t done = 0; done < shape.numel(); done += kPiece) {
    const auto count = static_cast<size_t>(std::min(kPiece, shape.numel() - done));
    wide.resize(count);
    for (uint32_t& bits : wide) bits = weights.next();
    if (dtype == DType::f32) {
      file.write(std::as_bytes(std::span(wide)));
    } else {
      narrow.assign(count, 0);
      for (size_t i = 0; i < count; ++i) narrow[i] = static_cast<uint16_t>(wide[i] >> 16);
      file.write(std::as_bytes(std::span(narrow)));
    }
  }
}

fs::path make_folder() {
  std::string name = (fs::temp_directory_path() / "elapse-bench-XXXXXX").string();
  ELAPSE_CHECK(mkdtemp(name.data()) != nullptr, "{}: cannot make a folder", name);
  return name;
}

}  // namespace

TemporaryModel::TemporaryModel(const ModelConfig& config, DType dtype) : folder_(make_folder()) {
  std::vector<TensorToWrite> tensors;
  config.for_each_parameter([&](const std::string& name, const Shape& shape) {
    tensors.push_back({name, dtype, shape,
                       [shape, dtype](FileWriter& file) { write_weights(file, shape, dtype); }});
  });
  try {
    ModelConfig original = config;
    original.layout = Layout::original;
    write_file_atomically((folder_ / "config.json").string(),
                          [&](FileWriter& file) { file.write(original.json(dtype)); });
    stream_safetensors((folder_ / "model.safetensors").string(), std::move(tensors));
  } catch (...) {
    fs::remove_all(folder_);
    throw;
  }
}

TemporaryModel::~TemporaryModel() {
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

}  // namespace elapse::bench
