// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>

namespace elapse {

// Where bytes come from: the host's heap or a device's memory. A backend supplies one.
class MemorySource {
 public:
  virtual ~MemorySource() = default;
  virtual void* allocate(int64_t bytes) = 0;  // 64-byte aligned; throws Error when out of memory
  virtual void release(void* data) = 0;
};

MemorySource& host_memory();

// Keeps freed blocks for reuse, so that a training step asks the system for nothing after its
// first run. The free block at the lowest address is always taken first: a step that makes the
// same requests from the same starting point gets the same addresses every time, as a captured
// device graph needs. Blocks may outlive the pool.
class Pool {
 public:
  explicit Pool(MemorySource& source);
  // One whose free blocks are kept, as they are written to again: where the source has no more,
  // those of `lender` are given back instead.
  Pool(MemorySource& source, const Pool& lender);
  std::shared_ptr<void> allocate(int64_t bytes);

  void trim();                 // gives free blocks back to the source
  int64_t bytes_held() const;  // from the source, in use or free
  int64_t bytes_in_use() const;

 private:
  struct Blocks;
  std::shared_ptr<Blocks> blocks_;
};

}  // namespace elapse
