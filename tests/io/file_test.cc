// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "elapse/io/bytes.h"
#include "tests/io/expect_error.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

void write_text(const std::string& path, std::string_view text) {
  write_file_atomically(path, [&](FileWriter& writer) { writer.write(text); });
}

size_t files_in(const std::string& folder) {
  return static_cast<size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(MappedFile, shows_the_files_bytes_and_outlives_its_name) {
  const TemporaryFolder folder;
  write_text(folder / "a", "some bytes");
  const auto file = MappedFile::open(folder / "a");
  fs::remove(folder / "a");
  EXPECT_EQ(as_text(file->bytes()), "some bytes");
}

TEST(MappedFile, may_be_empty) {
  const TemporaryFolder folder;
  write_text(folder / "empty", "");
  EXPECT_TRUE(MappedFile::open(folder / "empty")->bytes().empty());
}

TEST(MappedFile, names_what_it_cannot_open) {
  const TemporaryFolder folder;
  expect_error([&] { MappedFile::open(folder / "none"); }, "none: cannot open: No such file");
  expect_error([&] { MappedFile::open(folder.path()); }, "expected a regular file, found a folder");
  expect_error([&] { MappedFile::open("/dev/null"); }, "found a device or pipe");
}

TEST(SyncFolder, takes_folders_alone) {
  const TemporaryFolder folder;
  sync_folder(folder.path());
  sync_folder("");
  expect_error([&] { sync_folder(folder / "none"); },
               "none: the files in it are written, but the folder cannot be synced: No such file");
}

TEST(ReadText, reads_files_of_any_length_and_those_without_one) {
  const TemporaryFolder folder;
  const std::string text(200'001, 'x');
  write_text(folder / "a", text);
  EXPECT_EQ(read_text(folder / "a"), text);
  EXPECT_FALSE(read_text("/proc/self/status").empty());
}

TEST(ReadText, takes_regular_files_alone_and_waits_for_no_pipe) {
  const TemporaryFolder folder;
  const std::string pipe = folder / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  for (const std::string& path : {pipe, std::string("/dev/zero")}) {
    expect_error([&] { read_text(path); }, path + ": expected a regular file, found a device");
    expect_error([&] { MappedFile::open(path); }, "found a device or pipe");
  }
  expect_error([&] { read_text(folder.path()); }, "expected a regular file, found a folder");
}

TEST(CheckWritable, says_what_writing_would_and_leaves_nothing) {
  const TemporaryFolder folder;
  check_writable(folder / "a");
  EXPECT_EQ(files_in(folder.path()), 0u);
  write_text(folder / "a", "old");
  check_writable(folder / "a");
  EXPECT_EQ(read_text(folder / "a"), "old");
  EXPECT_EQ(files_in(folder.path()), 1u);
  expect_error([&] { check_writable(folder / "none/a"); },
               "none/a: the folder to write it to is not there");
  expect_error([&] { check_writable(folder / "a/b"); }, "a/b: cannot write beside it: Not a dir");
  expect_error([&] { check_writable(folder.path()); }, "expected a file to write, found a folder");
  expect_error([&] { check_writable("/dev/null"); }, "expected a regular file or none");
}

TEST(FolderLock, is_had_once_and_leaves_no_file) {
  const TemporaryFolder folder;
  {
    FolderLock first(folder.path());
    const FolderLock held = std::move(first);
    expect_error([&] { FolderLock second(folder.path()); },
                 folder.path() + ": another process is at work in this folder");
  }
  const FolderLock again(folder.path());
  EXPECT_EQ(files_in(folder.path()), 0u);
  expect_error([&] { FolderLock none(folder / "none"); }, "none: cannot open");
}

TEST(FileWriter, keeps_the_order_of_small_and_large_writes) {
  const TemporaryFolder folder;
  std::string expected;
  write_file_atomically(folder / "a", [&](FileWriter& writer) {
    for (const size_t size : {0, 1, 65534, 1, 1, 65536, 65537, 3, 200'000, 5}) {
      const std::string piece(size, static_cast<char>('a' + expected.size() % 26));
      writer.write(piece);
      expected += piece;
    }
  });
  EXPECT_EQ(read_text(folder / "a"), expected);
}

TEST(FileWriter, says_when_the_disk_is_full) {
  const int full = ::open("/dev/full", O_WRONLY);
  ASSERT_GE(full, 0);
  FileWriter writer(full, "model.safetensors");
  writer.expect(1000);
  writer.write("abc");
  expect_error([&] { writer.flush(); },
               "model.safetensors: no space left after 0 of 1000 bytes needed");
  ::close(full);
}

TEST(WriteFileAtomically, replaces_the_file_and_leaves_nothing_else) {
  const TemporaryFolder folder;
  write_text(folder / "a", "old");
  write_text(folder / "a", "new");
  EXPECT_EQ(read_text(folder / "a"), "new");
  EXPECT_EQ(files_in(folder.path()), 1u);
}

TEST(WriteFileAtomically, takes_a_path_without_folder) {
  const TemporaryFolder folder;
  const auto before = fs::current_path();
  fs::current_path(folder.path());
  write_text("a", "text");
  fs::current_path(before);
  EXPECT_EQ(read_text(folder / "a"), "text");
}

TEST(WriteFileAtomically, passes_by_what_an_earlier_crash_left) {
  const TemporaryFolder folder;
  const std::string leftover = folder / fmt::format("a.tmp-{}-0", ::getpid());
  std::ofstream(leftover) << "half";
  write_text(folder / "a", "whole");
  EXPECT_EQ(read_text(folder / "a"), "whole");
  EXPECT_EQ(read_text(leftover), "half");
}

TEST(WriteFileAtomically, keeps_the_old_file_when_writing_fails) {
  const TemporaryFolder folder;
  write_text(folder / "a", "old");
  const auto half = [](FileWriter& writer) {
    writer.write(std::string(100'000, 'x'));
    fail("changed my mind");
  };
  expect_error([&] { write_file_atomically(folder / "a", half); }, "changed my mind");
  EXPECT_EQ(read_text(folder / "a"), "old");
  EXPECT_EQ(files_in(folder.path()), 1u);
}

// Writes more than the process may: in a child, as the limit cannot be raised again.
std::string error_above_size_limit(const std::string& path) {
  int channel[2];
  EXPECT_EQ(::pipe(channel), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100'000, 100'000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    std::string message = "none";
    try {
      write_text(path, std::string(150'000, 'x'));
    } catch (const Error& error) {
      message = error.what();
    }
    ::_exit(::write(channel[1], message.data(), message.size()) < 0);
  }
  ::close(channel[1]);
  std::string message(1000, '\0');
  message.resize(static_cast<size_t>(::read(channel[0], message.data(), message.size())));
  ::close(channel[0]);
  ::waitpid(child, nullptr, 0);
  return message;
}

TEST(WriteFileAtomically, keeps_the_old_file_when_the_system_stops_it) {
  const TemporaryFolder folder;
  write_text(folder / "a", "old");
  EXPECT_EQ(error_above_size_limit(folder / "a"),
            (folder / "a") + ": File too large after 100000 bytes");
  EXPECT_EQ(read_text(folder / "a"), "old");
  EXPECT_EQ(files_in(folder.path()), 1u);
}

TEST(WriteFileAtomically, cannot_replace_a_folder) {
  const TemporaryFolder folder;
  fs::create_directory(folder / "a");
  expect_error([&] { write_text(folder / "a", "x"); }, "a: cannot replace: Is a directory");
  EXPECT_EQ(files_in(folder.path()), 1u);
}

TEST(WriteFileAtomically, names_a_folder_it_cannot_write_to) {
  const TemporaryFolder folder;
  expect_error([&] { write_text(folder / "none/a", "x"); },
               "none/a: the folder to write it to is not there");
  if (::geteuid() == 0) return;  // root may write anywhere
  fs::permissions(folder.path(), fs::perms::owner_read | fs::perms::owner_exec);
  expect_error([&] { write_text(folder / "a", "x"); }, "cannot write beside it: Permission denied");
  fs::permissions(folder.path(), fs::perms::owner_all);
}

TEST(RemoveLeftovers, takes_only_the_temporary_files_of_its_path) {
  const TemporaryFolder folder;
  for (const char* name : {"a", "a.tmp-1-0", "a.tmp-22-1", "ab.tmp-1-0", "b"}) {
    write_text(folder / name, "x");
  }
  remove_leftovers(folder / "a");
  EXPECT_EQ(files_in(folder.path()), 3u);
  EXPECT_EQ(read_text(folder / "a") + read_text(folder / "ab.tmp-1-0"), "xx");
  remove_leftovers(folder / "none/a");
}

TEST(WriteFileAtomically, ReplacesNothingButFiles) {
  const TemporaryFolder folder;
  const std::string link = folder / "link", pipe = folder / "pipe";
  std::filesystem::create_symlink(folder / "target", link);
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  for (const std::string& path : {link, pipe}) {
    expect_error([&] { write_file_atomically(path, [](FileWriter& file) { file.write("x"); }); },
                 path + ": expected a regular file or none");
  }
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));
}

}  // namespace
}  // namespace elapse
