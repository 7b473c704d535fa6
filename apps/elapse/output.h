// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string_view>

namespace elapse {

// Writes to standard output at once, so that a reader sees text as it is made. Throws Error where
// it cannot be written.
void show(std::string_view text);

}  // namespace elapse
