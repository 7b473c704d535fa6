// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/input.h"

#include <unistd.h>

namespace elapse {

// Standard input is not /dev/stdin: a socket cannot be opened a second time.
TextInput open_input(const std::string& path) {
  return path == "-" ? TextInput(STDIN_FILENO, "standard input") : TextInput(path);
}

}  // namespace elapse
