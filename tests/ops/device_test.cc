// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/device.h"

#include "elapse/ops/rotary.h"
#include "tests/ops/op_test.h"

namespace elapse {
namespace {

using namespace op_test;

std::string why_not(const std::string& name) {
  try {
    Device device(name);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Device, AnUnknownOneIsAnErrorThatNamesThoseThereAre) {
  EXPECT_NE(why_not("tpu").find("unknown device \"tpu\": this program is built with ref"),
            std::string::npos)
      << why_not("tpu");
}

TEST(Device, WithoutAGpuCudaSaysWhatIsMissing) {
  if (can_open("cuda")) GTEST_SKIP() << "a cuda device can be opened here";
  const std::string why = why_not("cuda");
  const bool names_toolkit = why.find("no CUDA toolkit") != std::string::npos;
  EXPECT_TRUE(names_toolkit || why.find("no usable NVIDIA GPU") != std::string::npos) << why;
}

// Before it looks at the dtypes of other arguments.
TEST(Device, AnOperationThatItDoesNotHaveIsNamed) {
  Device ref("ref");
  Operands o(DType::f32);
  const Tensor x = ref.empty(DType::bf16, {2, 4});
  try {
    rotary(ref, {.x = x, .head_dim = 4, .frequencies = {1, 1}, .out = o.assigned({2, 4})});
    FAIL() << "ref has no kernels in bf16";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "rotary: no bf16 kernel on device ref");
  }
}

TEST(Device, MoreMemoryThanThereIsSaysHowMuchWasAskedAndWhatHoldsTheRest) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  Device cuda("cuda");
  const Tensor held = cuda.zeros(DType::f32, {1 << 20});
  try {
    cuda.empty(DType::f32, {int64_t{1} << 50});
    FAIL() << "4 PiB were given";
  } catch (const Error& error) {
    const std::string why = error.what();
    EXPECT_NE(why.find("asked for 4503599627370496 bytes"), std::string::npos) << why;
    EXPECT_NE(why.find("this program's tensors hold 4194304"), std::string::npos) << why;
  }
}

}  // namespace
}  // namespace elapse
