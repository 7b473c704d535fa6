// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/bench/gpu_machine_kernels.h"

namespace elapse::bench {

const char* run_special_functions() { return "this program is built without cuda"; }
double special_functions_of_a_run() { return 0; }

}  // namespace elapse::bench
