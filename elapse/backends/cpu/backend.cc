// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "elapse/backends/cpu/kernels.h"

namespace elapse {

const Backend& cpu_backend();

namespace {

KernelTable make_table() {
  KernelTable table;
  table.set<Fill>(cpu::fill);
  table.set<Copy>(cpu::copy);
  table.set<UnaryForward>(cpu::unary_forward);
  table.set<UnaryBackward>(cpu::unary_backward);
  table.set<Binary>(cpu::binary);
  table.set<SwigluForward>(cpu::swiglu_forward);
  table.set<SwigluBackward>(cpu::swiglu_backward);
  table.set<SumTo>(cpu::sum_to);
  table.set<TapForward>(cpu::tap_forward);
  table.set<TapBackward>(cpu::tap_backward);
  table.set<GatherRows>(cpu::gather_rows);
  table.set<ScatterAddRows>(cpu::scatter_add_rows);
  table.set<LinearForward>(cpu::linear_forward);
  table.set<LinearBackwardInput>(cpu::linear_backward_input);
  table.set<LinearBackwardWeight>(cpu::linear_backward_weight);
  table.set<RmsNormForward>(cpu::rms_norm_forward);
  table.set<RmsNormBackward>(cpu::rms_norm_backward);
  table.set<LayerNormForward>(cpu::layer_norm_forward);
  table.set<LayerNormBackward>(cpu::layer_norm_backward);
  table.set<GatedRmsNormForward>(cpu::gated_rms_norm_forward);
  table.set<GatedRmsNormBackward>(cpu::gated_rms_norm_backward);
  table.set<CausalConvForward>(cpu::causal_conv_forward);
  table.set<CausalConvBackward>(cpu::causal_conv_backward);
  table.set<RecurrentForward>(cpu::recurrent_forward);
  table.set<RecurrentBackward>(cpu::recurrent_backward);
  table.set<LongConvForward>(cpu::long_conv_forward);
  table.set<LongConvBackward>(cpu::long_conv_backward);
  table.set<DiagonalSsmForward>(cpu::diagonal_ssm_forward);
  table.set<DiagonalSsmBackward>(cpu::diagonal_ssm_backward);
  table.set<ScanForward>(cpu::selective_scan_forward);
  table.set<ScanBackward>(cpu::selective_scan_backward);
  table.set<AttentionForward>(cpu::attention_forward);
  table.set<AttentionBackward>(cpu::attention_backward);
  table.set<Rotary>(cpu::rotary);
  table.set<SsdForward>(cpu::ssd_forward);
  table.set<SsdBackward>(cpu::ssd_backward);
  table.set<DelayedForward>(cpu::delayed_forward);
  table.set<DelayedBackward>(cpu::delayed_backward);
  table.set<GlaForward>(cpu::gla_forward);
  table.set<GlaBackward>(cpu::gla_backward);
  table.set<CrossEntropyForward>(cpu::cross_entropy_forward);
  table.set<CrossEntropyBackward>(cpu::cross_entropy_backward);
  table.set<SumOfSquares>(cpu::sum_of_squares);
  table.set<AdamW>(cpu::adamw);
  return table;
}

// Float32 alone: ref computes the rest.
const KernelTable* kernels(DType compute) {
  static const KernelTable f32 = make_table();
  return compute == DType::f32 ? &f32 : nullptr;
}

void copy_bytes(void*, void* to, const void* from, int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

}  // namespace

const Backend& cpu_backend() {
  static const Backend backend = {
      .name = "cpu",
      .kernels = kernels,
      .memory = host_memory,
      .host_memory = true,
      .shared_memory = host_memory,
      .create_stream = [] { return static_cast<void*>(nullptr); },
      .destroy_stream = [](void*) {},
      .synchronize = [](void*) {},
      .upload = copy_bytes,
      .download = copy_bytes,
      .describe = cpu::describe,
  };
  return backend;
}

}  // namespace elapse
