// SPDX-License-Identifier: Apache-2.0
#pragma once
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
#include "elapse/ops/optimizer.h"
#include "elapse/ops/pointwise.h"
#include "elapse/ops/recurrent.h"
#include "elapse/ops/rms_norm.h"
#include "elapse/ops/rotary.h"
#include "elapse/ops/rows.h"
#include "elapse/ops/selective_scan.h"
#include "elapse/ops/ssd.h"

// The float32 kernels of the cpu backend: Highway's SIMD for the widest instruction set this
// machine has, threads over blocks whose number depends on shapes alone, so that results do not
// depend on the number of threads. What each computes stands with its arguments in elapse/ops.
namespace elapse::cpu {

void fill(Device& device, const Fill& args);
void copy(Device& device, const Copy& args);
void unary_forward(Device& device, const UnaryForward& args);
void unary_backward(Device& device, const UnaryBackward& args);
void binary(Device& device, const Binary& args);
void swiglu_forward(Device& device, const SwigluForward& args);
void swiglu_backward(Device& device, const SwigluBackward& args);
void sum_to(Device& device, const SumTo& args);
void tap_forward(Device& device, const TapForward& args);
void tap_backward(Device& device, const TapBackward& args);
void gather_rows(Device& device, const GatherRows& args);
void scatter_add_rows(Device& device, const ScatterAddRows& args);
void linear_forward(Device& device, const LinearForward& args);
void linear_backward_input(Device& device, const LinearBackwardInput& args);
void linear_backward_weight(Device& device, const LinearBackwardWeight& args);
void rms_norm_forward(Device& device, const RmsNormForward& args);
void rms_norm_backward(Device& device, const RmsNormBackward& args);
void layer_norm_forward(Device& device, const LayerNormForward& args);
void layer_norm_backward(Device& device, const LayerNormBackward& args);
void gated_rms_norm_forward(Device& device, const GatedRmsNormForward& args);
void gated_rms_norm_backward(Device& device, const GatedRmsNormBackward& args);
void causal_conv_forward(Device& device, const CausalConvForward& args);
void causal_conv_backward(Device& device, const CausalConvBackward& args);
void recurrent_forward(Device& device, const RecurrentForward& args);
void recurrent_backward(Device& device, const RecurrentBackward& args);
void long_conv_forward(Device& device, const LongConvForward& args);
void long_conv_backward(Device& device, const LongConvBackward& args);
void diagonal_ssm_forward(Device& device, const DiagonalSsmForward& args);
void diagonal_ssm_backward(Device& device, const DiagonalSsmBackward& args);
void selective_scan_forward(Device& device, const ScanForward& args);
void selective_scan_backward(Device& device, const ScanBackward& args);
void attention_forward(Device& device, const AttentionForward& args);
void attention_backward(Device& device, const AttentionBackward& args);
void rotary(Device& device, const Rotary& args);
void ssd_forward(Device& device, const SsdForward& args);
void ssd_backward(Device& device, const SsdBackward& args);
void delayed_forward(Device& device, const DelayedForward& args);
void delayed_backward(Device& device, const DelayedBackward& args);
void gla_forward(Device& device, const GlaForward& args);
void gla_backward(Device& device, const GlaBackward& args);
void cross_entropy_forward(Device& device, const CrossEntropyForward& args);
void cross_entropy_backward(Device& device, const CrossEntropyBackward& args);
void sum_of_squares(Device& device, const SumOfSquares& args);
void adamw(Device& device, const AdamW& args);

std::string describe();  // the instruction set chosen, e.g. "AVX3_ZEN4, oneDNN 2.6.3"

}  // namespace elapse::cpu
