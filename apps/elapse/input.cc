// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/input.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "elapse/core/error.h"

namespace elapse {
namespace {

constexpr size_t kBlock = 1 << 16;  // bytes

}  // namespace

// Standard input is not /dev/stdin: a socket cannot be opened a second time.
Input::Input(const std::string& path)
    : path_(path == "-" ? "standard input" : path),
      file_(path == "-" ? stdin : std::fopen(path.c_str(), "re")) {
  ELAPSE_CHECK(file_ != nullptr, "{}: cannot open: {}", path_, std::strerror(errno));
}

void Input::read(size_t bytes, std::string& text) {
  while (bytes > 0 && !ended_) {
    const size_t begin = text.size(), block = std::min(bytes, kBlock);
    text.resize(begin + block);
    const size_t count = std::fread(text.data() + begin, 1, block, file_.get());
    ELAPSE_CHECK(!std::ferror(file_.get()), "{}: cannot read: {}", path_, std::strerror(errno));
    text.resize(begin + count);
    bytes -= count;
    ended_ = count < block;
  }
}

std::string read_input(const std::string& path) {
  std::string text;
  for (Input input(path); !input.ended();) input.read(kBlock, text);
  return text;
}

}  // namespace elapse
