// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace elapse {

// A file's bytes, mapped read-only and paged in as they are touched. Hold it by shared_ptr, so that
// Tensors can wrap its memory. A file that is cut short while mapped makes the process die of
// SIGBUS; files replaced as write_file_atomically does are safe.
class MappedFile {
 public:
  static std::shared_ptr<const MappedFile> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  MappedFile(const std::byte* data, size_t size) : data_(data), size_(size) {}

  const std::byte* data_;
  size_t size_;
};

// Whether there is a file or folder; false too where nobody may look.
bool file_exists(const std::string& path);

// Makes what was renamed or removed in a folder ("": the working one) outlive a power failure.
void sync_folder(const std::string& folder);

// Pages in a part of a mapped file at once, which costs less than a fault for each few pages it is
// touched in; where the system cannot, does nothing.
void page_in(std::span<const std::byte> mapped);

// Of a regular file: a folder, a device or a pipe, which might never end, is an Error.
std::string read_text(const std::string& path);

// Buffered, checked writing to an open file descriptor, which it does not own. The destructor
// writes nothing: what counts is flush().
class FileWriter {
 public:
  FileWriter(int descriptor, std::string path);

  // Announces the file's final size, for the message should the disk be full.
  void expect(int64_t bytes) { expected_ = bytes; }
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  void flush();

 private:
  void write_through(std::span<const std::byte> bytes);
  [[noreturn]] void fail_to_write(int error) const;

  int descriptor_;
  std::string path_;
  std::vector<std::byte> buffer_;
  int64_t written_ = 0;
  int64_t expected_ = 0;  // 0: not known
};

// Throws what write_file_atomically would for a path that cannot be written. For the start of long
// work whose result goes there.
void check_writable(const std::string& path);

// Replaces the file at `path` by what `fill` writes, wholly or not at all: a temporary file beside
// it is written, synced and renamed. Links, devices and folders are not replaced: Error. After an
// exception (`fill`'s own included) the temporary file is gone and the old one untouched.
void write_file_atomically(const std::string& path, const std::function<void(FileWriter&)>& fill);

// The same with the bytes of another file, which is mapped.
void copy_file(const std::string& from, const std::string& to);

// Removes the temporary files that processes killed in write_file_atomically(path) left beside it.
// Not while another process may be writing there.
void remove_leftovers(const std::string& path);

// Holds a folder until the end of the scope or of the process, however that ends, and leaves no
// file in it. While one process does, Error in every other that tries. A file system that has no
// locks of folders (some networks') has everybody hold them.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder);
  FolderLock(FolderLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  ~FolderLock();

 private:
  int descriptor_;
};

}  // namespace elapse
