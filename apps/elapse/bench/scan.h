// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace elapse::bench {

// What the selective scan has to do for one channel of one token, in float32.
//
// A multiplication, fused with an addition or not, takes a slot of the units that machine.fma.f32
// fills; so does the scaling by a power of two that ends an exponential. Additions and permutations
// are not counted: wide machines run them beside. Left out too is what is done once and not for
// each state (softplus, SiLU). Per state, forward:
//   dt A   1    decay = 2^(dt A log2 e)   4: a polynomial of degree 2 and the scaling, the least
//   (dt x) B  1    h = decay h + write   1    y += C h   1       known to reach float32's accuracy
// and backward, which runs the states once more from a checkpoint (7, without y) and with
// g = dL/dh:
//   g = decay g + C dy  2    d(dt x) += g B  1    dB += g (dt x)  1    dC += h dy  1
//   d(dt A) = g (h - write)  1    ddt += d(dt A) A  1    dA += d(dt A) dt  1
inline constexpr double kScanForwardPerState = 8;
inline constexpr double kScanBackwardPerState = 15;

}  // namespace elapse::bench
