// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/input.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "elapse/core/error.h"
#include "elapse/io/file.h"

namespace elapse {
namespace {

// Not /dev/stdin: a socket cannot be opened a second time.
std::string read_standard_input() {
  std::string text;
  std::array<char, 1 << 16> block;
  while (const size_t count = std::fread(block.data(), 1, block.size(), stdin)) {
    text.append(block.data(), count);
  }
  ELAPSE_CHECK(!std::ferror(stdin), "standard input: cannot read: {}", std::strerror(errno));
  return text;
}

}  // namespace

std::string read_input(const std::string& path) {
  return path == "-" ? read_standard_input() : read_text(path);
}

}  // namespace elapse
