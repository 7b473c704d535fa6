// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <CLI/CLI.hpp>
#include <cstdint>

// What the values of options are held to, with complaints in words: CLI11's own show the bounds of
// a double, and its numbers wrap around.
namespace elapse {

CLI::Validator not_empty();  // for paths
CLI::Validator whole_number(int64_t least, int64_t most = INT64_MAX);
CLI::Validator seed();  // 0 to 2^64 - 1

}  // namespace elapse
