// SPDX-License-Identifier: Apache-2.0
// Operations that do little with each number they fetch: on tensors far larger than the caches,
// memory is their floor.
#include "apps/elapse/bench/benchmark.h"
#include "apps/elapse/bench/inputs.h"
#include "elapse/ops/causal_conv.h"
#include "elapse/ops/cross_entropy.h"
#include "elapse/ops/layer_norm.h"
#include "elapse/ops/optimizer.h"
#include "elapse/ops/pointwise.h"
#include "elapse/ops/rms_norm.h"

namespace elapse::bench {
namespace {

constexpr int64_t kTokens = 8192, kChannels = 1536, kConv = 4;

// `floats` are those read or written for each element.
std::vector<Row> time_streaming(Context& context, const Benchmark& self, int64_t elements,
                                double floats, const std::function<void(Device&)>& call) {
  const double n = static_cast<double>(elements);
  const Measure per_element{Measure::Kind::time, "ns/element", n * 1e-9};
  return time_operation(context, self, per_element, {.bytes = n * floats * sizeof(float)}, call);
}

std::vector<Row> time_conv_forward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const CausalConvForward args{.x = uniform(device, {kTokens, kChannels}),
                               .weight = uniform(device, {kChannels, kConv}),
                               .bias = uniform(device, {kChannels}),
                               .seqs = make_sequences(device, {kTokens}),
                               .pool = {},
                               .saved_start = {},
                               .y = zeros(device, {kTokens, kChannels}),
                               .taps = {}};
  return time_streaming(context, self, kTokens * kChannels, 2,
                        [&](Device& d) { causal_conv_forward(d, args); });
}

std::vector<Row> time_conv_backward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const CausalConvBackward args{.dy = uniform(device, {kTokens, kChannels}),
                                .x = uniform(device, {kTokens, kChannels}),
                                .weight = uniform(device, {kChannels, kConv}),
                                .bias = uniform(device, {kChannels}),
                                .seqs = make_sequences(device, {kTokens}),
                                .saved_start = {},
                                .taps = {},
                                .dx = zeros(device, {kTokens, kChannels}),
                                .dweight = zeros(device, {kChannels, kConv}),
                                .dbias = zeros(device, {kChannels}),
                                .dpool = {}};
  return time_streaming(context, self, kTokens * kChannels, 3,
                        [&](Device& d) { causal_conv_backward(d, args); });
}

std::vector<Row> time_norm_forward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const RmsNormForward args{.x = uniform(device, {kTokens, kChannels}),
                            .residual = uniform(device, {kTokens, kChannels}),
                            .weight = uniform(device, {kChannels}),
                            .sum = zeros(device, {kTokens, kChannels}),
                            .scale = zeros(device, {kTokens, 1}),
                            .y = zeros(device, {kTokens, kChannels}),
                            .scale_tap = {}};
  return time_streaming(context, self, kTokens * kChannels, 4,
                        [&](Device& d) { rms_norm_forward(d, args); });
}

std::vector<Row> time_norm_backward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const RmsNormBackward args{.dy = uniform(device, {kTokens, kChannels}),
                             .dsum = uniform(device, {kTokens, kChannels}),
                             .sum = uniform(device, {kTokens, kChannels}),
                             .weight = uniform(device, {kChannels}),
                             .scale = uniform(device, {kTokens, 1}, 0.5, 2),
                             .scale_tap = {},
                             .dsum_total = zeros(device, {kTokens, kChannels}),
                             .dx = {},
                             .dweight = zeros(device, {kChannels})};
  return time_streaming(context, self, kTokens * kChannels, 4,
                        [&](Device& d) { rms_norm_backward(d, args); });
}

std::vector<Row> time_layer_norm_forward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const LayerNormForward args{.x = uniform(device, {kTokens, kChannels}),
                              .residual = uniform(device, {kTokens, kChannels}),
                              .weight = uniform(device, {kChannels}),
                              .bias = uniform(device, {kChannels}),
                              .sum = zeros(device, {kTokens, kChannels}),
                              .mean = zeros(device, {kTokens, 1}),
                              .scale = zeros(device, {kTokens, 1}),
                              .y = zeros(device, {kTokens, kChannels}),
                              .scale_tap = {}};
  return time_streaming(context, self, kTokens * kChannels, 4,
                        [&](Device& d) { layer_norm_forward(d, args); });
}

std::vector<Row> time_layer_norm_backward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const LayerNormBackward args{.dy = uniform(device, {kTokens, kChannels}),
                               .dsum = uniform(device, {kTokens, kChannels}),
                               .sum = uniform(device, {kTokens, kChannels}),
                               .weight = uniform(device, {kChannels}),
                               .mean = uniform(device, {kTokens, 1}),
                               .scale = uniform(device, {kTokens, 1}, 0.5, 2),
                               .scale_tap = {},
                               .dsum_total = zeros(device, {kTokens, kChannels}),
                               .dweight = zeros(device, {kChannels}),
                               .dbias = zeros(device, {kChannels})};
  return time_streaming(context, self, kTokens * kChannels, 4,
                        [&](Device& d) { layer_norm_backward(d, args); });
}

std::vector<Row> time_swiglu_forward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const SwigluForward args{.a = uniform(device, {kTokens, kChannels}),
                           .b = uniform(device, {kTokens, kChannels}),
                           .y = zeros(device, {kTokens, kChannels})};
  return time_streaming(context, self, kTokens * kChannels, 3,
                        [&](Device& d) { swiglu_forward(d, args); });
}

std::vector<Row> time_swiglu_backward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const SwigluBackward args{.a = uniform(device, {kTokens, kChannels}),
                            .b = uniform(device, {kTokens, kChannels}),
                            .dy = uniform(device, {kTokens, kChannels}),
                            .da = zeros(device, {kTokens, kChannels}),
                            .db = zeros(device, {kTokens, kChannels})};
  return time_streaming(context, self, kTokens * kChannels, 5,
                        [&](Device& d) { swiglu_backward(d, args); });
}

std::vector<Row> time_silu_forward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const UnaryForward args{.function = Unary::silu,
                          .x = uniform(device, {kTokens, kChannels}),
                          .y = zeros(device, {kTokens, kChannels})};
  return time_streaming(context, self, kTokens * kChannels, 2,
                        [&](Device& d) { unary_forward(d, args); });
}

std::vector<Row> time_silu_backward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const UnaryBackward args{.function = Unary::silu,
                           .x = uniform(device, {kTokens, kChannels}),
                           .dy = uniform(device, {kTokens, kChannels}),
                           .dx = zeros(device, {kTokens, kChannels})};
  return time_streaming(context, self, kTokens * kChannels, 3,
                        [&](Device& d) { unary_backward(d, args); });
}

std::vector<Row> time_adamw(Context& context, const Benchmark& self) {
  constexpr int64_t kParameters = int64_t{8} << 20;
  Device& device = context.any_device();
  const AdamWTensor tensor{.param = uniform(device, {kParameters}),
                           .grad = uniform(device, {kParameters}),
                           .m = zeros(device, {kParameters}),
                           .v = zeros(device, {kParameters})};
  AdamW args{.tensors = {tensor}, .norm_squared = {}, .weight_decay = 0.1};
  return time_streaming(context, self, kParameters, 7, [&](Device& d) {
    adamw(d, args);
    ++args.step;
  });
}

constexpr int64_t kPredictions = 512, kVocab = 50280;  // as the published models' vocabulary

CrossEntropyForward cross_entropy_inputs(Device& device) {
  std::vector<int64_t> targets(kPredictions);
  for (size_t i = 0; i < targets.size(); ++i) targets[i] = static_cast<int64_t>(i) * 17;
  return {.logits = uniform(device, {kPredictions, kVocab}),
          .targets = device.upload(targets, {kPredictions}),
          .logsumexp = zeros(device, {kPredictions}),
          .loss = zeros(device, {1})};
}

std::vector<Row> time_cross_entropy_forward(Context& context, const Benchmark& self) {
  const CrossEntropyForward args = cross_entropy_inputs(context.any_device());
  return time_streaming(context, self, kPredictions * kVocab, 1,
                        [&](Device& d) { cross_entropy_forward(d, args); });
}

std::vector<Row> time_cross_entropy_backward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const CrossEntropyForward forward = cross_entropy_inputs(device);
  cross_entropy_forward(device, forward);
  const CrossEntropyBackward args{.dloss = uniform(device, {1}, 1, 1),
                                  .logits = forward.logits,
                                  .targets = forward.targets,
                                  .logsumexp = forward.logsumexp,
                                  .dlogits = zeros(device, {kPredictions, kVocab})};
  return time_streaming(context, self, kPredictions * kVocab, 2,
                        [&](Device& d) { cross_entropy_backward(d, args); });
}

constexpr Benchmark kBenchmarks[] = {
    {"conv.forward.f32", "causal convolution of 4 taps with SiLU, 8192 tokens x 1536 channels",
     "x read, y written", time_conv_forward},
    {"conv.backward.f32", "its gradients, 8192 x 1536", "x and dy read, dx written",
     time_conv_backward},
    {"norm.forward.f32", "residual add and RMSNorm, 8192 x 1536",
     "x and residual read, sum and y written", time_norm_forward},
    {"norm.backward.f32", "its gradients, 8192 x 1536", "sum, dsum and dy read, the total written",
     time_norm_backward},
    {"layer_norm.forward.f32", "residual add and LayerNorm, 8192 x 1536",
     "x and residual read, sum and y written", time_layer_norm_forward},
    {"layer_norm.backward.f32", "its gradients, 8192 x 1536",
     "sum, dsum and dy read, the total written", time_layer_norm_backward},
    {"pointwise.swiglu.forward.f32", "the gate of SwiGLU, 8192 x 1536", "a and b read, y written",
     time_swiglu_forward},
    {"pointwise.swiglu.backward.f32", "its gradients, 8192 x 1536",
     "a, b and dy read, da and db written", time_swiglu_backward},
    {"pointwise.silu.forward.f32", "SiLU, 8192 x 1536", "x read, y written", time_silu_forward},
    {"pointwise.silu.backward.f32", "its gradient, 8192 x 1536", "x and dy read, dx written",
     time_silu_backward},
    {"loss.forward.f32", "cross entropy, 512 tokens x 50280 classes", "logits read",
     time_cross_entropy_forward},
    {"loss.backward.f32", "its gradient, 512 x 50280", "logits read, their gradient written",
     time_cross_entropy_backward},
    {"adamw.f32", "AdamW on one tensor of 8 million parameters",
     "parameter, gradient, m, v read, all but the gradient written", time_adamw},
};

}  // namespace

std::span<const Benchmark> streaming_benchmarks() { return kBenchmarks; }

}  // namespace elapse::bench
