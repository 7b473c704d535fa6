// SPDX-License-Identifier: Apache-2.0
#pragma once

// The kernel that measures a GPU's special functions; where the program is built without cuda, one
// that only says so.
namespace elapse::bench {

// Chains of them without any memory, to their end; null, or what went wrong.
const char* run_special_functions();
double special_functions_of_a_run();

}  // namespace elapse::bench
