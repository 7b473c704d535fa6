// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/sequences.h"

// How the gradient of a pool of states travels (sequences.h), where a kernel takes all sequences at
// once. Pools are (slots, ...), of `width` numbers a slot.
namespace elapse::cuda {

// dend (n_seqs, width): what stands in each sequence's end slot, which is cleared; zeros where it
// has none.
Tensor take_end_gradients(Device& device, const Tensor& dpool, const Sequences& seqs);

// dstart (n_seqs, width) added to the sequences' start slots, in their order.
void give_start_gradients(Device& device, const Tensor& dstart, const Sequences& seqs,
                          const Tensor& dpool);

}  // namespace elapse::cuda
