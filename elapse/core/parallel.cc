// SPDX-License-Identifier: Apache-2.0
#include "elapse/core/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace elapse {

int hardware_threads() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1U, std::thread::hardware_concurrency());
}

namespace internal {
namespace {

// Hands out indices one at a time and keeps the first exception.
class Work {
 public:
  Work(int64_t count, Task task, void* body) : count_(count), task_(task), body_(body) {}

  void take_until_done(int worker) {
    for (;;) {
      const int64_t index = next_.fetch_add(1, std::memory_order_relaxed);
      if (index >= count_) return;
      try {
        task_(body_, index, worker);
      } catch (...) {
        const std::scoped_lock lock(mutex_);
        if (!error_) error_ = std::current_exception();
        next_.store(count_, std::memory_order_relaxed);
      }
    }
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  const int64_t count_;
  const Task task_;
  void* const body_;
  std::atomic<int64_t> next_{0};
  std::mutex mutex_;
  std::exception_ptr error_;
};

}  // namespace

void run_tasks(int64_t count, int threads, Task task, void* body) {
  const int workers = static_cast<int>(std::min<int64_t>(count, threads));
  if (workers <= 1) {
    for (int64_t i = 0; i < count; ++i) task(body, i, 0);
    return;
  }
  Work work(count, task, body);
#ifdef _OPENMP
#pragma omp parallel num_threads(workers)
  work.take_until_done(omp_get_thread_num());
#else  // the thread sanitizer does not know OpenMP's barriers
  std::vector<std::thread> pool;
  for (int w = 1; w < workers; ++w) pool.emplace_back([&work, w] { work.take_until_done(w); });
  work.take_until_done(0);
  for (auto& thread : pool) thread.join();
#endif
  work.rethrow();
}

}  // namespace internal
}  // namespace elapse
