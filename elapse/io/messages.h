// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace elapse {

// `text` in double quotes, fit for an error message: cut after some 100 bytes, control characters
// and bytes that are no UTF-8 as \xNN.
std::string quote(std::string_view text);

// The at most three of `names` nearest to `name` by edit distance, quoted and joined by commas, for
// "did you mean"; empty where `names` is.
std::string nearest_names(std::string_view name, const std::vector<std::string_view>& names);

}  // namespace elapse
