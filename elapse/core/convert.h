// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

#include "elapse/core/dtype.h"

namespace elapse {

// f32, f64, f16 and bf16.
bool is_float(DType dtype);

// Converts `count` elements between floating-point dtypes, each rounded once: to nearest, ties to
// even. A value that the other dtype has comes out as it went in, infinities and NaNs included
// (of a NaN, the sign and the leading bits); widening and coming back changes no bit. Returns how
// many finite values were too large and became infinite. Not in place.
int64_t convert_elements(DType from_dtype, const void* from, DType to_dtype, void* to,
                         int64_t count);

}  // namespace elapse
