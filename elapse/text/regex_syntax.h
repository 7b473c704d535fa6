// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <string_view>

namespace elapse {

// An expression in Oniguruma's syntax as PCRE2 has to be told it, with the same classes of
// characters. Throws Error, opening with `where`, for what the two might take differently.
std::string pcre2_syntax(std::string_view oniguruma, const std::string& where);

}  // namespace elapse
