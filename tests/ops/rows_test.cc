// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/rows.h"

#include "elapse/core/convert.h"
#include "tests/ops/op_test.h"

namespace elapse {
namespace {

using namespace op_test;

std::vector<int64_t> some_rows(Operands& o, int64_t count, int64_t rows) {
  std::vector<int64_t> index;
  for (int64_t i = 0; i < count; ++i) index.push_back(o.random().below(rows));
  return index;
}

TEST(Rows, AgreesWithRef) {
  for (const int64_t width : {1, 15, 16, 17, 130}) {
    for (const int64_t count : {0, 1, 7, 700}) {
      SCOPED_TRACE(::testing::Message() << count << " rows of " << width);
      const auto call = [&](Device& device, Operands& o) {
        const Tensor index = o.indices(some_rows(o, count, 11));
        gather_rows(device, {o.input({11, width}), index, o.assigned({count, width}, 3)});
        const Tensor dout = o.input({count, width}, -1, 1, 2);
        scatter_add_rows(device, {dout, index, o.accumulated({11, width})});
      };
      expect_backends_agree(call, kEpsilon * static_cast<double>(count + 1));
    }
  }
}

// As a vocabulary has them, and a token that half of a text is made of.
TEST(Rows, ManyRowsAreAddedToALargeTable) {
  const auto call = [](Device& device, Operands& o) {
    std::vector<int64_t> index;
    for (int64_t i = 0; i < 5000; ++i) {
      index.push_back(i % 2 == 0 ? 70'000 : o.random().below(70'001));
    }
    const Tensor dout = o.input({5000, 3});
    scatter_add_rows(device, {dout, o.indices(index), o.accumulated({70'001, 3})});
  };
  expect_backends_agree(call, kEpsilon * 2600);
}

TEST(Rows, TheLikeliestIsTheFirstOfTheGreatest) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<std::vector<double>> some = {{1, 3, 3, -5},
                                                 {-kInfinity, -2, -kInfinity, -2},
                                                 {-kInfinity, -kInfinity, -kInfinity, -kInfinity},
                                                 {1, kNan, 2, 3},
                                                 {1, 2, 3, kInfinity},
                                                 {-kInfinity, -kInfinity, -kInfinity, -1e30}};
  const std::vector<int64_t> expected = {1, 1, -1, -1, -1, 3};
  const auto call = [&](Device& device, Operands& o) {
    const Tensor logits = o.input({6, 4}, -1, 1, 3);
    size_t i = 0;
    for_each_offset(logits, [&](int64_t at) { put(logits, at, some[i / 4][i % 4]), ++i; });
    const Tensor index = o.output_of(DType::i64, {6});
    likeliest(device, {logits, index});
    device.synchronize();
    for (int64_t r = 0; r < 6; ++r) {
      EXPECT_EQ(index.data<int64_t>()[r], expected[static_cast<size_t>(r)]) << r;
    }
  };
  expect_backends_agree(call, 0);
}

TEST(Rows, TheLikeliestOfAVocabulary) {
  for (const int64_t classes : {1, 31, 1024, 1025, 50280}) {
    const auto call = [&](Device& device, Operands& o) {
      const Tensor logits = o.input({3, classes});
      // Some are the same number.
      for_each_offset(
          logits, [&](int64_t at) { put(logits, at, std::round(get(logits, at) * 512) / 512); });
      likeliest(device, {logits, o.output_of(DType::i64, {3})});
    };
    expect_backends_agree(call, 0);
  }
}

TEST(Rows, ScatterIsTheGradientOfGather) {
  Device ref("ref");
  Operands o(DType::f64);
  const Tensor table = o.input({4, 3}), index = o.indices({2, 0, 2, 2, 3});
  const Tensor out = o.assigned({5, 3}), dout = o.input({5, 3});
  const Tensor dtable = ref.zeros(DType::f64, {4, 3});
  scatter_add_rows(ref, {dout, index, dtable});
  const auto loss = [&] {
    gather_rows(ref, {table, index, out});
    return weighted_sum(out, dout);
  };
  expect_gradient(table, dtable, loss, "table");
}

TEST(Rows, AnIndexOutsideTheTableIsAnError) {
  Device cpu("cpu", 1);
  Operands o(DType::f32);
  const Tensor table = o.input({4, 3}), out = o.assigned({1, 3});
  for (const int64_t index : {int64_t{-1}, int64_t{4}, INT64_MIN, INT64_MAX}) {
    EXPECT_THROW(gather_rows(cpu, {table, o.indices({index}), out}), Error);
    EXPECT_THROW(scatter_add_rows(cpu, {out, o.indices({index}), table}), Error);
  }
}

TEST(Rows, NarrowTablesAreGatheredAsTheyAre) {
  for (const char* name : {"cpu", "ref"}) {
    Device device(name, 2);
    Operands o(DType::f32);
    const Tensor wide = o.input({5, 21}), index = o.indices({4, 0, 4, 2});
    for (const DType dtype : {DType::bf16, DType::f16}) {
      const Tensor table = device.empty(dtype, wide.shape());
      convert_elements(DType::f32, wide.raw(), dtype, table.raw(), wide.numel());
      const Tensor same = device.empty(DType::f32, wide.shape());
      convert_elements(dtype, table.raw(), DType::f32, same.raw(), wide.numel());
      const Tensor out = o.assigned({4, 21}, 3), expected = o.assigned({4, 21});
      gather_rows(device, GatherRows{table, index, out});
      gather_rows(device, GatherRows{same, index, expected});
      EXPECT_EQ(values(out), values(expected)) << name << ", " << name_of(dtype);
    }
  }
}

}  // namespace
}  // namespace elapse
