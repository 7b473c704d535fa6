// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/io/text_input.h"

namespace elapse {

// The text at a path; "-": standard input.
TextInput open_input(const std::string& path);

}  // namespace elapse
