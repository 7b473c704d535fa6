// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace elapse::bench {

// What the state-space dual has to do for one state (channel, n) of one token, in float32, as
// products of matrices: forward, write it and read it; backward, read it again, and ask of it and
// of its gradient what reaches x, B, C and the states before. Chunks add to that what grows with
// their length, which could be short.
inline constexpr double kSsdForwardPerState = 2;
inline constexpr double kSsdBackwardPerState = 5;

}  // namespace elapse::bench
