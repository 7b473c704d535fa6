// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

namespace elapse {

// The bytes of the file at `path`; "-": of standard input.
std::string read_input(const std::string& path);

}  // namespace elapse
