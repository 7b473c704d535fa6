// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/safetensors.h"

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>

#include "elapse/io/bytes.h"
#include "elapse/io/file.h"
#include "elapse/io/json.h"
#include "elapse/io/json_writer.h"
#include "elapse/io/messages.h"

namespace elapse {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit
constexpr size_t kDataAlignment = 8;
constexpr std::string_view kMetadataKey = "__metadata__";

using Metadata = std::map<std::string, std::string>;

constexpr std::array<std::pair<std::string_view, DType>, 7> kDTypes = {{{"F64", DType::f64},
                                                                        {"F32", DType::f32},
                                                                        {"F16", DType::f16},
                                                                        {"BF16", DType::bf16},
                                                                        {"I64", DType::i64},
                                                                        {"I32", DType::i32},
                                                                        {"U8", DType::u8}}};

// ---- reading

struct Entry {
  std::string name;
  DType dtype;
  Shape shape;
  int64_t begin;  // bytes from the start of the elements
  int64_t end;
};

// Takes the length and the header off the front of the file.
std::string_view take_header(ByteReader& file) {
  const auto length = file.value<uint64_t>();
  // A file of another kind, as a rule: its beginning tells which.
  ELAPSE_CHECK(length <= kMaxHeaderBytes,
               "{}: expected a header of at most {} bytes, found {}, in a file that begins with {}",
               file.what(), kMaxHeaderBytes, length,
               quote({reinterpret_cast<const char*>(&length), sizeof(length)}));
  const auto header = file.text(length);
  ELAPSE_CHECK(header.starts_with('{'), "{}: expected a header that begins with '{{', found {}",
               file.what(), quote(header.substr(0, 1)));
  return header;
}

Metadata read_metadata(const Json& value) {
  Metadata metadata;
  for (const auto& [key, text] : value.members()) metadata.emplace(key, text.text());
  return metadata;
}

DType read_dtype(const Json& value) {
  const std::string found = value.text();
  for (const auto& [name, dtype] : kDTypes) {
    if (name == found) return dtype;
  }
  fail("{}: expected one of F64, F32, F16, BF16, I64, I32 and U8, found {}", value.where(),
       quote(found));
}

std::vector<int64_t> read_integers(const Json& array) {
  std::vector<int64_t> values;
  for (const auto& item : array.items()) values.push_back(item.integer());
  return values;
}

Entry read_entry(const std::string& name, const Json& value) {
  const DType dtype = read_dtype(value.at("dtype"));
  const Json sizes = value.at("shape");
  const Shape shape = checked_shape(read_integers(sizes), dtype, [&] { return sizes.where(); });
  const Json range = value.at("data_offsets");
  const auto offsets = read_integers(range);
  ELAPSE_CHECK(offsets.size() == 2 && 0 <= offsets[0] && offsets[0] <= offsets[1],
               "{}: expected two offsets, the first at least 0 and the second not before it",
               range.where());
  ELAPSE_CHECK(offsets[1] - offsets[0] == shape.numel() * size_of(dtype),
               "{}: expected {} bytes for {} elements {}, found {}", range.where(),
               shape.numel() * size_of(dtype), shape.str(), name_of(dtype),
               offsets[1] - offsets[0]);
  return {name, dtype, shape, offsets[0], offsets[1]};
}

// Throws unless the entries, once sorted, cover the elements' bytes each exactly once.
void check_cover(const std::vector<Entry>& sorted, int64_t data_bytes, const std::string& file) {
  int64_t covered = 0;
  for (const auto& entry : sorted) {
    ELAPSE_CHECK(entry.begin == covered, "{}: expected tensor {} at offset {}, found it at {}: {}",
                 file, quote(entry.name), covered, entry.begin,
                 entry.begin < covered ? "tensors overlap" : "a hole before it");
    covered = entry.end;
  }
  ELAPSE_CHECK(covered == data_bytes, "{}: expected {} bytes of elements, found {}", file, covered,
               data_bytes);
}

Tensor wrap_entry(const Entry& entry, const SharedBytes& data) {
  const auto bytes = data.bytes.subspan(static_cast<size_t>(entry.begin),
                                        static_cast<size_t>(entry.end - entry.begin));
  const auto alignment = static_cast<size_t>(size_of(entry.dtype));
  return wrap(aligned({bytes, data.owner}, alignment), entry.dtype, entry.shape);
}

// ---- writing

std::string_view format_name(DType dtype) {
  const auto found =
      std::find_if(kDTypes.begin(), kDTypes.end(), [&](auto& e) { return e.second == dtype; });
  assert(found != kDTypes.end());
  return found->first;
}

void sort_for_file(std::vector<TensorToWrite>& tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    const int64_t size_a = size_of(a.dtype);
    const int64_t size_b = size_of(b.dtype);
    return std::tie(size_b, a.name) < std::tie(size_a, b.name);
  });
}

void check_names(const std::vector<TensorToWrite>& tensors, const std::string& path) {
  std::vector<std::string_view> names;
  for (const TensorToWrite& t : tensors) names.push_back(t.name);
  names.push_back(kMetadataKey);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) fail("{}: the name {} is taken twice", path, quote(*twice));
}

void write_entry(JsonWriter& json, const TensorToWrite& tensor, int64_t begin) {
  json.begin_object().field("dtype", format_name(tensor.dtype));
  json.key("shape").begin_array();
  for (int i = 0; i < tensor.shape.rank(); ++i) json.value(tensor.shape[i]);
  json.end_array();
  json.key("data_offsets").begin_array().value(begin).value(begin + tensor.bytes()).end_array();
  json.end_object();
}

std::string header_of(const std::vector<TensorToWrite>& tensors, const Metadata& metadata) {
  JsonWriter json(JsonWriter::Style::one_line);
  json.begin_object();
  if (!metadata.empty()) {
    json.key(kMetadataKey).begin_object();
    for (const auto& [key, value] : metadata) json.field(key, value);
    json.end_object();
  }
  int64_t offset = 0;
  for (const TensorToWrite& t : tensors) {
    write_entry(json.key(t.name), t, offset);
    offset += t.bytes();
  }
  std::string header = json.end_object().text();
  header.resize((header.size() + kDataAlignment - 1) / kDataAlignment * kDataAlignment, ' ');
  return header;
}

std::span<const std::byte> bytes_of(const Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.raw()), static_cast<size_t>(tensor.bytes())};
}

}  // namespace

SafeTensors SafeTensors::parse(std::span<const std::byte> bytes, std::string name,
                               std::shared_ptr<const void> owner) {
  SafeTensors file;
  ByteReader reader(bytes, name);
  const Json header = Json::parse(take_header(reader), name + ": header");
  std::vector<Entry> entries;
  for (const auto& [key, value] : header.members()) {
    if (key == kMetadataKey) file.metadata_ = read_metadata(value);
    else entries.push_back(read_entry(key, value));
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  const SharedBytes data{reader.take(reader.remaining()), std::move(owner)};
  check_cover(entries, static_cast<int64_t>(data.bytes.size()), name);
  for (const auto& entry : entries) {
    file.index_.emplace(entry.name, file.tensors_.size());
    file.tensors_.push_back({entry.name, wrap_entry(entry, data)});
  }
  file.name_ = std::move(name);
  return file;
}

const Tensor* SafeTensors::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second].tensor;
}

const Tensor& SafeTensors::at(std::string_view name) const {
  if (const Tensor* tensor = find(name)) return *tensor;
  std::vector<std::string_view> names;
  for (const auto& t : tensors_) names.push_back(t.name);
  fail("{}: no tensor {} among its {}; the nearest: {}", name_, quote(name), names.size(),
       nearest_names(name, names));
}

SafeTensors open_safetensors(const std::string& path) {
  auto file = MappedFile::open(path);
  return SafeTensors::parse(file->bytes(), path, file);
}

void stream_safetensors(const std::string& path, std::vector<TensorToWrite> tensors,
                        const Metadata& metadata) {
  check_names(tensors, path);
  sort_for_file(tensors);
  const std::string header = header_of(tensors, metadata);
  ELAPSE_CHECK(header.size() <= kMaxHeaderBytes,
               "{}: expected a header of at most {} bytes, found {}", path, kMaxHeaderBytes,
               header.size());
  const auto length = static_cast<uint64_t>(header.size());
  int64_t total = static_cast<int64_t>(sizeof(length) + length);
  for (const TensorToWrite& t : tensors) total += t.bytes();
  write_file_atomically(path, [&](FileWriter& writer) {
    writer.expect(total);
    writer.write(std::as_bytes(std::span(&length, 1)));
    writer.write(header);
    for (const TensorToWrite& t : tensors) t.write(writer);
  });
}

void write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                       const Metadata& metadata) {
  std::vector<TensorToWrite> to_write;
  for (const NamedTensor& t : tensors) {
    ELAPSE_CHECK(t.tensor && t.tensor.is_contiguous(),
                 "{}: tensor {} is {}, expected a contiguous one", path, quote(t.name),
                 t.tensor ? "strided" : "empty");
    to_write.push_back({t.name, t.tensor.dtype(), t.tensor.shape(),
                        [&t](FileWriter& file) { file.write(bytes_of(t.tensor)); }});
  }
  stream_safetensors(path, std::move(to_write), metadata);
}

}  // namespace elapse
