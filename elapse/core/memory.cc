// SPDX-License-Identifier: Apache-2.0
#include "elapse/core/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>

#include "elapse/core/error.h"

namespace elapse {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kHugePage = int64_t{2} << 20;

// Kernels walk many rows at a stride, of several tensors at once. Large blocks are made of huge
// pages, or such kernels would spend their time on page look-ups; and they begin at different
// places within a page, or the rows of all tensors would meet in the same few sets of the caches.
class HostMemory final : public MemorySource {
 public:
  void* allocate(int64_t bytes) override {
    const bool large = bytes >= 2 * kHugePage;
    const int64_t alignment = large ? kHugePage : kAlignment;
    const int64_t offset = kAlignment * (large ? 1 + kStagger * (large_blocks_++ % kPlaces) : 1);
    const int64_t size = (offset + bytes + alignment - 1) / alignment * alignment;
    auto* begin = static_cast<std::byte*>(
        std::aligned_alloc(static_cast<size_t>(alignment), static_cast<size_t>(size)));
    ELAPSE_CHECK(begin != nullptr, "out of memory: asked for {} bytes", bytes);
    if (large) madvise(begin, static_cast<size_t>(size), MADV_HUGEPAGE);
    std::byte* data = begin + offset;
    begin_of(data) = begin;
    return data;
  }
  void release(void* data) override { std::free(begin_of(data)); }

 private:
  static constexpr int64_t kStagger = 9, kPlaces = 16;  // in cache lines; 32 rows of lines apart

  // Kept in the cache line before the block.
  static void*& begin_of(void* data) {
    return *reinterpret_cast<void**>(static_cast<std::byte*>(data) - kAlignment);
  }

  std::atomic<int64_t> large_blocks_ = 0;
};

// Rounds up to one of eight sizes per power of two, so that near sizes share blocks and at most
// an eighth is wasted.
int64_t size_class(int64_t bytes) {
  bytes = std::max(bytes, kAlignment);
  const auto step = std::max<int64_t>(
      kAlignment, static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(bytes))) / 8);
  return (bytes + step - 1) / step * step;
}

}  // namespace

MemorySource& host_memory() {
  static HostMemory memory;
  return memory;
}

struct Pool::Blocks {
  Blocks(MemorySource& s, std::shared_ptr<Blocks> l) : source(s), lender(std::move(l)) {}
  ~Blocks() { trim(); }

  void* take(int64_t size);
  void give_back(void* data, int64_t size);

  // Where the source has no more, blocks of other sizes that lie free may be what it lacks.
  void* allocate_from_source(int64_t size) {
    try {
      return source.allocate(size);
    } catch (const Error&) {
      if (!give_back_free()) throw;
      return source.allocate(size);
    }
  }

  // False where there are none.
  bool give_back_free() {
    if (lender) {
      const std::scoped_lock lock(lender->mutex);
      return lender->give_back_free();
    }
    if (in_use == held) return false;
    trim();
    return true;
  }

  void trim() {
    for (auto& [size, free] : free_by_size) {
      for (void* data : free) source.release(data);
      held -= size * static_cast<int64_t>(free.size());
    }
    free_by_size.clear();
  }

  MemorySource& source;
  const std::shared_ptr<Blocks> lender;  // or null
  std::mutex mutex;
  std::map<int64_t, std::set<void*>> free_by_size;
  int64_t held = 0;
  int64_t in_use = 0;
};

Pool::Pool(MemorySource& source) : blocks_(std::make_shared<Blocks>(source, nullptr)) {}

Pool::Pool(MemorySource& source, const Pool& lender)
    : blocks_(std::make_shared<Blocks>(source, lender.blocks_)) {}

void* Pool::Blocks::take(int64_t size) {
  const std::scoped_lock lock(mutex);
  auto& free = free_by_size[size];
  void* data = nullptr;
  if (free.empty()) {
    data = allocate_from_source(size);
    held += size;
  } else {
    data = *free.begin();
    free.erase(free.begin());
  }
  in_use += size;
  return data;
}

void Pool::Blocks::give_back(void* data, int64_t size) {
  const std::scoped_lock lock(mutex);
  free_by_size[size].insert(data);
  in_use -= size;
}

std::shared_ptr<void> Pool::allocate(int64_t bytes) {
  ELAPSE_CHECK(bytes >= 0 && bytes < (int64_t{1} << 60), "impossible allocation of {} bytes",
               bytes);
  const int64_t size = size_class(bytes);
  return {blocks_->take(size), [blocks = blocks_, size](void* p) { blocks->give_back(p, size); }};
}

void Pool::trim() {
  const std::scoped_lock lock(blocks_->mutex);
  blocks_->trim();
}

int64_t Pool::bytes_held() const {
  const std::scoped_lock lock(blocks_->mutex);
  return blocks_->held;
}

int64_t Pool::bytes_in_use() const {
  const std::scoped_lock lock(blocks_->mutex);
  return blocks_->in_use;
}

}  // namespace elapse
