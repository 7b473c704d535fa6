// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>

namespace elapse {

// For people to read, in powers of 1000: 129135360 -> "129.1M", 999 -> "999".
std::string count_text(int64_t count);
std::string bytes_text(int64_t bytes);  // 258270720 -> "258.3 MB"

}  // namespace elapse
