// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/device.h"

// The ref backend: every operation as plain loops over its formula, in float or double, one thread.
// It is the definition the other backends are tested against. Sums that are not a state carried
// over tokens are kept in double.
namespace elapse::ref {

// Each adds its kernels, computing in T, to the table.
template <class T>
void add_pointwise(KernelTable& table);
template <class T>
void add_rows(KernelTable& table);
template <class T>
void add_sample(KernelTable& table);
template <class T>
void add_linear(KernelTable& table);
template <class T>
void add_rms_norm(KernelTable& table);
template <class T>
void add_layer_norm(KernelTable& table);
template <class T>
void add_gated_rms_norm(KernelTable& table);
template <class T>
void add_causal_conv(KernelTable& table);
template <class T>
void add_selective_scan(KernelTable& table);
template <class T>
void add_recurrent(KernelTable& table);
template <class T>
void add_attention(KernelTable& table);
template <class T>
void add_rotary(KernelTable& table);
template <class T>
void add_long_conv(KernelTable& table);
template <class T>
void add_diagonal_ssm(KernelTable& table);
template <class T>
void add_ssd(KernelTable& table);
template <class T>
void add_delayed(KernelTable& table);
template <class T>
void add_gated_linear_attention(KernelTable& table);
template <class T>
void add_cross_entropy(KernelTable& table);
template <class T>
void add_optimizer(KernelTable& table);

}  // namespace elapse::ref
