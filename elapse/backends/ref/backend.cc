// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "elapse/backends/ref/kernels.h"

namespace elapse {
namespace {

template <class T>
KernelTable make_table() {
  KernelTable table;
  ref::add_pointwise<T>(table);
  ref::add_rows<T>(table);
  ref::add_sample<T>(table);
  ref::add_linear<T>(table);
  ref::add_rms_norm<T>(table);
  ref::add_layer_norm<T>(table);
  ref::add_gated_rms_norm<T>(table);
  ref::add_causal_conv<T>(table);
  ref::add_selective_scan<T>(table);
  ref::add_recurrent<T>(table);
  ref::add_attention<T>(table);
  ref::add_rotary<T>(table);
  ref::add_long_conv<T>(table);
  ref::add_diagonal_ssm<T>(table);
  ref::add_ssd<T>(table);
  ref::add_delayed<T>(table);
  ref::add_gated_linear_attention<T>(table);
  ref::add_cross_entropy<T>(table);
  ref::add_optimizer<T>(table);
  return table;
}

const KernelTable* kernels(DType compute) {
  static const KernelTable f32 = make_table<float>();
  static const KernelTable f64 = make_table<double>();
  if (compute == DType::f32) return &f32;
  return compute == DType::f64 ? &f64 : nullptr;
}

void copy_bytes(void*, void* to, const void* from, int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

}  // namespace

const Backend& ref_backend() {
  static const Backend backend = {
      .name = "ref",
      .kernels = kernels,
      .memory = host_memory,
      .host_memory = true,
      .shared_memory = host_memory,
      .create_stream = [] { return static_cast<void*>(nullptr); },
      .destroy_stream = [](void*) {},
      .synchronize = [](void*) {},
      .upload = copy_bytes,
      .download = copy_bytes,
      .describe = [] { return std::string("plain loops, one thread"); },
  };
  return backend;
}

}  // namespace elapse
