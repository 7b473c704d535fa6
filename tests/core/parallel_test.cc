// SPDX-License-Identifier: Apache-2.0
#include "elapse/core/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "elapse/core/error.h"

namespace elapse {
namespace {

constexpr int kThreadCounts[] = {1, 2, 3, 7, 16};
constexpr int64_t kCounts[] = {0, 1, 2, 6, 7, 8, 1000};

TEST(ParallelFor, TakesEveryIndexOnce) {
  for (const int threads : kThreadCounts) {
    for (const int64_t count : kCounts) {
      std::vector<std::atomic<int>> taken(static_cast<size_t>(count));
      parallel_for(count, threads, [&](int64_t i) { ++taken[static_cast<size_t>(i)]; });
      for (const auto& times : taken) ASSERT_EQ(times, 1) << count << " on " << threads;
    }
  }
}

TEST(ParallelFor, NumbersWorkersFromZeroBelowThreads) {
  for (const int threads : kThreadCounts) {
    for (const int64_t count : kCounts) {
      std::atomic<int> outside = 0;
      parallel_for(count, threads, [&](int64_t, int worker) {
        if (worker < 0 || worker >= threads || worker >= count) ++outside;
      });
      ASSERT_EQ(outside, 0) << count << " on " << threads;
    }
  }
}

TEST(ParallelFor, AWorkerIsOneThreadAtATime) {
  constexpr int kThreads = 7;
  std::vector<std::atomic<int>> busy(kThreads);
  std::atomic<int> clashes = 0;
  parallel_for(5000, kThreads, [&](int64_t, int worker) {
    auto& mine = busy[static_cast<size_t>(worker)];
    if (mine.exchange(1) != 0) ++clashes;
    mine = 0;
  });
  EXPECT_EQ(clashes, 0);
}

TEST(ParallelFor, ExceptionReachesTheCallerAfterTheOthersHaveFinished) {
  for (const int threads : kThreadCounts) {
    std::atomic<int> running = 0;
    const auto body = [&](int64_t i) {
      if (i == 3) fail("index {}", i);
      ++running;
      std::this_thread::yield();
      --running;
    };
    try {
      parallel_for(1000, threads, body);
      ADD_FAILURE() << "nothing thrown on " << threads;
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(), "index 3");
      EXPECT_EQ(running, 0);
    }
  }
}

TEST(ParallelFor, KeepsOneExceptionOfMany) {
  for (const int threads : kThreadCounts) {
    EXPECT_THROW(parallel_for(100, threads, [](int64_t i) { fail("index {}", i); }), Error);
  }
}

TEST(ParallelFor, WorksAfterAnException) {
  EXPECT_THROW(parallel_for(10, 3, [](int64_t) { fail("stop"); }), Error);
  std::atomic<int> calls = 0;
  parallel_for(10, 3, [&](int64_t) { ++calls; });
  EXPECT_EQ(calls, 10);
}

TEST(ParallelFor, Nests) {
  std::atomic<int> calls = 0;
  parallel_for(5, 3, [&](int64_t) { parallel_for(7, 2, [&](int64_t) { ++calls; }); });
  EXPECT_EQ(calls, 35);
}

TEST(ParallelFor, CallsTheBodyItselfNotACopy) {
  struct Counter {
    int calls = 0;
    void operator()(int64_t) { ++calls; }
  } counter;
  parallel_for(9, 1, counter);
  EXPECT_EQ(counter.calls, 9);
}

TEST(HardwareThreads, IsAtLeastOne) { EXPECT_GE(hardware_threads(), 1); }

}  // namespace
}  // namespace elapse
