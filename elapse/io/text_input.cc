// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/text_input.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "elapse/core/error.h"

namespace elapse {
namespace {

constexpr size_t kBlock = 1 << 16;  // bytes

std::string reason(int error) { return std::generic_category().message(error); }

bool is_unnamed_pipe(int descriptor, const struct stat& status) {
  struct statfs system;
  return S_ISFIFO(status.st_mode) && ::fstatfs(descriptor, &system) == 0 &&
         system.f_type == PIPEFS_MAGIC;
}

// Of those that no text is read from.
std::string_view kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a pipe with a name";
  return S_ISCHR(mode) || S_ISBLK(mode) ? "a device" : "something else";
}

}  // namespace

// O_NONBLOCK: to open a pipe with a name waits for who writes to it.
TextInput::TextInput(std::string path)
    : TextInput(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK), path) {
  ELAPSE_CHECK(descriptor_ >= 0, "{}: cannot open: {}", path_, reason(errno));
  owned_ = true;
  struct stat status;
  ELAPSE_CHECK(::fstat(descriptor_, &status) == 0 && ::fcntl(descriptor_, F_SETFL, 0) == 0,
               "{}: cannot ask what it is: {}", path_, reason(errno));
  ELAPSE_CHECK(S_ISREG(status.st_mode) || is_unnamed_pipe(descriptor_, status),
               "{}: expected a regular file or a shell's pipe, found {}", path_,
               kind_of(status.st_mode));
  size_ = static_cast<size_t>(status.st_size);
}

TextInput::TextInput(int descriptor, std::string name)
    : path_(std::move(name)), descriptor_(descriptor), owned_(false) {}

TextInput::TextInput(TextInput&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(other.descriptor_),
      owned_(std::exchange(other.owned_, false)),
      size_(other.size_),
      bytes_(other.bytes_),
      ended_(other.ended_) {}

TextInput::~TextInput() {
  if (owned_) ::close(descriptor_);
}

void TextInput::check_length(size_t bytes) const {
  ELAPSE_CHECK(bytes <= most_bytes(),
               "{}: expected a text of at most {} bytes, half of the machine's memory, found more",
               path_, most_bytes());
}

void TextInput::read(size_t bytes, std::string& text) {
  while (bytes > 0 && !ended_) {
    const size_t begin = text.size();
    text.resize(begin + std::min(bytes, kBlock));
    const ssize_t found = ::read(descriptor_, text.data() + begin, text.size() - begin);
    const int error = errno;
    text.resize(begin + static_cast<size_t>(std::max<ssize_t>(0, found)));
    if (found < 0 && error == EINTR) continue;
    ELAPSE_CHECK(found >= 0, "{}: cannot read: {}", path_, reason(error));
    bytes_ += static_cast<size_t>(found);
    check_length(bytes_);
    bytes -= static_cast<size_t>(found);
    ended_ = found == 0;
  }
}

std::string TextInput::read_all() {
  check_length(size_);
  std::string text;
  while (!ended_) read(kBlock, text);
  return text;
}

size_t TextInput::most_bytes() {
  return static_cast<size_t>(::sysconf(_SC_PHYS_PAGES)) *
         static_cast<size_t>(::sysconf(_SC_PAGESIZE)) / 2;
}

}  // namespace elapse
