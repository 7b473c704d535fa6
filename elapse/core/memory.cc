// SPDX-License-Identifier: Apache-2.0
#include "elapse/core/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "elapse/core/error.h"

namespace elapse {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kHugePage = int64_t{2} << 20;

class HostMemory final : public MemorySource {
 public:
  void* allocate(int64_t bytes) override {
    const bool large = bytes >= 2 * kHugePage;
    const int64_t alignment = large ? kHugePage : kAlignment;
    const int64_t size = (bytes + alignment - 1) / alignment * alignment;
    void* data = std::aligned_alloc(static_cast<size_t>(alignment), static_cast<size_t>(size));
    ELAPSE_CHECK(data != nullptr, "out of memory: asked for {} bytes", bytes);
    // Kernels that walk many rows at a stride would spend their time on page look-ups otherwise.
    if (large) madvise(data, static_cast<size_t>(size), MADV_HUGEPAGE);
    return data;
  }
  void release(void* data) override { std::free(data); }
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
  explicit Blocks(MemorySource& s) : source(s) {}
  ~Blocks() { trim(); }

  void* take(int64_t size);
  void give_back(void* data, int64_t size);

  void trim() {
    for (auto& [size, free] : free_by_size) {
      for (void* data : free) source.release(data);
      held -= size * static_cast<int64_t>(free.size());
    }
    free_by_size.clear();
  }

  MemorySource& source;
  std::mutex mutex;
  std::map<int64_t, std::set<void*>> free_by_size;
  int64_t held = 0;
  int64_t in_use = 0;
};

Pool::Pool(MemorySource& source) : blocks_(std::make_shared<Blocks>(source)) {}

void* Pool::Blocks::take(int64_t size) {
  const std::scoped_lock lock(mutex);
  auto& free = free_by_size[size];
  void* data = nullptr;
  if (free.empty()) {
    data = source.allocate(size);
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
