// SPDX-License-Identifier: Apache-2.0
#include "elapse/backends/cuda/runtime.h"

#include <map>
#include <mutex>

namespace elapse::cuda {
namespace {

constexpr size_t kBlasWorkspace = size_t{32} << 20;  // what cuBLAS asks for on Hopper

class DeviceMemory final : public MemorySource {
 public:
  void* allocate(int64_t bytes) override {
    void* data = nullptr;
    if (cudaMalloc(&data, static_cast<size_t>(bytes)) != cudaSuccess) fail_for(bytes);
    const std::scoped_lock lock(mutex_);
    sizes_[data] = bytes;
    held_ += bytes;
    return data;
  }

  void release(void* data) override {
    {  // before others can be given the address
      const std::scoped_lock lock(mutex_);
      held_ -= sizes_[data];
      sizes_.erase(data);
    }
    cudaFree(data);
  }

 private:
  [[noreturn]] void fail_for(int64_t bytes) {
    const cudaError_t status = cudaGetLastError();
    size_t free = 0, total = 0;
    if (status != cudaErrorMemoryAllocation || cudaMemGetInfo(&free, &total) != cudaSuccess) {
      check(status, fmt::format("asking for {} bytes", bytes));
    }
    const std::scoped_lock lock(mutex_);
    const int64_t others = static_cast<int64_t>(total - free) - held_;
    fail(
        "device cuda is out of memory: asked for {} bytes; of {} bytes {} are free, this program's "
        "tensors hold {} and everything else {}",
        bytes, total, free, held_, others);
  }

  std::mutex mutex_;
  std::map<void*, int64_t> sizes_;
  int64_t held_ = 0;
};

class PinnedMemory final : public MemorySource {
 public:
  void* allocate(int64_t bytes) override {
    void* data = nullptr;
    check(cudaMallocHost(&data, static_cast<size_t>(bytes)), "asking for the host's memory");
    return data;
  }
  void release(void* data) override { cudaFreeHost(data); }
};

// Kernels were compiled for these and, as PTX, for what came later.
void check_usable() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  ELAPSE_CHECK(status == cudaSuccess && count > 0, "device cuda: no usable NVIDIA GPU is here ({})",
               status == cudaSuccess ? "none was found" : cudaGetErrorString(status));
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "asking for the GPU");
  ELAPSE_CHECK(major >= 8, "device cuda: the GPU has compute capability {}.x, 8.0 is needed",
               major);
}

}  // namespace

void check(cudaError_t status, std::string_view doing) {
  if (status != cudaSuccess) cudaGetLastError();  // or the next launch would be blamed for it
  ELAPSE_CHECK(status == cudaSuccess, "device cuda: {}: {}", doing, cudaGetErrorString(status));
}

MemorySource& device_memory() {
  // Never destroyed: tensors that the program keeps to its end give their memory back to it.
  static DeviceMemory& memory = *new DeviceMemory;
  return memory;
}

MemorySource& pinned_memory() {
  static PinnedMemory& memory = *new PinnedMemory;
  return memory;
}

void* create_context() {
  check_usable();
  std::unique_ptr<Context, void (*)(void*)> context(new Context, destroy_context);
  check(cudaStreamCreateWithFlags(&context->stream, cudaStreamNonBlocking), "making a stream");
  check(blas().create(&context->blas), "starting cuBLAS");
  check(cudaMalloc(&context->blas_workspace, kBlasWorkspace), "asking for cuBLAS's workspace");
  check(blas().set_stream(context->blas, context->stream), "starting cuBLAS");
  check(blas().set_workspace(context->blas, context->blas_workspace, kBlasWorkspace),
        "starting cuBLAS");
  // Sums that several blocks share would else be rounded to bf16 in between.
  constexpr int kMode = CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
  check(blas().set_math_mode(context->blas, static_cast<cublasMath_t>(kMode)), "starting cuBLAS");
  return context.release();
}

void destroy_context(void* erased) {
  const std::unique_ptr<Context> context(static_cast<Context*>(erased));
  if (!context) return;
  if (context->blas != nullptr) blas().destroy(context->blas);
  cudaFree(context->blas_workspace);
  if (context->stream != nullptr) cudaStreamDestroy(context->stream);
}

std::string describe() {
  cudaDeviceProp gpu;
  check(cudaGetDeviceProperties(&gpu, 0), "asking for the GPU");
  return fmt::format("{}, compute capability {}.{}, {} multiprocessors, {:.1f} GiB", gpu.name,
                     gpu.major, gpu.minor, gpu.multiProcessorCount,
                     static_cast<double>(gpu.totalGlobalMem) / (1 << 30));
}

}  // namespace elapse::cuda
