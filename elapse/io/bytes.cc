// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/bytes.h"

#include <algorithm>

namespace elapse {

std::string_view ByteReader::text(size_t count) { return as_text(take(count)); }

std::string_view ByteReader::line() {
  const auto rest = as_text(bytes_.subspan(position_));
  const size_t length = rest.find('\n');
  ELAPSE_CHECK(length != std::string_view::npos, "{}: cut short: no end to the line at byte {}",
               what_, position_);
  position_ += length + 1;
  return rest.substr(0, length);
}

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

SharedBytes copy_of(std::span<const std::byte> bytes) {
  Pool pool(host_memory());
  auto memory = pool.allocate(static_cast<int64_t>(bytes.size()));
  auto* data = static_cast<std::byte*>(memory.get());
  std::copy(bytes.begin(), bytes.end(), data);
  return {{data, bytes.size()}, std::move(memory)};
}

SharedBytes aligned(SharedBytes bytes, size_t alignment) {
  const auto address = reinterpret_cast<uintptr_t>(bytes.bytes.data());
  return address % alignment == 0 ? bytes : copy_of(bytes.bytes);
}

Tensor wrap(const SharedBytes& bytes, DType dtype, const Shape& shape) {
  assert(shape.numel() * size_of(dtype) <= static_cast<int64_t>(bytes.bytes.size()));
  return Tensor::wrap(const_cast<std::byte*>(bytes.bytes.data()), dtype, shape, bytes.owner);
}

Shape checked_shape(std::span<const int64_t> sizes, DType dtype,
                    const std::function<std::string()>& what) {
  ELAPSE_CHECK(sizes.size() <= static_cast<size_t>(Shape::kMaxRank),
               "{}: expected at most {} dimensions, found {}", what(), Shape::kMaxRank,
               sizes.size());
  Shape shape;
  int64_t bytes = size_of(dtype);
  for (const int64_t size : sizes) {
    ELAPSE_CHECK(size >= 0, "{}: expected sizes of at least 0, found {}", what(), size);
    // Strides skip over sizes of 0, so these count as 1.
    ELAPSE_CHECK(!__builtin_mul_overflow(bytes, std::max<int64_t>(size, 1), &bytes),
                 "{}: a tensor of these sizes does not fit 63 bits", what());
    shape.push_back(size);
  }
  return shape;
}

}  // namespace elapse
