// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/output.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "elapse/core/error.h"

namespace elapse {

void show(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  ELAPSE_CHECK(written && std::fflush(stdout) == 0, "standard output: cannot write: {}",
               std::strerror(errno));
}

}  // namespace elapse
