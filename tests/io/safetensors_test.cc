// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/safetensors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <numeric>

#include "elapse/io/file.h"
#include "tests/io/builders.h"
#include "tests/io/expect_error.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

SafeTensors parsed(const std::string& bytes) {
  const auto buffer = std::make_shared<const Buffer>(buffer_of(bytes));
  return SafeTensors::parse(*buffer, "m.safetensors", buffer);
}

void expect_refused(const std::string& header, size_t data_bytes, const std::string& part) {
  const std::string bytes = safetensors_bytes(header, std::string(data_bytes, 'x'));
  expect_error([&] { parsed(bytes); }, part);
}

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

NamedTensor sample(Pool& pool, const std::string& name, DType dtype, Shape shape) {
  Tensor tensor = Tensor::empty(pool, dtype, shape);
  auto* bytes = static_cast<unsigned char*>(tensor.raw());
  std::iota(bytes, bytes + tensor.bytes(), static_cast<unsigned char>(name.size()));
  return {name, tensor};
}

std::vector<NamedTensor> all_samples(Pool& pool) {
  return {sample(pool, "u8", DType::u8, {3}),
          sample(pool, "f16", DType::f16, {5, 1}),
          sample(pool, "a.bf16", DType::bf16, {1, 1, 1, 1, 3}),
          sample(pool, "f32", DType::f32, {2, 3}),
          sample(pool, "scalar", DType::f32, {}),
          sample(pool, "no rows", DType::f32, {0, 7}),
          sample(pool, "no columns", DType::f64, {7, 0}),
          sample(pool, "i32", DType::i32, {1}),
          sample(pool, "f64", DType::f64, {3}),
          sample(pool, "i64 \xc3\xa9\"\\\n", DType::i64, {2})};
}

std::string_view view_of(const Tensor& tensor) {
  return {static_cast<const char*>(tensor.raw()), static_cast<size_t>(tensor.bytes())};
}

TEST(SafeTensors, come_back_as_they_were_written) {
  Pool pool(host_memory());
  const TemporaryFolder folder;
  const std::map<std::string, std::string> metadata = {{"format", "pt"}, {"é", ""}};
  const auto samples = all_samples(pool);
  write_safetensors(folder / "m", samples, metadata);
  const SafeTensors file = open_safetensors(folder / "m");
  EXPECT_EQ(file.metadata(), metadata);
  ASSERT_EQ(file.tensors().size(), samples.size());
  for (const auto& [name, tensor] : samples) {
    const Tensor& found = file.at(name);
    EXPECT_EQ(found.dtype(), tensor.dtype()) << name;
    EXPECT_EQ(found.shape(), tensor.shape()) << name;
    EXPECT_EQ(view_of(found), view_of(tensor)) << name;
    EXPECT_TRUE(found) << name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(found.raw()) % size_of(tensor.dtype()), 0u) << name;
  }
}

TEST(SafeTensors, may_hold_nothing) {
  const TemporaryFolder folder;
  write_safetensors(folder / "m", {});
  EXPECT_EQ(read_text(folder / "m"), little_endian(uint64_t{8}) + "{}      ");
  EXPECT_TRUE(open_safetensors(folder / "m").tensors().empty());
}

TEST(SafeTensors, are_written_byte_for_byte_the_same_in_any_order) {
  Pool pool(host_memory());
  const TemporaryFolder folder;
  auto samples = all_samples(pool);
  write_safetensors(folder / "a", samples, {{"x", "1"}, {"y", "2"}});
  std::reverse(samples.begin(), samples.end());
  write_safetensors(folder / "b", samples, {{"y", "2"}, {"x", "1"}});
  EXPECT_EQ(read_text(folder / "a"), read_text(folder / "b"));
}

TEST(SafeTensors, are_written_as_the_format_says) {
  Pool pool(host_memory());
  const TemporaryFolder folder;
  write_safetensors(folder / "m",
                    {sample(pool, "b", DType::u8, {1}), sample(pool, "a", DType::f16, {1, 2})});
  const std::string header = R"({"a": {"dtype": "F16", "shape": [1, 2], "data_offsets": [0, 4]}, )"
                             R"("b": {"dtype": "U8", "shape": [1], "data_offsets": [4, 5]}})";
  const std::string padded = header + std::string((8 - header.size() % 8) % 8, ' ');
  EXPECT_EQ(read_text(folder / "m"), safetensors_bytes(padded, "\x01\x02\x03\x04\x01"));
}

TEST(SafeTensors, may_be_many) {
  constexpr int kCount = 20000;  // a reader whose work grows with the square takes minutes
  std::string header = "{";
  for (int i = 0; i < kCount; ++i) {
    header += (i == 0 ? "\"t" : ", \"t") + std::to_string(i) +
              R"(": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})";
  }
  EXPECT_EQ(parsed(safetensors_bytes(header + "}", "")).tensors().size(), size_t{kCount});
}

TEST(SafeTensors, outlive_the_object_that_read_them) {
  const std::string header = R"({"a":)" + entry("U8", "[2]", "[0,2]") + "}";
  const Tensor tensor = parsed(safetensors_bytes(header, "hi")).at("a");
  EXPECT_EQ(view_of(tensor), "hi");
}

TEST(SafeTensors, are_copied_where_they_lie_misaligned) {
  for (size_t padding = 0; padding < 8; ++padding) {
    const std::string header = R"({"a":)" + entry("U8", "[1]", "[0,1]") + R"(,"b":)" +
                               entry("F64", "[1]", "[1,9]") + "}" + std::string(padding, ' ');
    const double value = 1.25;
    const auto file = parsed(safetensors_bytes(header, "x" + little_endian(value)));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(file.at("b").raw()) % 8, 0u);
    EXPECT_EQ(*file.at("b").data<double>(), value);
    EXPECT_EQ(file.tensors()[0].name, "a");
  }
}

TEST(SafeTensors, lists_the_nearest_names_for_one_it_lacks) {
  const std::string u8 = entry("U8", "[0]", "[0,0]");
  const auto file = parsed(safetensors_bytes(
      R"({"norm.weight":)" + u8 + R"(,"embedding.weight":)" + u8 + R"(,"D":)" + u8 + "}", ""));
  EXPECT_EQ(file.find("embeddings.weight"), nullptr);
  expect_error([&] { file.at("embeddings.weight"); },
               "m.safetensors: no tensor \"embeddings.weight\" among its 3; the nearest: "
               "\"embedding.weight\", \"norm.weight\"");
}

TEST(SafeTensors, refuse_a_file_cut_short_anywhere_or_too_long) {
  const std::string bytes = safetensors_bytes(
      R"({"__metadata__":{"k":"v"},"a":)" + entry("F32", "[2]", "[0,8]") + "}", "12345678");
  EXPECT_EQ(parsed(bytes).tensors().size(), 1u);
  for (size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_THROW(parsed(bytes.substr(0, n)), Error) << n;
  }
  expect_error([&] { parsed(bytes + "x"); }, "expected 8 bytes of elements, found 9");
}

TEST(SafeTensors, survive_any_single_byte_changed) {
  const std::string bytes = safetensors_bytes(
      R"({"__metadata__":{"k":"v"},"a":)" + entry("F32", "[2]", "[0,8]") + "}", "12345678");
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (const char c : {'\0', '\xff', '"', '9', '-', ']', ' '}) {
      std::string changed = bytes;
      changed[i] = c;
      try {
        parsed(changed);
      } catch (const Error&) {
      }
    }
  }
}

TEST(SafeTensors, refuse_a_header_that_is_none) {
  expect_error([] { parsed(little_endian(~uint64_t{0}) + "{}"); },
               "expected a header of at most 100000000 bytes, found 18446744073709551615");
  expect_error([] { parsed(little_endian(uint64_t{100'000'000}) + "{}"); }, "cut short");
  expect_refused("", 0, "expected a header that begins with '{'");
  expect_refused(" {}", 0, "expected a header that begins with '{', found \" \"");
  expect_refused("[]", 0, "expected a header that begins with '{'");
  expect_refused("{} x", 0, "not JSON");
  expect_refused("{\"\xff\": 1}", 0, "not UTF-8");
  expect_refused(R"({"a":)" + std::string(1000, '[') + "}", 0, "nested more than 64 deep");
}

TEST(SafeTensors, refuse_names_twice) {
  const std::string u8 = entry("U8", "[0]", "[0,0]");
  expect_refused(R"({"a":)" + u8 + R"(,"a":)" + u8 + "}", 0, "the key \"a\" occurs twice");
}

TEST(SafeTensors, refuse_metadata_that_is_not_text) {
  expect_refused(R"({"__metadata__":{"k":1}})", 0,
                 "header: field \"__metadata__.k\": expected text, found 1");
  expect_refused(R"({"__metadata__":[]})", 0, "expected an object, found an array");
}

TEST(SafeTensors, refuse_entries_of_the_wrong_types) {
  const auto one = [](const std::string& e) { return R"({"a":)" + e + "}"; };
  expect_refused(one("3"), 0, "field \"a\": expected an object, found 3");
  expect_refused(one(R"({"shape":[],"data_offsets":[0,4]})"), 4, "expected a field \"dtype\"");
  expect_refused(one(R"({"dtype":"F32","data_offsets":[0,4]})"), 4, "expected a field \"shape\"");
  expect_refused(one(R"({"dtype":"F32","shape":[]})"), 4, "expected a field \"data_offsets\"");
  expect_refused(one(entry("F8_E4M3", "[4]", "[0,4]")), 4, "and U8, found \"F8_E4M3\"");
  expect_refused(one(entry("f32", "[1]", "[0,4]")), 4, "found \"f32\"");
  expect_refused(one(entry("F32", "[1.0]", "[0,4]")), 4,
                 "field \"a.shape[0]\": expected an integer");
  expect_refused(one(entry("F32", "[-1]", "[0,4]")), 4, "expected sizes of at least 0, found -1");
  expect_refused(one(entry("F32", "1", "[0,4]")), 4,
                 "field \"a.shape\": expected an array, found 1");
  expect_refused(one(entry("U8", "[1,1,1,1,1,1]", "[0,1]")), 1,
                 "expected at most 5 dimensions, found 6");
}

TEST(SafeTensors, refuse_offsets_that_do_not_fit) {
  const auto one = [](const std::string& e) { return R"({"a":)" + e + "}"; };
  for (const char* offsets : {"[4]", "[0,4,8]", "[4,0]", "[-4,0]", "[]"}) {
    expect_refused(one(entry("F32", "[1]", offsets)), 4, "field \"a.data_offsets\": expected two");
  }
  expect_refused(one(entry("F32", "[1]", "[0,8]")), 8,
                 "expected 4 bytes for (1) elements f32, found 8");
  expect_refused(one(entry("F32", "[2]", "[0,8]")), 4, "expected 8 bytes of elements, found 4");
  expect_refused(one(entry("F32", "[1]", "[9223372036854775803,9223372036854775807]")), 4,
                 "at offset 0");
}

TEST(SafeTensors, refuse_sizes_that_overflow) {
  for (const char* shape : {"[4294967296,4294967296]", "[9223372036854775807]",
                            "[0,4294967296,4294967296]", "[4294967296,4294967296,0]"}) {
    expect_refused(R"({"a":)" + entry("F32", shape, "[0,0]") + "}", 0, "does not fit 63 bits");
  }
}

TEST(SafeTensors, refuse_overlaps_and_holes) {
  const auto two = [](const std::string& a, const std::string& b) {
    return R"({"a":)" + entry("U8", "[4]", a) + R"(,"b":)" + entry("U8", "[4]", b) + "}";
  };
  EXPECT_EQ(parsed(safetensors_bytes(two("[4,8]", "[0,4]"), "12345678")).tensors()[0].name, "b");
  expect_refused(two("[0,4]", "[3,7]"), 7,
                 "tensor \"b\" at offset 4, found it at 3: tensors overlap");
  expect_refused(two("[0,4]", "[0,4]"), 4, "tensors overlap");
  expect_refused(two("[0,4]", "[5,9]"), 9, "found it at 5: a hole before it");
  expect_refused(two("[1,5]", "[5,9]"), 9, "a hole before it");
}

TEST(WriteSafetensors, refuses_what_cannot_be_read_back) {
  Pool pool(host_memory());
  const TemporaryFolder folder;
  const auto a = sample(pool, "a", DType::f32, {4, 4});
  const auto write = [&](std::vector<NamedTensor> tensors) {
    write_safetensors(folder / "m", std::move(tensors));
  };
  expect_error([&] { write({a, a}); }, "the name \"a\" is taken twice");
  expect_error([&] { write({{"__metadata__", a.tensor}}); }, "\"__metadata__\" is taken twice");
  expect_error([&] { write({{"a", a.tensor.columns(0, 2)}}); }, "tensor \"a\" is strided");
  expect_error([&] { write({{"a", Tensor()}}); }, "tensor \"a\" is empty");
  expect_error([&] { write({{"\xff", a.tensor}}); }, "not UTF-8");
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(OpenSafetensors, names_the_file) {
  const TemporaryFolder folder;
  write_file_atomically(folder / "m", [](FileWriter& w) { w.write("abc"); });
  expect_error([&] { open_safetensors(folder / "m"); }, (folder / "m") + ": cut short");
}

}  // namespace
}  // namespace elapse
