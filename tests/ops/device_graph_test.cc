// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/device_graph.h"

#include <string>

#include "elapse/ops/linear.h"
#include "elapse/ops/pointwise.h"
#include "elapse/ops/rms_norm.h"
#include "tests/ops/op_test.h"

namespace elapse {
namespace {

using namespace op_test;

class DeviceGraphTest : public testing::Test {
 protected:
  static constexpr int64_t kWidth = 64;

  void SetUp() override {
    if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
    device_ = std::make_unique<Device>("cuda");
    ASSERT_TRUE(device_->has_graphs());
    x_ = numbers(1, {1, kWidth});
    weight_ = numbers(2, {kWidth, kWidth});
    norm_ = numbers(3, {kWidth});
  }

  Tensor numbers(uint64_t seed, Shape shape) { return device_->upload(drawn(seed, shape), shape); }
  static std::vector<float> drawn(uint64_t seed, Shape shape) {
    Random random(seed);
    std::vector<float> values(static_cast<size_t>(shape.numel()));
    for (float& v : values) v = static_cast<float>(random.uniform(-1, 1));
    return values;
  }
  std::vector<float> host(const Tensor& t) {
    std::vector<float> values(static_cast<size_t>(t.numel()));
    device_->download_bytes(t, values.data());
    return values;
  }

  // Products and norms one after the other, each on memory of its own.
  Tensor pass() {
    Tensor x = x_;
    for (int i = 0; i < 4; ++i) {
      const Tensor product = device_->empty(DType::f32, {1, kWidth});
      linear_forward(*device_, {x, weight_, {}, product});
      const Tensor y = device_->empty(DType::f32, {1, kWidth});
      RmsNormForward norm;
      norm.x = product;
      norm.weight = norm_;
      norm.scale = device_->empty(DType::f32, {1, 1});
      norm.y = y;
      rms_norm_forward(*device_, norm);
      addresses_.push_back(product.raw());
      x = y;
    }
    return x;
  }

  // Of all programs' tensors on the device, as the error of a full one tells them.
  int64_t bytes_held() {
    try {
      device_->empty(DType::f32, {int64_t{1} << 50});
    } catch (const Error& error) {
      const std::string why = error.what(), words = "tensors hold ";
      return std::stoll(why.substr(why.find(words) + words.size()));
    }
    return -1;
  }

  std::unique_ptr<Device> device_;
  Tensor x_, weight_, norm_;
  std::vector<const void*> addresses_;  // of what passes have made and let go
};

TEST_F(DeviceGraphTest, ReplaysHaveTheBitsOfThePass) {
  pass();  // has every kernel loaded
  Tensor out;
  DeviceGraph graph(*device_, [&] { out = pass(); });
  for (uint64_t seed = 10; seed < 15; ++seed) {
    device_->upload_into(x_, drawn(seed, x_.shape()).data());
    graph.replay();
    EXPECT_EQ(host(out), host(pass())) << seed;
    graph.replay();
    graph.replay();  // with nothing in between
    EXPECT_EQ(host(out), host(pass())) << seed;
  }
}

TEST_F(DeviceGraphTest, RecordsWithoutRunning) {
  const Tensor counted = device_->zeros(DType::f32, {1}), one = numbers(4, {1});
  DeviceGraph graph(*device_, [&] {
    binary(*device_, {BinaryFunction::add, counted, one, counted});
  });
  EXPECT_EQ(host(counted)[0], 0);
  graph.replay();
  EXPECT_EQ(host(counted), host(one));
}

TEST_F(DeviceGraphTest, OtherWorkGetsNoneOfItsMemory) {
  pass();
  Tensor out;
  addresses_.clear();
  DeviceGraph graph(*device_, [&] { out = pass(); });
  const std::vector<const void*> own = addresses_;
  graph.replay();
  const std::vector<float> expected = host(out);
  std::vector<Tensor> others;
  for (int i = 0; i < 100; ++i) {
    others.push_back(numbers(5, {1, kWidth}));
    for (const void* address : own) EXPECT_NE(others.back().raw(), address);
    EXPECT_NE(others.back().raw(), out.raw());
  }
  EXPECT_EQ(host(out), expected);
  graph.replay();
  EXPECT_EQ(host(out), expected);
  for (const Tensor& other : others) EXPECT_EQ(host(other), drawn(5, {1, kWidth}));
}

TEST_F(DeviceGraphTest, WorkThatWaitsOrCopiesIsAnError) {
  const std::vector<float> expected = host(pass());
  const int64_t in_use = device_->pool().bytes_in_use();
  float number = 1;
  const std::function<void()> refused[] = {
      [&] { device_->synchronize(); },
      [&] { device_->upload_into(x_, &number); },
      [&] { device_->download_bytes(x_, &number); },
      [&] { numbers(6, {1}); },
  };
  for (const auto& work : refused) {
    try {
      DeviceGraph graph(*device_, [&] {
        pass();
        work();
      });
      FAIL() << "was recorded";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("can neither wait nor copy"), std::string::npos)
          << error.what();
    }
    EXPECT_EQ(device_->pool().bytes_in_use(), in_use);
    EXPECT_EQ(host(pass()), expected);  // the device is as it was
  }
}

TEST_F(DeviceGraphTest, GivesItsMemoryBack) {
  pass();
  const int64_t before = bytes_held();
  Tensor out;
  {
    DeviceGraph graph(*device_, [&] {
      out = pass();
      device_->empty(DType::f32, {1 << 20});
    });
    graph.replay();
    EXPECT_GE(bytes_held(), before + (4 << 20));
  }
  EXPECT_EQ(host(out), host(pass()));  // what was kept outlives it
  out = {};
  EXPECT_LE(bytes_held(), before);
}

}  // namespace
}  // namespace elapse
