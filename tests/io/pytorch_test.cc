// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/pytorch.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <limits>

#include "tests/io/builders.h"
#include "tests/io/expect_error.h"

namespace elapse {
namespace {

std::string floats(const std::vector<float>& values) {
  std::string bytes;
  for (const float v : values) bytes += little_endian(v);
  return bytes;
}

const std::string kSix = floats({1, 2, 3, 4, 5, 6});

// An archive of torch.save around `pickle`, with six floats as storage "0".
ZipBuilder archive(const std::string& pickle, bool zip64 = false) {
  ZipBuilder zip(zip64);
  zip.add("model/data.pkl", pickle).add("model/data/0", kSix, 5).add("model/version", "3\n");
  return zip;
}

std::vector<NamedTensor> parsed(const std::string& bytes) {
  const auto buffer = std::make_shared<const Buffer>(buffer_of(bytes));
  return parse_pytorch(*buffer, "m.bin", buffer);
}

// {"a": torch._utils._rebuild_tensor_v2(...)}
PickleBuilder one_tensor(int32_t offset, const std::vector<int32_t>& sizes,
                         const std::vector<int32_t>& strides) {
  PickleBuilder pickle;
  pickle.op("}").text("a").tensor("FloatStorage", "0", 6, offset, sizes, strides).op("s");
  return pickle;
}

std::vector<float> elements(const Tensor& tensor) {
  return {tensor.data<float>(), tensor.data<float>() + tensor.numel()};
}

Tensor viewed(int32_t offset, const std::vector<int32_t>& sizes,
              const std::vector<int32_t>& strides) {
  return parsed(archive(one_tensor(offset, sizes, strides).bytes()).bytes()).at(0).tensor;
}

void expect_refused(const std::string& pickle, const std::string& part) {
  expect_error([&] { parsed(archive(pickle).bytes()); }, part);
}

TEST(Pytorch, reads_a_tensor_from_zip_and_zip64) {
  for (const bool zip64 : {false, true}) {
    const auto tensors = parsed(archive(one_tensor(0, {2, 3}, {3, 1}).bytes(), zip64).bytes());
    ASSERT_EQ(tensors.size(), 1u);
    EXPECT_EQ(tensors[0].name, "a");
    EXPECT_EQ(tensors[0].tensor.shape(), (Shape{2, 3}));
    EXPECT_EQ(elements(tensors[0].tensor), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  }
}

TEST(Pytorch, reads_views_of_any_stride) {
  EXPECT_EQ(elements(viewed(0, {3, 2}, {1, 3})), (std::vector<float>{1, 4, 2, 5, 3, 6}));
  EXPECT_EQ(elements(viewed(1, {3}, {2})), (std::vector<float>{2, 4, 6}));
  EXPECT_EQ(elements(viewed(2, {2, 2}, {2, 1})), (std::vector<float>{3, 4, 5, 6}));
  EXPECT_EQ(elements(viewed(1, {2, 3}, {0, 2})), (std::vector<float>{2, 4, 6, 2, 4, 6}));
  EXPECT_EQ(elements(viewed(0, {1, 2, 1, 2, 1}, {9, 1, 9, 2, 9})),
            (std::vector<float>{1, 3, 2, 4}));
}

TEST(Pytorch, reads_scalars_and_tensors_without_elements) {
  EXPECT_EQ(viewed(5, {}, {}).shape().rank(), 0);
  EXPECT_EQ(elements(viewed(5, {}, {})), std::vector<float>{6});
  const Tensor none = viewed(6, {0, 3}, {3, 1});
  EXPECT_EQ(none.shape(), (Shape{0, 3}));
  EXPECT_TRUE(none);
}

TEST(Pytorch, knows_every_storage_type) {
  const std::vector<std::pair<std::string, DType>> types = {
      {"DoubleStorage", DType::f64},    {"FloatStorage", DType::f32}, {"HalfStorage", DType::f16},
      {"BFloat16Storage", DType::bf16}, {"LongStorage", DType::i64},  {"IntStorage", DType::i32},
      {"ByteStorage", DType::u8}};
  for (const auto& [type, dtype] : types) {
    const auto numel = static_cast<int32_t>(24 / size_of(dtype));
    PickleBuilder pickle;
    pickle.op("}").text("a").tensor(type, "0", numel, 0, {numel}, {1}).op("s");
    const Tensor tensor = parsed(archive(pickle.bytes()).bytes()).at(0).tensor;
    EXPECT_EQ(tensor.dtype(), dtype);
    EXPECT_EQ(tensor.bytes(), 24);
    EXPECT_EQ(std::memcmp(tensor.raw(), kSix.data(), 24), 0);
  }
}

TEST(Pytorch, keeps_storages_shared) {
  PickleBuilder pickle;
  pickle.ordered_dict().op("(");
  pickle.text("a").tensor("FloatStorage", "0", 6, 0, {6}, {1});
  pickle.text("b").tensor("FloatStorage", "0", 6, 2, {2, 2}, {2, 1}).op("u");
  const auto tensors = parsed(archive(pickle.bytes()).bytes());
  EXPECT_EQ(tensors[0].tensor.data<float>() + 2, tensors[1].tensor.data<float>());
}

TEST(Pytorch, reads_parameters_and_a_state_dicts_attributes) {
  PickleBuilder pickle;
  pickle.ordered_dict().text("a").global("torch._utils", "_rebuild_parameter").op("(");
  pickle.tensor("FloatStorage", "0", 6, 0, {6}, {1}).op("\x88").ordered_dict().op("tRs");
  pickle.op("}").text("_metadata").ordered_dict().op("sb");
  const auto tensors = parsed(archive(pickle.bytes()).bytes());
  ASSERT_EQ(tensors.size(), 1u);
  EXPECT_EQ(tensors[0].tensor.numel(), 6);
}

TEST(Pytorch, refuses_views_beyond_their_storage) {
  const std::string part = "does not fit its storage of 6 elements";
  constexpr int32_t kMax = std::numeric_limits<int32_t>::max();
  expect_refused(one_tensor(0, {7}, {1}).bytes(), part);
  expect_refused(one_tensor(1, {6}, {1}).bytes(), part);
  expect_refused(one_tensor(0, {2, 3}, {4, 1}).bytes(), part);
  expect_refused(one_tensor(-1, {1}, {1}).bytes(), part);
  expect_refused(one_tensor(5, {2}, {-1}).bytes(), part);
  expect_refused(one_tensor(7, {0}, {1}).bytes(), part);
  expect_refused(one_tensor(6, {}, {}).bytes(), part);
  expect_refused(one_tensor(kMax, {kMax, 2}, {kMax, kMax}).bytes(), part);
}

TEST(Pytorch, refuses_sizes_that_make_no_tensor) {
  constexpr int32_t kMax = std::numeric_limits<int32_t>::max();
  expect_refused(one_tensor(0, {-1}, {1}).bytes(), "expected sizes of at least 0, found -1");
  expect_refused(one_tensor(0, {kMax, kMax, kMax}, {0, 0, 0}).bytes(), "does not fit 63 bits");
  expect_refused(one_tensor(0, {1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1}).bytes(),
                 "expected at most 5 dimensions, found 6");
  expect_refused(one_tensor(0, {2, 3}, {1}).bytes(),
                 "expected 2 strides for a tensor (2, 3), found 1");
}

TEST(Pytorch, refuses_to_blow_up_few_bytes) {
  expect_refused(one_tensor(0, {1'000'000'000}, {0}).bytes(), "more than 4 times its size");
}

TEST(Pytorch, refuses_storages_that_are_not_what_they_claim) {
  const auto with = [](const std::string& type, const std::string& key, int32_t numel) {
    return PickleBuilder().op("}").text("a").tensor(type, key, numel, 0, {1}, {1}).op("s").bytes();
  };
  expect_refused(with("FloatStorage", "0", 7),
                 "storage \"0\": expected 7 elements f32, found 24 bytes");
  expect_refused(with("FloatStorage", "0", -1), "expected -1 elements");
  expect_refused(with("DoubleStorage", "0", 6), "expected 6 elements f64");
  expect_refused(with("FloatStorage", "1", 6), "expected an entry \"model/data/1\", found none");
  expect_refused(with("FloatStorage", "../version", 6), "expected an entry");
  expect_refused(with("BoolStorage", "0", 24), "\"torch.BoolStorage\" is not allowed");
}

// Entries are views of the archive, whatever their names say; no file is ever made from one.
TEST(Pytorch, finds_storages_inside_of_the_archive_alone) {
  for (const std::string key : {"../version", "../../../etc/passwd", "/etc/passwd", ""}) {
    PickleBuilder pickle;
    pickle.op("}").text("a").tensor("FloatStorage", key, 6, 0, {6}, {1}).op("s");
    expect_refused(pickle.bytes(), "expected an entry \"model/data/" + key + "\", found none");
  }
}

TEST(Pytorch, refuses_persistent_ids_of_other_kinds) {
  expect_refused(PickleBuilder().op("NQ").bytes(),
                 "expected a persistent id that is a tuple, found None");
  expect_refused(PickleBuilder().integers({1}).op("Q").bytes(),
                 "expected a persistent id of 5 items, found 1");
  expect_refused(PickleBuilder().integers({1, 2, 3, 4, 5}).op("Q").bytes(),
                 "kind, found an integer");
  PickleBuilder other;
  other.op("(").text("module").op("NNNNtQ");
  expect_refused(other.bytes(), "kind \"storage\", found \"module\"");
  PickleBuilder type;
  type.op("(").text("storage").global("collections", "OrderedDict").text("0").text("cpu").op("NtQ");
  expect_refused(type.bytes(), "expected a storage's type, found collections.OrderedDict");
}

TEST(Pytorch, refuses_other_code_by_name) {
  PickleBuilder pickle;
  pickle.global("posix", "system").text("true").op("\x85R");
  expect_refused(pickle.bytes(),
                 "m.bin: data.pkl: pickle opcode at byte 2: \"posix.system\" is not allowed");
  expect_refused(PickleBuilder().global("torch", "FloatStorage").op(")R").bytes(),
                 "a call of torch.FloatStorage with 0 arguments is not allowed");
  expect_refused(PickleBuilder().global("collections", "OrderedDict").op("]\x85R").bytes(),
                 "a call of collections.OrderedDict with 1 arguments is not allowed");
  expect_refused(PickleBuilder().global("torch._utils", "_rebuild_tensor_v2").op(")R").bytes(),
                 "expected 6 arguments to torch._utils._rebuild_tensor_v2, found 0");
}

TEST(Pytorch, refuses_what_is_not_a_dict_of_tensors) {
  expect_refused(PickleBuilder().op("]").bytes(),
                 "m.bin: expected a dict of tensors, found a list");
  expect_refused(PickleBuilder().op("}NNs").bytes(),
                 "expected a string as a tensor's name, found None");
  expect_refused(PickleBuilder().op("}").text("epoch").integer(3).op("s").bytes(),
                 "m.bin: entry \"epoch\": expected a tensor, found an integer");
  PickleBuilder twice = one_tensor(0, {6}, {1});
  twice.text("a").tensor("FloatStorage", "0", 6, 0, {6}, {1}).op("s");
  expect_refused(twice.bytes(), "tensor \"a\" occurs twice");
}

TEST(Pytorch, checks_the_archive_around_the_pickle) {
  const std::string pickle = one_tensor(0, {6}, {1}).bytes();
  EXPECT_EQ(parsed(archive(pickle).add("model/byteorder", "little").bytes()).size(), 1u);
  expect_error([&] { parsed(archive(pickle).add("model/byteorder", "big").bytes()); },
               "expected byte order \"little\", found \"big\"");
  expect_error([] { parsed(ZipBuilder().add("model/other", "").bytes()); }, "none of its data.pkl");
  expect_error([] { parsed("\x80\x02N."); }, "found a pickle as PyTorch before 1.6 saved it");
  std::string damaged = archive(pickle).bytes();
  damaged[damaged.find("OrderedDict")] ^= 1;
  expect_error([&] { parsed(damaged); }, "m.bin: data.pkl: damaged");
}

TEST(Pytorch, refuses_a_file_cut_short_anywhere) {
  const std::string bytes = archive(one_tensor(0, {6}, {1}).bytes()).bytes();
  for (size_t n = 0; n < bytes.size(); ++n) EXPECT_THROW(parsed(bytes.substr(0, n)), Error) << n;
}

TEST(Pytorch, refuses_a_pickle_cut_short_anywhere) {
  const std::string pickle = one_tensor(0, {3, 2}, {1, 3}).bytes();
  for (size_t n = 0; n < pickle.size(); ++n) {
    EXPECT_THROW(parsed(archive(pickle.substr(0, n)).bytes()), Error) << n;
  }
}

TEST(Pytorch, reads_a_checkpoint_that_pytorch_has_written) {
  const std::string path = "../shared/goldens/mamba1-original/pytorch_model.bin";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no golden checkpoint at " << path;
  const auto tensors = open_pytorch(path);
  ASSERT_EQ(tensors.size(), 23u);
  EXPECT_EQ(tensors[0].name, "backbone.embedding.weight");
  EXPECT_EQ(tensors[0].tensor.shape(), (Shape{64, 24}));
  EXPECT_EQ(tensors.back().name, "lm_head.weight");
  EXPECT_EQ(tensors.back().tensor.raw(), tensors[0].tensor.raw());  // tied
}

}  // namespace
}  // namespace elapse
