// SPDX-License-Identifier: Apache-2.0
// Builds small files byte by byte, right or wrong.
#pragma once
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace elapse {

using Buffer = std::vector<std::byte>;

template <class T>
std::string little_endian(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

// A buffer of exactly these bytes, so that the address sanitizer sees any read past its end.
inline Buffer buffer_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

inline std::string safetensors_bytes(const std::string& header, std::string_view data) {
  return little_endian(uint64_t{header.size()}) + header + std::string(data);
}

// A zip archive of stored entries. With `zip64`, sizes and offsets stand in the zip64 records.
class ZipBuilder {
 public:
  explicit ZipBuilder(bool zip64 = false) : zip64_(zip64) {}

  // `padding`: bytes of extra field in the local header, as torch.save uses to align the data.
  ZipBuilder& add(const std::string& name, const std::string& data, size_t padding = 0);
  ZipBuilder& method(uint16_t method) { return method_ = method, *this; }  // of entries to come
  ZipBuilder& flags(uint16_t flags) { return flags_ = flags, *this; }
  std::string bytes(const std::string& comment = "") const;

 private:
  bool zip64_;
  uint16_t method_ = 0;
  uint16_t flags_ = 0;
  std::string local_;
  std::string directory_;
  uint64_t entries_ = 0;
};

// A pickle of protocol 2, opcode by opcode.
class PickleBuilder {
 public:
  PickleBuilder& op(std::string_view bytes) { return out_ += bytes, *this; }
  PickleBuilder& text(const std::string& v) {
    return op("X").op(little_endian(static_cast<uint32_t>(v.size()))).op(v);
  }
  PickleBuilder& integer(int32_t v) { return op("J").op(little_endian(v)); }
  PickleBuilder& global(const std::string& module, const std::string& name) {
    return op("c" + module + "\n" + name + "\n");
  }
  PickleBuilder& integers(const std::vector<int32_t>& values) {
    op("(");
    for (const int32_t v : values) integer(v);
    return op("t");
  }
  PickleBuilder& storage(const std::string& type, const std::string& key, int32_t numel) {
    return op("(")
        .text("storage")
        .global("torch", type)
        .text(key)
        .text("cpu")
        .integer(numel)
        .op("tQ");
  }
  // torch._utils._rebuild_tensor_v2(storage, offset, sizes, strides, False, OrderedDict())
  PickleBuilder& tensor(const std::string& type, const std::string& key, int32_t numel,
                        int32_t offset, const std::vector<int32_t>& sizes,
                        const std::vector<int32_t>& strides) {
    global("torch._utils", "_rebuild_tensor_v2").op("(").storage(type, key, numel).integer(offset);
    return integers(sizes).integers(strides).op("\x89").ordered_dict().op("tR");
  }
  PickleBuilder& ordered_dict() { return global("collections", "OrderedDict").op(")R"); }

  std::string bytes() const { return "\x80\x02" + out_ + "."; }

 private:
  std::string out_;
};

inline uint32_t crc32_bit_by_bit(std::string_view bytes) {
  uint32_t crc = 0xffffffffu;
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xedb88320u : 0u);
  }
  return ~crc;
}

inline ZipBuilder& ZipBuilder::add(const std::string& name, const std::string& data,
                                   size_t padding) {
  const uint64_t offset = local_.size();
  const uint32_t size = zip64_ ? 0xffffffffu : static_cast<uint32_t>(data.size());
  const auto name_bytes = little_endian(static_cast<uint16_t>(name.size()));
  const auto common = little_endian(flags_) + little_endian(method_) + little_endian(uint32_t{0}) +
                      little_endian(crc32_bit_by_bit(data)) + little_endian(size) +
                      little_endian(size) + name_bytes;
  local_ += "PK\x03\x04" + little_endian(uint16_t{20}) + common +
            little_endian(static_cast<uint16_t>(padding)) + name + std::string(padding, 'Z') + data;
  std::string extra;
  if (zip64_) {
    extra = little_endian(uint16_t{1}) + little_endian(uint16_t{24}) +
            little_endian(uint64_t{data.size()}) + little_endian(uint64_t{data.size()}) +
            little_endian(offset);
  }
  const uint32_t offset32 = zip64_ ? 0xffffffffu : static_cast<uint32_t>(offset);
  directory_ += "PK\x01\x02" + little_endian(uint32_t{20}) + common +
                little_endian(static_cast<uint16_t>(extra.size())) + std::string(10, '\0') +
                little_endian(offset32) + name + extra;
  ++entries_;
  return *this;
}

inline std::string ZipBuilder::bytes(const std::string& comment) const {
  const uint64_t offset = local_.size();
  const uint64_t size = directory_.size();
  std::string out = local_ + directory_;
  if (zip64_) {
    const uint64_t end64 = out.size();
    out += "PK\x06\x06" + little_endian(uint64_t{44}) + little_endian(uint32_t{0}) +
           std::string(8, '\0') + little_endian(entries_) + little_endian(entries_) +
           little_endian(size) + little_endian(offset);
    out += "PK\x06\x07" + little_endian(uint32_t{0}) + little_endian(end64) +
           little_endian(uint32_t{1});
  }
  const uint16_t count = zip64_ ? 0xffff : static_cast<uint16_t>(entries_);
  out += "PK\x05\x06" + std::string(4, '\0') + little_endian(count) + little_endian(count);
  out += little_endian(zip64_ ? 0xffffffffu : static_cast<uint32_t>(size));
  out += little_endian(zip64_ ? 0xffffffffu : static_cast<uint32_t>(offset));
  return out + little_endian(static_cast<uint16_t>(comment.size())) + comment;
}

}  // namespace elapse
