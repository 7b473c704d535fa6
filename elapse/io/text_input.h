// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

namespace elapse {

// A text that is read from its beginning, out of a regular file or of a pipe without a name, such
// as the one behind a shell's <(...). A folder, a device, which might never end, and a pipe with a
// name, which nobody may ever write to, are an Error, and so is a text that half of the machine's
// memory does not hold.
class TextInput {
 public:
  explicit TextInput(std::string path);
  // One that is open, of whatever kind, and stays so, such as standard input.
  TextInput(int descriptor, std::string name);
  TextInput(TextInput&& other) noexcept;
  ~TextInput();

  // Appends as many bytes, or those that are left.
  void read(size_t bytes, std::string& text);
  std::string read_all();  // that are left; of a file that is too long none are read
  bool ended() const { return ended_; }

  static size_t most_bytes();  // of a text

 private:
  void check_length(size_t bytes) const;

  std::string path_;
  int descriptor_;
  bool owned_;
  size_t size_ = 0;   // of a regular file
  size_t bytes_ = 0;  // read
  bool ended_ = false;
};

}  // namespace elapse
