// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/ops/attention.h"

// Attention in bf16 on the matrix units (attention_mma.cuh): heads of up to 128 channels, a
// multiple of eight, whose rows lie aligned for 16 bytes. Other heads are widened and go float32's
// way.
namespace elapse::cuda {

struct AttentionPlaces;

namespace mma {

// Whether they take a call of these inputs and other rows.
bool takes(const AttentionInputs& in, const std::vector<Tensor>& others);
Tensor widened(Device& device, const Tensor& t);
AttentionInputs widened(Device& device, const AttentionInputs& in);

int64_t queries_of(int64_t head_dim);  // of a block forward, the places' tiles
// All but single queries.
void forward_tiles(Device& device, const AttentionForward& args, const AttentionPlaces& places);
void backward(Device& device, const AttentionBackward& args);

}  // namespace mma
}  // namespace elapse::cuda
