// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string_view>

namespace elapse {

// Writes to standard output at once, so that a reader sees text as it is made. Throws Error where
// it cannot be written.
void show(std::string_view text);

// Throws Error where what was printed to standard output, by whatever means, did not get there.
void check_output();

}  // namespace elapse
