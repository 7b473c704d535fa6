// SPDX-License-Identifier: Apache-2.0
#include "elapse/core/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <thread>
#include <vector>

#include "elapse/core/error.h"
#include "elapse/core/random.h"

namespace elapse {
namespace {

// Host memory that counts what it hands out.
class CountingMemory final : public MemorySource {
 public:
  void* allocate(int64_t bytes) override {
    ++allocations;
    ++live;
    return host_memory().allocate(bytes);
  }
  void release(void* data) override {
    --live;
    host_memory().release(data);
  }

  int allocations = 0;
  int live = 0;
};

class MemoryThatIsFull final : public MemorySource {
 public:
  void* allocate(int64_t) override { fail("full"); }
  void release(void*) override {}
};

// Has no more than a number of bytes at a time.
class SmallMemory final : public MemorySource {
 public:
  explicit SmallMemory(int64_t bytes) : left_(bytes) {}
  void* allocate(int64_t bytes) override {
    if (bytes > left_) fail("full");
    left_ -= bytes;
    void* data = host_memory().allocate(bytes);
    sizes_[data] = bytes;
    return data;
  }
  void release(void* data) override {
    left_ += sizes_.at(data);
    sizes_.erase(data);
    host_memory().release(data);
  }

 private:
  int64_t left_;
  std::map<void*, int64_t> sizes_;
};

// A training step's requests: sizes and lifetimes differ, some blocks are freed in between.
// Returns the addresses in the order of the requests.
std::vector<void*> step(Pool& pool, uint64_t seed) {
  Random random(seed);
  std::vector<std::shared_ptr<void>> alive;
  std::vector<void*> addresses;
  for (int i = 0; i < 200; ++i) {
    alive.push_back(pool.allocate(random.below(5000)));
    addresses.push_back(alive.back().get());
    if (random.below(3) == 0) alive.erase(alive.begin() + random.below(std::ssize(alive)));
  }
  return addresses;
}

TEST(Pool, WhatABorrowerFreesStaysItsOwn) {
  SmallMemory memory(4096);
  Pool lender(memory), borrower(memory, lender);
  lender.allocate(2048);                             // now free
  const void* kept = borrower.allocate(1024).get();  // free as well
  const auto large = borrower.allocate(3072);        // takes what the lender has free
  EXPECT_EQ(lender.bytes_held(), 0);
  EXPECT_THROW(borrower.allocate(2048), Error);  // its own stays
  EXPECT_EQ(borrower.allocate(1024).get(), kept);
}

TEST(Pool, SameRequestsGetSameAddressesAndNothingNew) {
  CountingMemory memory;
  Pool pool(memory);
  step(pool, 1);
  const auto addresses = step(pool, 1);
  const int allocations = memory.allocations;
  for (int repeat = 0; repeat < 10; ++repeat) EXPECT_EQ(step(pool, 1), addresses);
  EXPECT_EQ(memory.allocations, allocations);
}

TEST(Pool, SameAddressesWhateverOrderBlocksWereFreedIn) {
  Pool pool(host_memory());
  std::vector<std::shared_ptr<void>> blocks;
  for (int i = 0; i < 4; ++i) blocks.push_back(pool.allocate(256));
  void* const lowest = std::min_element(blocks.begin(), blocks.end())->get();
  for (const int i : {2, 0, 3, 1}) blocks[static_cast<size_t>(i)].reset();
  EXPECT_EQ(pool.allocate(256).get(), lowest);
}

TEST(Pool, BlocksAreAlignedApartAndLargeEnough) {
  Pool pool(host_memory());
  std::vector<std::shared_ptr<void>> blocks;
  std::vector<int64_t> sizes;
  for (int64_t power = 1; power <= 1 << 16; power *= 2) {
    for (const int64_t size : {power - 1, power, power + 1}) {
      blocks.push_back(pool.allocate(size));
      sizes.push_back(size);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(blocks.back().get()) % 64, 0U) << size;
      std::memset(blocks.back().get(), static_cast<int>(blocks.size()), static_cast<size_t>(size));
    }
  }
  for (size_t b = 0; b < blocks.size(); ++b) {
    const auto* bytes = static_cast<const unsigned char*>(blocks[b].get());
    for (int64_t i = 0; i < sizes[b]; ++i) ASSERT_EQ(bytes[i], b + 1) << sizes[b];
  }
}

TEST(Pool, WastesAtMostAnEighth) {
  for (int64_t size = 512; size < 100'000; size += 61) {
    Pool pool(host_memory());
    const auto block = pool.allocate(size);
    ASSERT_GE(pool.bytes_held(), size);
    ASSERT_LE(pool.bytes_held() * 8, size * 9) << size;
  }
}

TEST(Pool, CountsBytesInUseAndHeld) {
  Pool pool(host_memory());
  auto block = pool.allocate(1024);
  EXPECT_EQ(pool.bytes_in_use(), 1024);
  block.reset();
  EXPECT_EQ(pool.bytes_in_use(), 0);
  EXPECT_EQ(pool.bytes_held(), 1024);
}

TEST(Pool, TrimGivesBackFreeBlocksOnly) {
  CountingMemory memory;
  Pool pool(memory);
  auto kept = pool.allocate(1024);
  pool.allocate(2048).reset();
  pool.trim();
  EXPECT_EQ(memory.live, 1);
  EXPECT_EQ(pool.bytes_held(), 1024);
  std::memset(kept.get(), 1, 1024);
  kept.reset();
  pool.trim();
  EXPECT_EQ(memory.live, 0);
  EXPECT_EQ(pool.bytes_held(), 0);
}

TEST(Pool, BlocksOutliveThePool) {
  CountingMemory memory;
  std::shared_ptr<void> block;
  {
    Pool pool(memory);
    pool.allocate(64).reset();
    block = pool.allocate(4096);
  }
  std::memset(block.get(), 1, 4096);
  EXPECT_GE(memory.live, 1);
  block.reset();
  EXPECT_EQ(memory.live, 0);
}

TEST(Pool, RefusesImpossibleSizes) {
  Pool pool(host_memory());
  EXPECT_THROW(pool.allocate(-1), Error);
  EXPECT_THROW(pool.allocate(int64_t{1} << 60), Error);
  EXPECT_THROW(pool.allocate(INT64_MAX), Error);
}

TEST(Pool, CountsNothingWhenTheSourceIsFull) {
  MemoryThatIsFull memory;
  Pool pool(memory);
  EXPECT_THROW(pool.allocate(100), Error);
  EXPECT_EQ(pool.bytes_held(), 0);
  EXPECT_EQ(pool.bytes_in_use(), 0);
}

TEST(Pool, ServesManyThreads) {
  Pool pool(host_memory());
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) threads.emplace_back([&pool, t] { step(pool, t); });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(pool.bytes_in_use(), 0);
}

}  // namespace
}  // namespace elapse
