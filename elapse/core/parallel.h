// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>

namespace elapse {

int hardware_threads();  // processors this process may run on

namespace internal {
using Task = void (*)(void* body, int64_t index, int worker);
void run_tasks(int64_t count, int threads, Task task, void* body);
}  // namespace internal

// Calls body(index) or body(index, worker) for every index in [0, count), on at most `threads`
// threads; workers are numbered from 0. Which worker takes an index is not fixed: results must not
// depend on it. An exception from a body reaches the caller after the others have finished.
template <class Body>
void parallel_for(int64_t count, int threads, Body&& body) {
  using Callable = std::remove_reference_t<Body>;
  const auto task = [](void* b, int64_t index, int worker) {
    if constexpr (std::is_invocable_v<Callable&, int64_t, int>) {
      (*static_cast<Callable*>(b))(index, worker);
    } else {
      (*static_cast<Callable*>(b))(index);
    }
  };
  internal::run_tasks(count, threads, task,
                      const_cast<void*>(static_cast<const void*>(std::addressof(body))));
}

}  // namespace elapse
