// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/device.h"

namespace elapse {

inline constexpr int64_t kIgnoredTarget = -100;  // PyTorch's value for masked targets

// loss = mean over tokens whose target is not masked of logsumexp(logits) - logits[target], nats.
// No unmasked target: loss 0 and gradient 0.
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

void cross_entropy_forward(Device& device, const CrossEntropyForward& args);
void cross_entropy_backward(Device& device, const CrossEntropyBackward& args);

}  // namespace elapse
