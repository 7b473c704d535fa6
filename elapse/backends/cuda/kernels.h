// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/backends/cuda/runtime.h"
#include "elapse/ops/attention.h"
#include "elapse/ops/causal_conv.h"
#include "elapse/ops/cross_entropy.h"
#include "elapse/ops/delayed.h"
#include "elapse/ops/diagonal_ssm.h"
#include "elapse/ops/gated_linear_attention.h"
#include "elapse/ops/gated_rms_norm.h"
#include "elapse/ops/layer_norm.h"
#include "elapse/ops/linear.h"
#include "elapse/ops/long_conv.h"
#include "elapse/ops/mamba_step.h"
#include "elapse/ops/optimizer.h"
#include "elapse/ops/pointwise.h"
#include "elapse/ops/recurrent.h"
#include "elapse/ops/rms_norm.h"
#include "elapse/ops/rotary.h"
#include "elapse/ops/rows.h"
#include "elapse/ops/sample.h"
#include "elapse/ops/selective_scan.h"
#include "elapse/ops/ssd.h"

// The kernels of the cuda backend, in float32; in bf16 too those that backend.cc's table has for
// it: templates of T, and others, which look at the types of their arguments. Each gives the same
// bits every time: sums are taken in an order that shapes alone fix, and no floats are added by
// atomics. What each computes stands with its arguments in elapse/ops; what bounds it, and what was
// measured, in docs/cuda.md.
namespace elapse::cuda {

void add_fill_and_copy(KernelTable& table, DType compute);
void unary_forward(Device& device, const UnaryForward& args);
void unary_backward(Device& device, const UnaryBackward& args);
template <class T>
void binary(Device& device, const Binary& args);
void swiglu_forward(Device& device, const SwigluForward& args);
void swiglu_backward(Device& device, const SwigluBackward& args);
void sum_to(Device& device, const SumTo& args);
void tap_forward(Device& device, const TapForward& args);
void tap_backward(Device& device, const TapBackward& args);
void gather_rows(Device& device, const GatherRows& args);
void scatter_add_rows(Device& device, const ScatterAddRows& args);
void likeliest(Device& device, const Likeliest& args);
void sample(Device& device, const Sample& args);
void linear_forward(Device& device, const LinearForward& args);
void linear_backward_input(Device& device, const LinearBackwardInput& args);
void linear_backward_weight(Device& device, const LinearBackwardWeight& args);
void rms_norm_forward(Device& device, const RmsNormForward& args);
void rms_norm_backward(Device& device, const RmsNormBackward& args);
void layer_norm_forward(Device& device, const LayerNormForward& args);
void layer_norm_backward(Device& device, const LayerNormBackward& args);
void gated_rms_norm_forward(Device& device, const GatedRmsNormForward& args);
void gated_rms_norm_backward(Device& device, const GatedRmsNormBackward& args);
template <class T>
void causal_conv_forward(Device& device, const CausalConvForward& args);
template <class T>
void causal_conv_backward(Device& device, const CausalConvBackward& args);
void selective_scan_forward(Device& device, const ScanForward& args);
void selective_scan_backward(Device& device, const ScanBackward& args);
void causal_shift(Device& device, const CausalShift& args);
void recurrence(Device& device, const Recurrence& args);
void recurrence_backward(Device& device, const RecurrenceBackward& args);
void attention_forward(Device& device, const AttentionForward& args);
void attention_backward(Device& device, const AttentionBackward& args);
void rotary(Device& device, const Rotary& args);
void ssd_forward(Device& device, const SsdForward& args);
void ssd_backward(Device& device, const SsdBackward& args);
void gla_forward(Device& device, const GlaForward& args);
void gla_backward(Device& device, const GlaBackward& args);
void recurrent_forward(Device& device, const RecurrentForward& args);
void recurrent_backward(Device& device, const RecurrentBackward& args);
void diagonal_ssm_forward(Device& device, const DiagonalSsmForward& args);
void diagonal_ssm_backward(Device& device, const DiagonalSsmBackward& args);
void long_conv_forward(Device& device, const LongConvForward& args);
void long_conv_backward(Device& device, const LongConvBackward& args);
void delayed_forward(Device& device, const DelayedForward& args);
void delayed_backward(Device& device, const DelayedBackward& args);
void mamba_step(Device& device, const MambaStep& args);
void cross_entropy_forward(Device& device, const CrossEntropyForward& args);
void cross_entropy_backward(Device& device, const CrossEntropyBackward& args);
template <class T>
void linear_cross_entropy_forward(Device& device, const LinearCrossEntropyForward& args);
template <class T>
void linear_cross_entropy_backward(Device& device, const LinearCrossEntropyBackward& args);
void sum_of_squares(Device& device, const SumOfSquares& args);
void adamw(Device& device, const AdamW& args);

}  // namespace elapse::cuda
