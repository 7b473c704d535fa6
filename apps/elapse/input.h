// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdio>
#include <memory>
#include <string>

namespace elapse {

// A text that is read from its beginning: a file, a pipe or a device; "-": standard input.
class Input {
 public:
  explicit Input(const std::string& path);

  // Appends as many bytes, or those that are left.
  void read(size_t bytes, std::string& text);
  bool ended() const { return ended_; }

 private:
  struct Close {
    void operator()(std::FILE* file) const {
      if (file != stdin) std::fclose(file);
    }
  };

  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
  bool ended_ = false;
};

std::string read_input(const std::string& path);  // all of it

}  // namespace elapse
