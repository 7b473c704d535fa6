// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "elapse/core/error.h"

namespace elapse {
namespace {

constexpr size_t kBufferBytes = 1 << 16;
constexpr int kMaxTemporaryNames = 1000;

// What the names of `path`'s temporary files begin with.
std::string temporary_prefix(const std::string& path) { return path + ".tmp-"; }

std::string reason(int error) { return std::generic_category().message(error); }

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }
  int close() { return ::close(std::exchange(fd_, -1)); }

 private:
  int fd_;
};

int open_to_read(const std::string& path, int flags = 0) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags);
  ELAPSE_CHECK(fd >= 0, "{}: cannot open: {}", path, reason(errno));
  return fd;
}

// Without O_NONBLOCK, which regular files do not heed, a pipe that nobody writes to would be waited
// for.
int open_regular_file(const std::string& path) { return open_to_read(path, O_NONBLOCK); }

size_t size_of_regular_file(int fd, const std::string& path) {
  struct stat status;
  ELAPSE_CHECK(::fstat(fd, &status) == 0, "{}: cannot ask for its size: {}", path, reason(errno));
  ELAPSE_CHECK(S_ISREG(status.st_mode), "{}: expected a regular file, found {}", path,
               S_ISDIR(status.st_mode) ? "a folder" : "a device or pipe");
  return static_cast<size_t>(status.st_size);
}

std::string read_rest(int fd, const std::string& path) {
  std::string text;
  std::array<char, kBufferBytes> buffer;
  for (;;) {
    const ssize_t count = ::read(fd, buffer.data(), buffer.size());
    if (count == 0) return text;
    if (count < 0 && errno == EINTR) continue;
    ELAPSE_CHECK(count > 0, "{}: cannot read: {}", path, reason(errno));
    text.append(buffer.data(), static_cast<size_t>(count));
  }
}

// Nothing there is as good as a file. A folder is what the renaming refuses.
void check_replaceable(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::symlink_status(path, error);
  ELAPSE_CHECK(!std::filesystem::exists(status) || std::filesystem::is_regular_file(status) ||
                   std::filesystem::is_directory(status),
               "{}: expected a regular file or none, found something else, which is not replaced",
               path);
}

// A new file beside `path`, unlinked by the destructor unless it has become the file at `path`.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& path) : path_(path), descriptor_(create()) {}
  ~TemporaryFile() {
    if (!name_.empty()) ::unlink(name_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  int descriptor() const { return descriptor_.get(); }
  void publish();

 private:
  int create();

  std::string path_;
  std::string name_;
  Descriptor descriptor_;
};

// Not mkstemp: its files are 0600 whatever the umask says.
int TemporaryFile::create() {
  for (int i = 0; i < kMaxTemporaryNames; ++i) {
    std::string name = fmt::format("{}{}-{}", temporary_prefix(path_), ::getpid(), i);
    const int fd = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) {
      name_ = std::move(name);
      return fd;
    }
    ELAPSE_CHECK(errno != ENOENT, "{}: the folder to write it to is not there", path_);
    ELAPSE_CHECK(errno == EEXIST, "{}: cannot write beside it: {}", path_, reason(errno));
  }
  fail("{}: cannot write beside it: {} temporary files are there already", path_,
       kMaxTemporaryNames);
}

void TemporaryFile::publish() {
  // Network file systems report a full disk as late as here.
  ELAPSE_CHECK(::fsync(descriptor_.get()) == 0, "{}: cannot write: {}", path_, reason(errno));
  ELAPSE_CHECK(descriptor_.close() == 0, "{}: cannot write: {}", path_, reason(errno));
  ELAPSE_CHECK(::rename(name_.c_str(), path_.c_str()) == 0, "{}: cannot replace: {}", path_,
               reason(errno));
  name_.clear();
  sync_folder(std::filesystem::path(path_).parent_path());
}

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::string& path) {
  const Descriptor file(open_regular_file(path));
  const size_t size = size_of_regular_file(file.get(), path);
  void* data = nullptr;
  if (size > 0) {  // an empty mapping is an error to mmap
    data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
    ELAPSE_CHECK(data != MAP_FAILED, "{}: cannot map {} bytes: {}", path, size, reason(errno));
  }
  return std::shared_ptr<const MappedFile>(
      new MappedFile(static_cast<const std::byte*>(data), size));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

bool file_exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

void sync_folder(const std::string& folder) {
  const std::string name = folder.empty() ? "." : folder;
  const Descriptor opened(::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // EINVAL: a file system whose folders cannot be synced.
  ELAPSE_CHECK(opened.get() >= 0 && (::fsync(opened.get()) == 0 || errno == EINVAL),
               "{}: the files in it are written, but the folder cannot be synced: {}", name,
               reason(errno));
}

void page_in(std::span<const std::byte> mapped) {
#ifdef MADV_POPULATE_READ  // Linux 5.14
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(mapped.data()) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(mapped.data() + mapped.size());
  if (!mapped.empty()) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_READ);
#endif
}

std::string read_text(const std::string& path) {
  const Descriptor file(open_regular_file(path));
  size_of_regular_file(file.get(), path);  // in /proc not what there is to read
  return read_rest(file.get(), path);
}

FileWriter::FileWriter(int descriptor, std::string path)
    : descriptor_(descriptor), path_(std::move(path)) {
  buffer_.reserve(kBufferBytes);
}

void FileWriter::write(std::span<const std::byte> bytes) {
  if (buffer_.size() + bytes.size() > kBufferBytes) flush();
  if (bytes.size() > kBufferBytes) {
    write_through(bytes);
  } else {
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
}

void FileWriter::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void FileWriter::flush() {
  write_through(buffer_);
  buffer_.clear();
}

void FileWriter::write_through(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_to_write(errno);
    written_ += count;
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
}

void FileWriter::fail_to_write(int error) const {
  const std::string needed =
      expected_ > 0 ? fmt::format(" of {} bytes needed", expected_) : " bytes";
  const bool full = error == ENOSPC || error == EDQUOT;
  fail("{}: {} after {}{}", path_, full ? "no space left" : reason(error), written_, needed);
}

void check_writable(const std::string& path) {
  check_replaceable(path);
  std::error_code error;
  ELAPSE_CHECK(!std::filesystem::is_directory(path, error),
               "{}: expected a file to write, found a folder", path);
  const TemporaryFile probe(path);
}

void write_file_atomically(const std::string& path, const std::function<void(FileWriter&)>& fill) {
  check_replaceable(path);
  TemporaryFile temporary(path);
  FileWriter writer(temporary.descriptor(), path);
  fill(writer);
  writer.flush();
  temporary.publish();
}

void copy_file(const std::string& from, const std::string& to) {
  const auto source = MappedFile::open(from);
  write_file_atomically(to, [&](FileWriter& file) { file.write(source->bytes()); });
}

void remove_leftovers(const std::string& path) {
  const std::string prefix = temporary_prefix(std::filesystem::path(path).filename());
  const auto folder = std::filesystem::path(path).parent_path();
  std::vector<std::filesystem::path> leftovers;
  std::error_code error;  // a folder that cannot be listed has none to remove
  for (std::filesystem::directory_iterator at(folder.empty() ? "." : folder, error), end;
       !error && at != end; at.increment(error)) {
    if (at->path().filename().string().starts_with(prefix)) leftovers.push_back(at->path());
  }
  for (const auto& leftover : leftovers) {
    ELAPSE_CHECK(std::filesystem::remove(leftover, error) || !error, "{}: cannot remove: {}",
                 leftover.string(), error.message());
  }
}

// Network file systems whose locks are fcntl's want a descriptor to write to, which folders have
// not: EBADF.
FolderLock::FolderLock(const std::string& folder) : descriptor_(open_to_read(folder, O_DIRECTORY)) {
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  ::close(descriptor_);
  fail("{}: another process is at work in this folder", folder);
}

FolderLock::~FolderLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace elapse
