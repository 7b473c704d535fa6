// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cublas_v2.h>

#include <string_view>

// cuBLAS, loaded when a device is opened: it is some 500 MB, for which no program without a GPU
// should wait.
namespace elapse::cuda {

struct Blas {
  decltype(&cublasCreate_v2) create;
  decltype(&cublasDestroy_v2) destroy;
  decltype(&cublasSetStream_v2) set_stream;
  decltype(&cublasSetWorkspace_v2) set_workspace;
  decltype(&cublasSetMathMode) set_math_mode;
  decltype(&cublasGemmEx_64) gemm;
  decltype(&cublasGetStatusString) status_string;
};

const Blas& blas();  // throws Error where the library cannot be loaded
void check(cublasStatus_t status, std::string_view doing);

}  // namespace elapse::cuda
