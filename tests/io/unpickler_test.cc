// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/unpickler.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/io/builders.h"
#include "tests/io/expect_error.h"

namespace elapse {
namespace {

// Allows `test.count`, which counts its arguments; persistent ids load as themselves.
class TestHost final : public PickleHost {
 public:
  bool allows(std::string_view global) const override { return global == "test.count"; }
  PickleValue call(std::string_view, const PickleValues& arguments) override {
    return static_cast<int64_t>(arguments.size());
  }
  PickleValue load_persistent(const PickleValue& id) override { return id; }
};

Pickle unpickled(const std::string& bytes) {
  TestHost host;
  const Buffer buffer = buffer_of(bytes);
  return unpickle(buffer, "data.pkl", host);
}

Pickle run(const std::string& opcodes) { return unpickled(PickleBuilder().op(opcodes).bytes()); }

void expect_refused(const std::string& opcodes, const std::string& part) {
  expect_error([&] { run(opcodes); }, part);
}

template <class T>
T value(const std::string& opcodes) {
  const Pickle pickle = run(opcodes);
  return std::get<T>(*pickle.root);
}

TEST(Unpickler, reads_scalars) {
  value<PickleNone>("N");
  EXPECT_TRUE(value<bool>("\x88"));
  EXPECT_FALSE(value<bool>("\x89"));
  EXPECT_EQ(value<int64_t>("K\xff"), 255);
  EXPECT_EQ(value<int64_t>("M\x01\x02"), 513);
  EXPECT_EQ(value<int64_t>("J\xfe\xff\xff\xff"), -2);
  EXPECT_EQ(value<double>(std::string("G\x3f\xf8\0\0\0\0\0\0", 9)), 1.5);
  EXPECT_EQ(value<std::string>(std::string("X\x02\0\0\0\xc3\xa9", 7)), "\xc3\xa9");
}

TEST(Unpickler, reads_long_integers) {
  EXPECT_EQ(value<int64_t>(std::string("\x8a\0", 2)), 0);
  EXPECT_EQ(value<int64_t>("\x8a\x01\xff"), -1);
  EXPECT_EQ(value<int64_t>(std::string("\x8a\x02\xff\0", 4)), 255);
  EXPECT_EQ(value<int64_t>(std::string("\x8a\x05\0\0\0\0\x01", 7)), int64_t{1} << 32);
  EXPECT_EQ(value<int64_t>(std::string("\x8a\x08\0\0\0\0\0\0\0\x80", 10)),
            std::numeric_limits<int64_t>::min());
  expect_refused("\x8a\x09" + std::string(9, '\1'), "an integer of more than 64 bits");
}

TEST(Unpickler, reads_containers) {
  EXPECT_TRUE(value<PickleTuple>(")").items.empty());
  EXPECT_EQ(value<PickleTuple>("N\x85").items.size(), 1u);
  EXPECT_EQ(value<PickleTuple>("NN\x86").items.size(), 2u);
  EXPECT_EQ(value<PickleTuple>("NNN\x87").items.size(), 3u);
  EXPECT_EQ(value<PickleTuple>("(NNNNt").items.size(), 4u);
  EXPECT_EQ(value<PickleList>("]Na(NNe").items.size(), 3u);
  EXPECT_EQ(value<PickleDict>("}NNs(NNNNu").items.size(), 3u);
  const Pickle pickle = run("K\x01K\x02\x86");
  const auto& items = std::get<PickleTuple>(*pickle.root).items;
  EXPECT_EQ(std::get<int64_t>(*items[0]), 1);
  EXPECT_EQ(std::get<int64_t>(*items[1]), 2);
}

TEST(Unpickler, comes_back_to_values_it_kept) {
  const std::string long_key = little_endian(uint32_t{70000});
  const Pickle pickle = run("]q\x07r" + long_key + "h\x07j" + long_key + "\x87");
  const auto& items = std::get<PickleTuple>(*pickle.root).items;
  EXPECT_EQ(items[0], items[1]);
  EXPECT_EQ(items[0], items[2]);
}

TEST(Unpickler, takes_values_that_hold_themselves) {
  const Pickle pickle =
      run("]q\x01h\x01"
          "a");
  EXPECT_EQ(std::get<PickleList>(*pickle.root).items[0], pickle.root);
}

TEST(Unpickler, calls_what_the_host_allows_and_nothing_else) {
  EXPECT_EQ(value<int64_t>("ctest\ncount\nNN\x86R"), 2);
  EXPECT_EQ(value<int64_t>("K\x05Q"), 5);
  expect_refused("cposix\nsystem\nX\x02\0\0\0ls\x85R", "\"posix.system\" is not allowed");
  expect_refused("c__builtin__\neval\n", "\"__builtin__.eval\" is not allowed");
  expect_refused("ctest\ncount.__globals__\n", "\"test.count.__globals__\" is not allowed");
  expect_refused("NN\x85R", "calls None, expected a function");
  expect_refused("ctest\ncount\nNR", "calls with None, expected a tuple");
}

TEST(Unpickler, drops_the_attributes_of_dicts_alone) {
  EXPECT_EQ(value<PickleDict>("}NNs}NNsb").items.size(), 1u);
  expect_refused("N}b", "expected a dict, found None");
  expect_refused("ctest\ncount\n}b", "expected a dict, found a global");
}

TEST(Unpickler, refuses_opcodes_that_torch_does_not_write) {
  const std::string known = "(.JKMNQRXabcehjqrstu)]}G\x80\x85\x86\x87\x88\x89\x8a";
  for (int opcode = 0; opcode < 256; ++opcode) {
    const char c = static_cast<char>(opcode);
    if (known.find(c) != known.npos && c != '\x80') continue;
    expect_refused(std::string(1, c), fmt::format("0x{:02x}", opcode));
    expect_refused(std::string(1, c), " is none that torch.save writes");
  }
  expect_refused("\x93", "0x93 (STACK_GLOBAL) is none");
  expect_refused("i", "0x69 (INST) is none");
  expect_refused("\xff", "0xff is none");
  expect_error([] { unpickled("\x80\x04N."); }, "expected a pickle of protocol 2");
  expect_error([] { unpickled("N."); }, "expected a pickle of protocol 2");
}

TEST(Unpickler, refuses_a_stack_that_runs_dry) {
  for (const char* opcodes : {"", "a", "\x85", "N\x86", "NN\x87", "R", "NR", "b", "Q", "s", "}Ns",
                              "q\x01", "(\x85", "N(q\x01", "]N(a"}) {
    expect_refused(opcodes, "takes a value where none is");
  }
  for (const char* opcodes : {"t", "e", "u", "]Ne"}) expect_refused(opcodes, "up to a mark");
  expect_refused("NN", "left over");
  expect_refused("(N", "left over");
  expect_refused("h\x01", "no value has been kept as 1");
}

TEST(Unpickler, refuses_values_of_the_wrong_type) {
  expect_refused("NNa", "expected a list, found None");
  expect_refused("}(NNe", "expected a list, found a dict");
  expect_refused("]NNs", "expected a dict, found a list");
  expect_refused("}(NNNu", "a key without a value");
}

TEST(Unpickler, refuses_text_that_is_not_utf8_or_longer_than_the_file) {
  expect_refused(std::string("X\x01\0\0\0\xff", 6), "not UTF-8: \"\\xff\"");
  expect_refused("X\xff\xff\xff\xff", "cut short");
}

TEST(Unpickler, refuses_a_pickle_cut_short_anywhere) {
  const std::string bytes =
      PickleBuilder().op("}(").text("key").global("test", "count").op(")Ru}b").bytes();
  EXPECT_EQ(std::get<PickleDict>(*unpickled(bytes).root).items.size(), 1u);
  for (size_t n = 0; n < bytes.size(); ++n) EXPECT_THROW(unpickled(bytes.substr(0, n)), Error) << n;
}

TEST(Unpickler, limits_the_number_of_values) {
  expect_refused("(" + std::string((1 << 20) + 1, 'N') + "t", "more than 1048576 values");
  EXPECT_EQ(value<PickleTuple>("(" + std::string((1 << 20) - 1, 'N') + "t").items.size(),
            (1u << 20) - 1);
}

TEST(Unpickler, survives_deep_nesting) {
  std::string opcodes;
  for (int i = 0; i < 200'000; ++i) opcodes += "]";
  for (int i = 1; i < 200'000; ++i) opcodes += "a";
  EXPECT_EQ(value<PickleList>(opcodes).items.size(), 1u);
  expect_refused(std::string(1'000'000, '('), "data.pkl: ");
}

}  // namespace
}  // namespace elapse
