// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/ops/device.h"
#include "elapse/ops/tap.h"

namespace elapse {

// Tensors here may have any strides; the shapes of one call's tensors are equal unless said.

struct Fill {
  static constexpr Op kOp = Op::fill;
  Tensor out;  // assigned
  double value = 0;
};

struct Copy {
  static constexpr Op kOp = Op::copy;
  Tensor x;
  Tensor out;  // assigned; f32 and f64 convert into each other, and where it computes in bf16 that
               // and the others
};

enum class Unary : uint8_t {
  exp,
  neg_exp,    // -exp(x)
  relu,       // its slope at 0 is 0
  silu,       // x / (1 + exp(-x))
  softplus,   // ln(1 + exp(x)); x itself above 20
  gelu,       // x Phi(x), Phi(x) = erfc(-x / sqrt(2)) / 2 (Hendrycks and Gimpel, 2016)
  gelu_tanh,  // their approximation: x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
  sigmoid,
  tanh,
  log_sigmoid,   // -ln(1 + exp(-x))
  elu_plus_one,  // exp(x) up to 0, x + 1 above
  reciprocal,    // 1 / x
  sine,
};

struct UnaryForward {
  static constexpr Op kOp = Op::unary_forward;
  Unary function;
  Tensor x;
  Tensor y;  // assigned
};

struct UnaryBackward {
  static constexpr Op kOp = Op::unary_backward;
  Unary function;
  Tensor x;
  Tensor dy;
  Tensor dx;  // assigned
};

enum class BinaryFunction : uint8_t { add, mul };

// out = function(a, b). Sizes of 1 in a or b broadcast (the ranks are equal). `out` may be a or b.
struct Binary {
  static constexpr Op kOp = Op::binary;
  BinaryFunction function;
  Tensor a;
  Tensor b;
  Tensor out;  // assigned
};

// The gated half of a SwiGLU (Shazeer, 2020): y = silu(a) b
struct SwigluForward {
  static constexpr Op kOp = Op::swiglu_forward;
  Tensor a;
  Tensor b;
  Tensor y;  // assigned
};

struct SwigluBackward {
  static constexpr Op kOp = Op::swiglu_backward;
  Tensor a;
  Tensor b;
  Tensor dy;
  Tensor da;  // assigned
  Tensor db;  // assigned
};

// Sums x over the axes where `out` has size 1 (the ranks are equal).
struct SumTo {
  static constexpr Op kOp = Op::sum_to;
  Tensor x;
  Tensor out;  // assigned
};

// x past a tap (tap.h), which is of float32 where x is of 16 bits: what is watched is widened, what
// edits give rounded. Rows may be strided.
struct TapForward {
  static constexpr Op kOp = Op::tap_forward;
  Tensor x;    // (rows, channels) or (rows, channels, states)
  Tap tap;     // of a value of this shape
  Tensor out;  // assigned; or empty, for a tap that edits nothing
};

struct TapBackward {
  static constexpr Op kOp = Op::tap_backward;
  Tensor dout;
  Tap tap;    // forward's edits, and its gradient
  Tensor dx;  // assigned
};

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

}  // namespace elapse
