// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/output.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "elapse/core/error.h"

namespace elapse {

void show(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  check_output();
}

void check_output() {
  ELAPSE_CHECK(std::fflush(stdout) == 0 && !std::ferror(stdout),
               "standard output: cannot write: {}", std::strerror(errno));
}

}  // namespace elapse
