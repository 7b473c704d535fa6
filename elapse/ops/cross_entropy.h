// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/device.h"

namespace elapse {

inline constexpr int64_t kIgnoredTarget = -100;  // PyTorch's value for masked targets

// loss = mean over tokens whose target is not masked of logsumexp(logits) - logits[target], nats.
// No unmasked target: loss 0 and gradient 0. Targets that are neither masked nor a class are an
// Error where the device's memory is the host's; elsewhere the caller answers for them.
struct CrossEntropyForward {
  static constexpr Op kOp = Op::cross_entropy_forward;
  Tensor logits;     // (tokens, vocab)
  Tensor targets;    // (tokens) i64
  Tensor logsumexp;  // (tokens), assigned
  Tensor loss;       // (1), assigned
};

struct CrossEntropyBackward {
  static constexpr Op kOp = Op::cross_entropy_backward;
  Tensor dloss;  // (1)
  Tensor logits;
  Tensor targets;
  Tensor logsumexp;
  Tensor dlogits;  // (tokens, vocab), assigned
};

// The loss of a model's head, cross_entropy of the logits x W^T, with its gradients: a part of the
// tokens after another, so that the logits of all are never in memory. Of x's dtype; where that is
// of 16 bits, so are the factors of the products, logits are float32, and W, the loss and dweight
// are. A backend may leave it out: linear and cross_entropy are the same.
struct LinearCrossEntropyForward {
  static constexpr Op kOp = Op::linear_cross_entropy_forward;
  Tensor x;        // (tokens, d_model)
  Tensor weight;   // (vocab, d_model), as linear's
  Tensor targets;  // (tokens) i64
  Tensor loss;     // (1), assigned
  Tensor dx;       // (tokens, d_model), assigned; or empty, with dweight
  Tensor dweight;  // (vocab, d_model), assigned
};

// Both times dloss.
struct LinearCrossEntropyBackward {
  static constexpr Op kOp = Op::linear_cross_entropy_backward;
  Tensor dloss;         // (1)
  Tensor unit_dx;       // forward's dx
  Tensor unit_dweight;  // forward's dweight
  Tensor dx;            // (tokens, d_model), assigned
  Tensor dweight;       // (vocab, d_model), accumulated; or empty
};

void cross_entropy_forward(Device& device, const CrossEntropyForward& args);
void cross_entropy_backward(Device& device, const CrossEntropyBackward& args);
void linear_cross_entropy_forward(Device& device, const LinearCrossEntropyForward& args);
void linear_cross_entropy_backward(Device& device, const LinearCrossEntropyBackward& args);

}  // namespace elapse
