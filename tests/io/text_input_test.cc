// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/text_input.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/io/expect_error.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

TEST(TextInput, reads_as_much_as_is_asked_for_and_then_what_is_left) {
  const TemporaryFolder folder;
  const std::string whole(200'001, 'x');
  std::ofstream(folder / "a") << "beginning, " << whole;
  TextInput input(folder / "a");
  std::string text = "before: ";
  input.read(11, text);
  EXPECT_EQ(text, "before: beginning, ");
  EXPECT_FALSE(input.ended());
  EXPECT_EQ(input.read_all(), whole);
  EXPECT_TRUE(input.ended());
}

TEST(TextInput, takes_a_shells_pipe_and_waits_for_what_is_written) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  std::thread writer([&] {
    for (const char* part : {"te", "xt"}) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      EXPECT_EQ(::write(ends[1], part, 2), 2);
    }
    ::close(ends[1]);
  });
  EXPECT_EQ(TextInput(fmt::format("/dev/fd/{}", ends[0])).read_all(), "text");
  writer.join();
  ::close(ends[0]);
}

TEST(TextInput, says_what_it_found_where_there_may_be_no_end) {
  const TemporaryFolder folder;
  const std::string pipe = folder / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const auto refused = [](const std::string& path, const std::string& found) {
    expect_error([&] { TextInput input(path); },
                 path + ": expected a regular file or a shell's pipe, found " + found);
  };
  refused(pipe, "a pipe with a name");
  refused("/dev/zero", "a device");
  refused(folder.path(), "a folder");
  expect_error([&] { TextInput input(folder / "none"); }, "none: cannot open: No such file");
}

TEST(TextInput, refuses_all_of_what_half_of_the_machines_memory_does_not_hold) {
  const TemporaryFolder folder;
  std::ofstream(folder / "holes").close();
  std::filesystem::resize_file(folder / "holes", TextInput::most_bytes() + 1);
  TextInput input(folder / "holes");
  std::string beginning;
  input.read(9, beginning);
  EXPECT_EQ(beginning.size(), 9u);
  expect_error([&] { input.read_all(); }, "holes: expected a text of at most ");
}

}  // namespace
}  // namespace elapse
