// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/zip.h"

#include <gtest/gtest.h>

#include "elapse/io/bytes.h"
#include "tests/io/builders.h"
#include "tests/io/expect_error.h"

namespace elapse {
namespace {

void expect_refused(const std::string& bytes, const std::string& part) {
  const Buffer buffer = buffer_of(bytes);
  expect_error([&] { read_zip(buffer, "a.bin"); }, part);
}

// `bytes` with those from the last occurrence of `signature` + `offset` on replaced.
std::string patched(std::string bytes, const std::string& signature, size_t offset,
                    const std::string& replacement) {
  return bytes.replace(bytes.rfind(signature) + offset, replacement.size(), replacement);
}

class ZipKinds : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Zip, ZipKinds, ::testing::Bool());

TEST_P(ZipKinds, entries_are_found_by_name) {
  ZipBuilder zip(GetParam());
  zip.add("m/a", "first").add("m/empty", "").add("m/b", std::string("se\0cond", 7), 13);
  for (const char* comment : {"", "a comment", "PK\x05\x06 and so on, long enough to mislead"}) {
    const Buffer buffer = buffer_of(zip.bytes(comment));
    const auto entries = read_zip(buffer, "a.bin");
    ASSERT_EQ(entries.size(), 3u);
    EXPECT_EQ(as_text(entries.at("m/a").bytes), "first");
    EXPECT_EQ(as_text(entries.at("m/b").bytes), std::string_view("se\0cond", 7));
    EXPECT_TRUE(entries.at("m/empty").bytes.empty());
    check_crc32(entries.at("m/b"), "b");
  }
}

TEST_P(ZipKinds, archives_cut_short_are_refused) {
  const std::string bytes = ZipBuilder(GetParam()).add("a", "first").add("b", "second").bytes();
  for (size_t n = 0; n < bytes.size(); ++n) {
    const Buffer buffer = buffer_of(bytes.substr(0, n));
    EXPECT_THROW(read_zip(buffer, "a.bin"), Error) << n;
  }
  expect_refused(bytes + "x", "its end is missing");
}

TEST(Zip, knows_the_checksum_of_its_check_value) {
  EXPECT_EQ(crc32_bit_by_bit("123456789"), 0xcbf43926u);  // the value the CRC catalogues give
  const Buffer data = buffer_of("123456789");
  check_crc32({data, 0xcbf43926u}, "a");
  expect_error(
      [&] {
        check_crc32({data, 0xcbf43927u}, "a");
      },
      "a: damaged: expected CRC-32 cbf43927, found cbf43926");
}

TEST(Zip, refuses_compressed_and_encrypted_entries) {
  expect_refused(ZipBuilder().method(8).add("a", "x").bytes(),
                 "a.bin: entry \"a\": expected no compression, found method 8");
  expect_refused(ZipBuilder().flags(1).add("a", "x").bytes(), "entry \"a\" is encrypted");
}

TEST(Zip, refuses_names_twice_and_names_that_are_not_utf8) {
  expect_refused(ZipBuilder().add("a", "x").add("a", "y").bytes(), "entry \"a\" occurs twice");
  expect_refused(ZipBuilder().add("\xff", "x").bytes(), "the name \"\\xff\" is not UTF-8");
}

TEST(Zip, refuses_sizes_and_offsets_beyond_the_file) {
  const std::string bytes = ZipBuilder().add("a", "x").add("b", "y").bytes();
  const auto huge = little_endian(uint32_t{0x7fffffff});
  expect_refused(patched(bytes, "PK\x01\x02", 20, huge + huge), "cut short");
  expect_refused(patched(bytes, "PK\x01\x02", 20, huge), "in 2147483647 bytes instead of 1");
  expect_refused(patched(bytes, "PK\x01\x02", 42, huge), "beyond the end");
  expect_refused(patched(bytes, "PK\x05\x06", 12, huge), "cut short");
  expect_refused(patched(bytes, "PK\x05\x06", 16, huge), "beyond the end");
  expect_refused(patched(bytes, "PK\x05\x06", 10, little_endian(uint16_t{3})), "cut short");
  expect_refused(patched(bytes, "PK\x05\x06", 10, little_endian(uint16_t{1})),
                 "behind the last directory entry");
}

TEST(Zip, refuses_zip64_values_beyond_the_file) {
  const std::string bytes = ZipBuilder(true).add("a", "x").bytes();
  const auto huge = little_endian(~uint64_t{0});
  for (const size_t offset : {32, 40, 48}) {
    expect_refused(patched(bytes, "PK\x06\x06", offset, huge), "a.bin: ");
  }
  expect_refused(patched(bytes, "PK\x06\x07", 8, huge), "beyond the end");
  const size_t field = 46 + 1 + 4;  // of the directory header, its name, the field's header
  expect_refused(patched(bytes, "PK\x01\x02", field, huge + huge), "cut short");
  expect_refused(patched(bytes, "PK\x01\x02", field + 16, huge), "beyond the end");
}

TEST(Zip, refuses_records_that_are_not_where_they_should_be) {
  const std::string bytes = ZipBuilder().add("ab", "x").add("cd", "y").bytes();
  expect_refused(patched(bytes, "PK\x01\x02", 0, "PQ"), "expected its next directory entry");
  expect_refused(patched(bytes, "PK\x03\x04", 0, "PQ"), "expected its entry \"cd\"");
  expect_refused(patched(bytes, "PK\x03\x04", 30, "xx"), "entry \"cd\" has another name");
}

TEST(Zip, refuses_entries_that_share_bytes) {
  const std::string inner = ZipBuilder().add("b", std::string(300, 'y')).bytes();
  const std::string local = inner.substr(0, inner.find("PK\x01\x02"));
  const std::string outer = ZipBuilder().add("a", local).bytes();
  // Both directory entries, the second pointing into the first's data.
  const std::string first = outer.substr(0, outer.rfind("PK\x05\x06"));
  std::string second = inner.substr(inner.find("PK\x01\x02"));
  second.resize(second.rfind("PK\x05\x06"));
  second = patched(second, "PK\x01\x02", 42, little_endian(uint32_t{31}));
  const size_t directory = first.rfind("PK\x01\x02");
  const std::string bytes =
      first + second + "PK\x05\x06" + std::string(4, '\0') + little_endian(uint16_t{2}) +
      little_endian(uint16_t{2}) +
      little_endian(static_cast<uint32_t>(first.size() + second.size() - directory)) +
      little_endian(static_cast<uint32_t>(directory)) + little_endian(uint16_t{0});
  expect_refused(bytes, "its entries overlap");
}

}  // namespace
}  // namespace elapse
