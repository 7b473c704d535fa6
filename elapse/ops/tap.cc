// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/tap.h"

namespace elapse {
namespace {

bool ranges_meet(int64_t begin, int64_t end, int64_t first, int64_t count) {
  return begin < first + count && first < end;
}

}  // namespace

bool TapPart::meets(int64_t row_begin, int64_t row_end, int64_t channel_begin, int64_t channel_end,
                    int64_t state_begin, int64_t state_end) const {
  if (is_whole()) return true;
  if (!ranges_meet(channel_begin, channel_end, first_channel, channel_count)) return false;
  if (!ranges_meet(state_begin, state_end, first_state, state_count)) return false;
  for (int64_t row = row_begin; row < row_end; ++row) {
    if (part_row(row) >= 0) return true;
  }
  return false;
}

}  // namespace elapse
