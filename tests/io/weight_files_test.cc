// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/weight_files.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "elapse/io/file.h"
#include "elapse/io/safetensors.h"
#include "tests/io/expect_error.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

ShardIndex parsed(const std::string& text) { return parse_shard_index(text, "index"); }

std::string index_of(const std::string& weight_map) {
  return R"({"metadata": {"total_size": 1}, "weight_map": )" + weight_map + "}";
}

class WeightFiles : public testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) {
    write_file_atomically(folder_ / name, [&](FileWriter& file) { file.write(text); });
  }
  // A file with these tensors of one element each.
  void write_tensors(const std::string& file, const std::vector<std::string>& names) {
    static float one = 1;
    std::vector<NamedTensor> tensors;
    for (const std::string& name : names) {
      tensors.push_back({name, Tensor::wrap(&one, DType::f32, {1})});
    }
    write_safetensors(folder_ / file, tensors, {{"made", "here"}});
  }
  void write_index(const std::string& weight_map) {
    write("model.safetensors.index.json", index_of(weight_map));
  }
  void expect_refused(const std::string& part) {
    expect_error([&] { open_weights(folder_.path()); }, part);
  }

  TemporaryFolder folder_;
};

TEST(ShardIndex, says_which_file_holds_what) {
  const ShardIndex index = parsed(index_of(R"({"a": "x", "b": "y", "c": "x"})"));
  EXPECT_EQ(index, (ShardIndex{{"x", {"a", "c"}}, {"y", {"b"}}}));
  EXPECT_EQ(parsed(shard_index_json(index, 12)), index);
  EXPECT_NE(shard_index_json(index, 12).find("\"total_size\": 12"), std::string::npos);
}

TEST(ShardIndex, names_no_file_outside_of_its_folder) {
  for (const std::string name :
       {"../m", "/etc/passwd", "a/b", "..", ".", "", "a\\\\b", "a\\u0000b", "./a", "a/", "//"}) {
    expect_error([&] { parsed(index_of("{\"t\": \"" + name + "\"}")); },
                 "index: field \"weight_map.t\": expected the plain name of a file");
  }
}

TEST(ShardIndex, refuses_what_is_none) {
  for (const std::string text :
       {"", "[]", "{}", "{\"weight_map\": []}", "{\"weight_map\": {\"a\": 1}}",
        "{\"weight_map\": {\"a\": \"x\", \"a\": \"y\"}}"}) {
    expect_error([&] { parsed(text); }, "index");
  }
  expect_error([] { parsed(index_of("{}")); }, "expected tensors, found none");
}

TEST_F(WeightFiles, are_found_in_the_order_transformers_looks) {
  expect_refused("found none of them");
  write("pytorch_model.bin.index.json", "no index");
  expect_refused("pytorch_model.bin.index.json");
  write("pytorch_model.bin", "no archive");
  expect_refused("pytorch_model.bin: not a zip archive");
  write_tensors("part.safetensors", {"a"});
  write_index(R"({"a": "part.safetensors"})");
  EXPECT_EQ(open_weights(folder_.path()).source, folder_ / "model.safetensors.index.json");
  write_tensors("model.safetensors", {"b"});
  const Weights weights = open_weights(folder_.path());
  EXPECT_EQ(weights.source, folder_ / "model.safetensors");
  EXPECT_EQ(weights.files[0].tensors[0].name, "b");
}

TEST_F(WeightFiles, come_in_shards) {
  write_tensors("x.safetensors", {"a", "c"});
  write_tensors("y.safetensors", {"b"});
  write_index(R"({"a": "x.safetensors", "b": "y.safetensors", "c": "x.safetensors"})");
  const Weights weights = open_weights(folder_.path());
  ASSERT_EQ(weights.files.size(), 2u);
  EXPECT_EQ(weights.files[0].path, folder_ / "x.safetensors");
  EXPECT_EQ(weights.files[0].tensors.size(), 2u);
  EXPECT_EQ(weights.files[1].tensors[0].name, "b");
  EXPECT_EQ(weights.files[1].metadata.at("made"), "here");
}

TEST_F(WeightFiles, hold_what_the_index_says_and_nothing_else) {
  write_tensors("x.safetensors", {"a", "c"});
  write_index(R"({"a": "x.safetensors"})");
  expect_refused("x.safetensors: tensor \"c\" is in it, but");
  write_index(R"({"a": "x.safetensors", "b": "x.safetensors", "c": "x.safetensors"})");
  expect_refused("x.safetensors: tensor \"b\" is missing, which");
  write_index(R"({"a": "x.safetensors", "c": "y.safetensors"})");
  expect_refused("x.safetensors: tensor \"c\" is in it, but");
  write_index(R"({"a": "z.safetensors"})");
  expect_refused("index.json: the file \"z.safetensors\" that it names is missing");
  write_index(R"({"a": "config.json"})");
  expect_refused("expected files that end with .safetensors, found \"config.json\"");
}

TEST_F(WeightFiles, of_other_names_are_known_by_what_they_hold) {
  write_tensors("saved.state", {"a"});
  EXPECT_EQ(open_weight_file(folder_ / "saved.state").files[0].tensors[0].name, "a");
  write("other", "PK\x03\x04 and nothing");
  expect_error([&] { open_weight_file(folder_ / "other"); }, "not a zip archive");
}

TEST_F(WeightFiles, may_be_links_as_in_download_caches) {
  write_tensors("blob", {"a"});
  std::filesystem::create_symlink("blob", folder_ / "model.safetensors");
  EXPECT_EQ(open_weights(folder_.path()).files[0].tensors.size(), 1u);
}

TEST(IsWeightFile, by_its_name) {
  for (const char* name :
       {"model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin",
        "model.safetensors.index.json", "pytorch_model-00012-of-00345.bin"}) {
    EXPECT_TRUE(is_weight_file(name)) << name;
  }
  for (const char* name : {"config.json", "notes.bin", "model.py", "model-old.safetensors", "model",
                           "model-0000x-of-00002.safetensors", "model-00001-of-00002.bin", ""}) {
    EXPECT_FALSE(is_weight_file(name)) << name;
  }
}

}  // namespace
}  // namespace elapse
