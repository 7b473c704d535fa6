// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <string_view>

namespace elapse {

// Why `xml` is not well-formed as far as reports use XML (elements, attributes, character data,
// predefined entities; <!DOCTYPE html> is passed over), or "" if it is.
std::string xml_fault(std::string_view xml);

size_t count_of(std::string_view text, std::string_view part);

}  // namespace elapse
