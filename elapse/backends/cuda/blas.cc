// SPDX-License-Identifier: Apache-2.0
#include "elapse/backends/cuda/blas.h"

#include <dlfcn.h>

#include "elapse/core/error.h"

namespace elapse::cuda {
namespace {

void* open_library() {
  const std::string name = fmt::format("libcublas.so.{}", CUBLAS_VER_MAJOR);
  for (const std::string& path : {name, std::string(ELAPSE_CUDA_LIBRARIES "/") + name}) {
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  }
  fail("device cuda: cannot load {}: {}", name, dlerror());
}

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  ELAPSE_CHECK(function != nullptr, "device cuda: cuBLAS has no {}", name);
}

Blas load() {
  void* library = open_library();
  Blas functions;
  find(library, "cublasCreate_v2", functions.create);
  find(library, "cublasDestroy_v2", functions.destroy);
  find(library, "cublasSetStream_v2", functions.set_stream);
  find(library, "cublasSetWorkspace_v2", functions.set_workspace);
  find(library, "cublasSetMathMode", functions.set_math_mode);
  find(library, "cublasGemmEx_64", functions.gemm);
  find(library, "cublasGetStatusString", functions.status_string);
  return functions;
}

}  // namespace

const Blas& blas() {
  static const Blas functions = load();
  return functions;
}

void check(cublasStatus_t status, std::string_view doing) {
  ELAPSE_CHECK(status == CUBLAS_STATUS_SUCCESS, "device cuda: {}: {}", doing,
               blas().status_string(status));
}

}  // namespace elapse::cuda
