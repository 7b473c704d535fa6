// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/zip.h"

#include <algorithm>
#include <array>

#include "elapse/io/bytes.h"
#include "elapse/io/messages.h"
#include "elapse/io/utf8.h"

namespace elapse {
namespace {

constexpr uint32_t kLocalHeader = 0x04034b50;
constexpr uint32_t kDirectoryHeader = 0x02014b50;
constexpr uint32_t kEnd = 0x06054b50;
constexpr uint32_t kEnd64 = 0x06064b50;
constexpr uint32_t kEnd64Locator = 0x07064b50;
constexpr size_t kEndBytes = 22;
constexpr size_t kEnd64LocatorBytes = 20;
constexpr size_t kMaxComment = 0xffff;
constexpr uint16_t kZip64Field = 1;
constexpr uint16_t kEncrypted = 1;
constexpr uint16_t kFull16 = 0xffff;  // a value too large for its field: see the zip64 field
constexpr uint32_t kFull32 = 0xffffffff;

using Bytes = std::span<const std::byte>;

struct Directory {
  uint64_t entries;
  uint64_t bytes;
  uint64_t offset;
};

struct DirectoryHeader {
  std::string name;
  uint16_t flags;
  uint16_t method;
  uint32_t crc32;
  uint64_t compressed;
  uint64_t size;
  uint64_t local_offset;
};

void expect_signature(ByteReader& reader, uint32_t signature, std::string_view part) {
  ELAPSE_CHECK(reader.value<uint32_t>() == signature, "{}: not a zip archive: expected its {}",
               reader.what(), part);
}

ByteReader reader_from(Bytes bytes, uint64_t offset, const std::string& name) {
  ELAPSE_CHECK(offset <= bytes.size(), "{}: expected a record at byte {}, beyond the end at {}",
               name, offset, bytes.size());
  return {bytes.subspan(offset), name};
}

template <class T>
T load(Bytes bytes, size_t offset) {
  T v;
  std::memcpy(&v, bytes.subspan(offset, sizeof(T)).data(), sizeof(T));
  return v;
}

// Where the end record lies: the last place from which a comment would reach the file's very end.
size_t find_end(Bytes bytes, const std::string& name) {
  for (size_t comment = 0; comment <= kMaxComment; ++comment) {
    if (kEndBytes + comment > bytes.size()) break;
    const size_t offset = bytes.size() - comment - kEndBytes;
    if (load<uint32_t>(bytes, offset) == kEnd && load<uint16_t>(bytes, offset + 20) == comment) {
      return offset;
    }
  }
  fail("{}: not a zip archive, or cut short: its end is missing", name);
}

Directory read_end64(Bytes bytes, size_t end, const std::string& name) {
  ELAPSE_CHECK(end >= kEnd64LocatorBytes, "{}: cut short: no room for its zip64 records", name);
  auto locator = reader_from(bytes, end - kEnd64LocatorBytes, name);
  expect_signature(locator, kEnd64Locator, "zip64 locator");
  locator.take(4);  // disk
  auto record = reader_from(bytes, locator.value<uint64_t>(), name);
  expect_signature(record, kEnd64, "zip64 end record");
  record.take(28);  // size, versions, disks, entries on this disk
  Directory directory{};
  directory.entries = record.value<uint64_t>();
  directory.bytes = record.value<uint64_t>();
  directory.offset = record.value<uint64_t>();
  return directory;
}

Directory read_end(Bytes bytes, const std::string& name) {
  const size_t end = find_end(bytes, name);
  auto reader = reader_from(bytes, end, name);
  reader.take(10);  // signature, disks, entries on this disk
  const auto entries = reader.value<uint16_t>();
  const auto size = reader.value<uint32_t>();
  const auto offset = reader.value<uint32_t>();
  if (entries == kFull16 || size == kFull32 || offset == kFull32) {
    return read_end64(bytes, end, name);
  }
  return {entries, size, offset};
}

// Replaces the values that did not fit 32 bits by those of the zip64 field, which holds just them.
void apply_zip64(ByteReader extra, DirectoryHeader& header) {
  while (extra.remaining() > 0) {
    const auto id = extra.value<uint16_t>();
    const auto size = extra.value<uint16_t>();
    if (id != kZip64Field) {
      extra.take(size);
      continue;
    }
    ByteReader field(extra.take(size), extra.what());
    for (uint64_t* v : {&header.size, &header.compressed, &header.local_offset}) {
      if (*v == kFull32) *v = field.value<uint64_t>();
    }
  }
}

DirectoryHeader read_directory_header(ByteReader& reader) {
  expect_signature(reader, kDirectoryHeader, "next directory entry");
  DirectoryHeader header{};
  reader.take(4);  // versions
  header.flags = reader.value<uint16_t>();
  header.method = reader.value<uint16_t>();
  reader.take(4);  // time
  header.crc32 = reader.value<uint32_t>();
  header.compressed = reader.value<uint32_t>();
  header.size = reader.value<uint32_t>();
  const auto name_bytes = reader.value<uint16_t>();
  const auto extra_bytes = reader.value<uint16_t>();
  const auto comment_bytes = reader.value<uint16_t>();
  reader.take(8);  // disk, attributes
  header.local_offset = reader.value<uint32_t>();
  header.name = reader.text(name_bytes);
  apply_zip64({reader.take(extra_bytes), reader.what()}, header);
  reader.take(comment_bytes);
  return header;
}

void check_supported(const DirectoryHeader& header, const std::string& name) {
  const std::string entry = quote(header.name);
  ELAPSE_CHECK(is_utf8(header.name), "{}: the name {} is not UTF-8", name, entry);
  ELAPSE_CHECK((header.flags & kEncrypted) == 0, "{}: entry {} is encrypted", name, entry);
  ELAPSE_CHECK(header.method == 0, "{}: entry {}: expected no compression, found method {}", name,
               entry, header.method);
  ELAPSE_CHECK(header.compressed == header.size,
               "{}: entry {}: stored without compression, but in {} bytes instead of {}", name,
               entry, header.compressed, header.size);
}

// The entry's bytes, which lie behind its local header; that one may leave its sizes open.
Bytes entry_bytes(Bytes archive, const DirectoryHeader& header, const std::string& name) {
  auto local = reader_from(archive, header.local_offset, name);
  expect_signature(local, kLocalHeader, fmt::format("entry {}", quote(header.name)));
  local.take(22);
  const auto name_bytes = local.value<uint16_t>();
  const auto extra_bytes = local.value<uint16_t>();
  ELAPSE_CHECK(local.text(name_bytes) == header.name, "{}: entry {} has another name at its place",
               name, quote(header.name));
  local.take(extra_bytes);
  return local.take(header.size);
}

constexpr std::array<uint32_t, 256> crc32_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0u);
    table[i] = crc;
  }
  return table;
}

uint32_t crc32_of(Bytes bytes) {
  static constexpr auto kTable = crc32_table();
  uint32_t crc = ~0u;
  for (const auto b : bytes) crc = crc >> 8 ^ kTable[(crc ^ static_cast<uint32_t>(b)) & 0xff];
  return ~crc;
}

}  // namespace

ZipEntries read_zip(Bytes bytes, const std::string& name) {
  const Directory directory = read_end(bytes, name);
  ByteReader reader(reader_from(bytes, directory.offset, name).take(directory.bytes), name);
  ZipEntries entries;
  uint64_t stored = 0;
  for (uint64_t i = 0; i < directory.entries; ++i) {
    const DirectoryHeader header = read_directory_header(reader);
    check_supported(header, name);
    const ZipEntry entry{entry_bytes(bytes, header, name), header.crc32};
    stored += header.size;
    ELAPSE_CHECK(stored <= bytes.size(), "{}: its entries overlap", name);
    const bool is_new = entries.emplace(header.name, entry).second;
    ELAPSE_CHECK(is_new, "{}: entry {} occurs twice", name, quote(header.name));
  }
  ELAPSE_CHECK(reader.remaining() == 0, "{}: {} bytes behind the last directory entry", name,
               reader.remaining());
  return entries;
}

void check_crc32(const ZipEntry& entry, std::string_view what) {
  const uint32_t found = crc32_of(entry.bytes);
  ELAPSE_CHECK(found == entry.crc32, "{}: damaged: expected CRC-32 {:08x}, found {:08x}", what,
               entry.crc32, found);
}

}  // namespace elapse
