// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>

namespace elapse {

struct ZipEntry {
  std::span<const std::byte> bytes;
  uint32_t crc32;  // as claimed: see check_crc32
};

// The files of a zip archive that was written without compression, as torch.save writes it, by
// name: views of `bytes`. Reads the central directory (PKWARE APPNOTE 6.3.10, with the zip64 fields
// that archives above 4 GiB need) and throws Error, opening with `name`, for anything malformed,
// compressed, encrypted or occurring twice.
using ZipEntries = std::map<std::string, ZipEntry, std::less<>>;
ZipEntries read_zip(std::span<const std::byte> bytes, const std::string& name);

// Throws Error, opening with `what`, unless the bytes have the checksum that the archive claims.
void check_crc32(const ZipEntry& entry, std::string_view what);

}  // namespace elapse
