// SPDX-License-Identifier: Apache-2.0
#include "elapse/core/convert.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "elapse/core/random.h"

namespace elapse {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class To, class From>
std::vector<To> converted(DType from_dtype, const std::vector<From>& from, DType to_dtype,
                          int64_t overflows = 0) {
  std::vector<To> to(from.size());
  EXPECT_EQ(convert_elements(from_dtype, from.data(), to_dtype, to.data(),
                             static_cast<int64_t>(from.size())),
            overflows);
  return to;
}

std::vector<uint16_t> all_patterns() {
  std::vector<uint16_t> patterns;
  for (int i = 0; i < 1 << 16; ++i) patterns.push_back(static_cast<uint16_t>(i));
  return patterns;
}

// What a format with so many bits of exponent and mantissa holds, by its definition.
double value_of(uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = bits >> 15 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return mantissa == 0 ? sign * kInfinity : NAN;
  const int leading = exponent == 0 ? 0 : 1 << mantissa_bits;
  return sign * std::ldexp(leading + mantissa, std::max(exponent, 1) - bias - mantissa_bits);
}

struct Small {
  DType dtype;
  int exponent_bits, mantissa_bits;
};
class SmallFormats : public testing::TestWithParam<Small> {
 protected:
  double value(uint16_t bits) const {
    return value_of(bits, GetParam().exponent_bits, GetParam().mantissa_bits);
  }
  uint16_t infinity() const {
    return static_cast<uint16_t>(((1 << GetParam().exponent_bits) - 1) << GetParam().mantissa_bits);
  }
};
INSTANTIATE_TEST_SUITE_P(Convert, SmallFormats,
                         testing::Values(Small{DType::f16, 5, 10}, Small{DType::bf16, 8, 7}));

TEST_P(SmallFormats, every_pattern_widens_to_its_value_and_comes_back) {
  const DType dtype = GetParam().dtype;
  const auto patterns = all_patterns();
  const auto floats = converted<float>(dtype, patterns, DType::f32);
  const auto doubles = converted<double>(dtype, patterns, DType::f64);
  for (size_t i = 0; i < patterns.size(); ++i) {
    const double expected = value(patterns[i]);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(floats[i]) && std::isnan(doubles[i])) << i;
    } else {
      ASSERT_EQ(floats[i], expected) << i;
      ASSERT_EQ(doubles[i], expected) << i;
    }
  }
  EXPECT_EQ(converted<uint16_t>(DType::f32, floats, dtype), patterns);
  EXPECT_EQ(converted<uint16_t>(DType::f64, doubles, dtype), patterns);
}

// Values at, just below and just above the middle between neighbours.
TEST_P(SmallFormats, rounds_to_nearest_and_ties_to_even) {
  for (uint16_t bits = 0; bits + 1 < infinity(); ++bits) {
    const double low = value(bits), high = value(bits + 1), middle = (low + high) / 2;
    const std::vector<double> from = {middle, std::nextafter(middle, 0),
                                      std::nextafter(middle, kInfinity), -middle};
    const uint16_t even = bits % 2 == 0 ? bits : bits + 1;
    const std::vector<uint16_t> expected = {even, bits, static_cast<uint16_t>(bits + 1),
                                            static_cast<uint16_t>(even | 0x8000)};
    ASSERT_EQ(converted<uint16_t>(DType::f64, from, GetParam().dtype), expected) << bits;
    const auto middle_f = static_cast<float>(middle);
    ASSERT_EQ(converted<uint16_t>(DType::f32, std::vector<float>{middle_f}, GetParam().dtype)[0],
              even);
  }
}

TEST_P(SmallFormats, counts_the_finite_values_that_became_infinite) {
  const uint16_t largest = infinity() - 1;
  const double step = value(largest) - value(largest - 1);
  const double limit = value(largest) + step / 2;  // rounds away from the largest, which is odd
  const std::vector<double> from = {value(largest), std::nextafter(limit, 0), limit, -1e300,
                                    kInfinity};
  const auto to = converted<uint16_t>(DType::f64, from, GetParam().dtype, 2);
  EXPECT_EQ(to, (std::vector<uint16_t>{largest, largest, infinity(),
                                       static_cast<uint16_t>(infinity() | 0x8000), infinity()}));
}

TEST_P(SmallFormats, not_a_number_stays_none) {
  const float barely = std::bit_cast<float>(0x7f800001u);  // its payload lies below the 16 bits
  const auto to =
      converted<uint16_t>(DType::f32, std::vector<float>{barely, -barely, NAN}, GetParam().dtype);
  for (const uint16_t bits : to) EXPECT_TRUE(std::isnan(value(bits)));
  EXPECT_EQ(to[0] | 0x8000, to[1]);
}

// As the processor does it.
TEST(Convert, doubles_to_floats_and_back) {
  Random random(3);
  std::vector<double> from = {0.0, -0.0, 5e-324, 1e-45, 7e-46, 3.4028236e38, -kInfinity};
  for (int i = 0; i < 20000; ++i) {
    from.push_back(std::ldexp(random.normal(), static_cast<int>(random.uniform(-160, 120))));
  }
  const auto to = converted<float>(DType::f64, from, DType::f32, 1);
  for (size_t i = 0; i < from.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(to[i]), std::bit_cast<uint32_t>(static_cast<float>(from[i])))
        << from[i];
  }
  const auto back = converted<double>(DType::f32, to, DType::f64);
  for (size_t i = 0; i < back.size(); ++i) ASSERT_EQ(back[i], static_cast<double>(to[i]));
}

TEST(Convert, halves_and_bfloats_into_each_other) {
  // 1.5, the largest f16, the least f16, 2^100
  EXPECT_EQ(converted<uint16_t>(DType::f16, std::vector<uint16_t>{0x3e00, 0x7bff, 1}, DType::bf16),
            (std::vector<uint16_t>{0x3fc0, 0x4780, 0x3380}));
  EXPECT_EQ(converted<uint16_t>(DType::bf16, std::vector<uint16_t>{0x3fc0, 0x7180}, DType::f16, 1),
            (std::vector<uint16_t>{0x3e00, 0x7c00}));
}

TEST(Convert, knows_what_is_a_float) {
  for (DType dtype : {DType::f32, DType::f64, DType::f16, DType::bf16})
    EXPECT_TRUE(is_float(dtype));
  for (DType dtype : {DType::i64, DType::i32, DType::u8}) EXPECT_FALSE(is_float(dtype));
}

}  // namespace
}  // namespace elapse
