// SPDX-License-Identifier: Apache-2.0
// What the parsers of binary formats share: all of it for bytes that nobody vouches for.
#pragma once
#include <bit>
#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "elapse/core/error.h"
#include "elapse/core/tensor.h"

namespace elapse {

static_assert(std::endian::native == std::endian::little, "files are read as they lie in memory");

// Reads little-endian values off `bytes`, front to back; throws Error, opening with `what`, where
// they end too soon.
class ByteReader {
 public:
  ByteReader(std::span<const std::byte> bytes, std::string what)
      : bytes_(bytes), what_(std::move(what)) {}

  std::span<const std::byte> take(size_t count) {
    ELAPSE_CHECK(count <= remaining(), "{}: cut short: expected {} more bytes at byte {}, found {}",
                 what_, count, position_, remaining());
    position_ += count;
    return bytes_.subspan(position_ - count, count);
  }
  template <class T>
  T value() {
    T v;
    std::memcpy(&v, take(sizeof(T)).data(), sizeof(T));
    return v;
  }
  std::string_view text(size_t count);
  std::string_view line();  // up to a newline, which is taken as well

  size_t position() const { return position_; }
  size_t remaining() const { return bytes_.size() - position_; }
  const std::string& what() const { return what_; }

 private:
  std::span<const std::byte> bytes_;
  std::string what_;
  size_t position_ = 0;
};

std::string_view as_text(std::span<const std::byte> bytes);

// Bytes and whoever keeps them alive (null: the caller).
struct SharedBytes {
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
};

SharedBytes copy_of(std::span<const std::byte> bytes);

// The same bytes where they lie on a multiple of `alignment` (a power of two), else a copy that
// does.
SharedBytes aligned(SharedBytes bytes, size_t alignment);

// A read-only view: the Tensor's memory is not to be written to.
Tensor wrap(const SharedBytes& bytes, DType dtype, const Shape& shape);

// `sizes` as a Shape. Throws Error, opening with `what`, for more than Shape::kMaxRank sizes, for
// negative ones, and where strides or bytes would not fit 63 bits.
Shape checked_shape(std::span<const int64_t> sizes, DType dtype,
                    const std::function<std::string()>& what);

}  // namespace elapse
