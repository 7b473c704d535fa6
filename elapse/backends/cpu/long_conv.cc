// SPDX-License-Identifier: Apache-2.0
// Convolutions as products of Fourier transforms (fourier-inl.h), a block of channels at a time,
// blocks over threads. With n >= 2 len - 1, forward costs two transforms of two sequences each and
// backward three, 8.5 n log2(n) / 2 operations a transform, and a block's data, 8 n bytes a channel
// and signal, is walked once by every pass that does not fit a cache. The filter is transformed
// once for all sequences of one padded size. Sums over sequences are made before the transform
// back, in the sequences' order.
#include "elapse/ops/long_conv.h"

#include <numeric>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/backends/cpu/convolution_plan.h"
#include "elapse/backends/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/long_conv.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/long_conv-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

int64_t LongConvLanes() { return LaneCount(); }

// Channels from e on of K (d_inner, filter_len) as (filter_len, lanes); the rest are zeros.
void LoadFilter(const Tensor& K, int64_t e, float* filter) {
  const int64_t lanes = LaneCount(), filter_len = K.dim(1);
  const int64_t count = std::min(lanes, K.dim(0) - e);
  std::fill_n(filter, filter_len * lanes, 0.0f);
  for (int64_t i = 0; i < count; ++i) {
    const float* from = row(K, e + i);
    for (int64_t k = 0; k < filter_len; ++k) filter[k * lanes + i] = from[k];
  }
}
void AddFilter(const float* filter, int64_t e, const Tensor& K) {
  const int64_t lanes = LaneCount(), filter_len = K.dim(1);
  const int64_t count = std::min(lanes, K.dim(0) - e);
  for (int64_t i = 0; i < count; ++i) {
    float* to = row(K, e + i);
    for (int64_t k = 0; k < filter_len; ++k) to[k] += filter[k * lanes + i];
  }
}

void LongConvBlock(const LongConvForward& args, const std::vector<ConvolutionGroup>& groups,
                   int64_t e, float* scratch) {
  float* after_filter = scratch + args.K.dim(1) * LaneCount();
  LoadFilter(args.K, e, scratch);
  WithLanes(e, args.K.dim(0), [&](auto lanes) HWY_ATTR {
    for (const ConvolutionGroup& group : groups) {
      ConvolveBlock(group, args.seqs, lanes, e, scratch, args.x, args.y, after_filter);
    }
  });
}

void LongConvBlockBackward(const LongConvBackward& args,
                           const std::vector<ConvolutionGroup>& groups, int64_t e, float* scratch) {
  const int64_t size = args.K.dim(1) * LaneCount();
  float *filter = scratch, *dfilter = scratch + size;
  LoadFilter(args.K, e, filter);
  std::fill_n(dfilter, size, 0.0f);
  WithLanes(e, args.K.dim(0), [&](auto lanes) HWY_ATTR {
    for (const ConvolutionGroup& group : groups) {
      ConvolveBlockBackward(group, args.seqs, lanes, e, filter, args.x, args.dy, args.dx, dfilter,
                            scratch + 2 * size);
    }
  });
  AddFilter(dfilter, e, args.dK);
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {
HWY_EXPORT(LongConvLanes);
HWY_EXPORT(LongConvBlock);
HWY_EXPORT(LongConvBlockBackward);

std::vector<ConvolutionGroup> groups_of(const Sequences& seqs, int64_t filter_len) {
  std::vector<int64_t> all(seqs.lengths.size());
  std::iota(all.begin(), all.end(), 0);
  return convolution_groups(seqs, all, filter_len);
}

}  // namespace

void long_conv_forward(Device& device, const LongConvForward& args) {
  const int64_t filter_len = args.K.dim(1);
  const auto groups = groups_of(args.seqs, filter_len);
  const int64_t vectors = filter_len + 4 * largest_transform(groups);
  for_each_channel_block(device, args.K.dim(0), HWY_DYNAMIC_DISPATCH(LongConvLanes)(), vectors,
                         [&](int64_t e, float* scratch) {
                           HWY_DYNAMIC_DISPATCH(LongConvBlock)(args, groups, e, scratch);
                         });
}

void long_conv_backward(Device& device, const LongConvBackward& args) {
  const int64_t filter_len = args.K.dim(1);
  const auto groups = groups_of(args.seqs, filter_len);
  const int64_t vectors = 2 * filter_len + 8 * largest_transform(groups);
  for_each_channel_block(device, args.K.dim(0), HWY_DYNAMIC_DISPATCH(LongConvLanes)(), vectors,
                         [&](int64_t e, float* scratch) {
                           HWY_DYNAMIC_DISPATCH(LongConvBlockBackward)(args, groups, e, scratch);
                         });
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE
