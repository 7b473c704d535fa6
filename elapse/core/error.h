// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace elapse {

// The one exception the library throws. Its message is a clear sentence that names the thing at
// fault (file, field, argument), what was expected and what was found.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace elapse

// Throws Error with the formatted message unless `condition` holds. For what callers and files can
// get wrong; what only a bug in elapse can get wrong is an assert.
#define ELAPSE_CHECK(condition, ...)               \
  do {                                             \
    if (!(condition)) ::elapse::fail(__VA_ARGS__); \
  } while (false)
