// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "elapse/core/error.h"
#include "elapse/core/tensor.h"

namespace elapse {

class Device;

// Every operation a backend may supply a kernel for. An operation is declared by its arguments: a
// struct with a `static constexpr Op kOp`, in the header named beside the group.
// clang-format off
enum class Op : uint8_t {
  fill, copy, unary_forward, unary_backward, binary, sum_to, tap_forward, tap_backward,  // pointwise.h
  swiglu_forward, swiglu_backward,
  gather_rows, scatter_add_rows, likeliest,                                        // rows.h
  sample,                                                                          // sample.h
  linear_forward, linear_backward_input, linear_backward_weight,                   // linear.h
  rms_norm_forward, rms_norm_backward,                                             // rms_norm.h
  layer_norm_forward, layer_norm_backward,                                         // layer_norm.h
  gated_rms_norm_forward, gated_rms_norm_backward,                                 // gated_rms_norm.h
  causal_conv_forward, causal_conv_backward, causal_shift,                         // causal_conv.h
  selective_scan_forward, selective_scan_backward,                                 // selective_scan.h
  recurrence, recurrence_backward,
  mamba_step,                                                                      // mamba_step.h
  recurrent_forward, recurrent_backward,                                           // recurrent.h
  attention_forward, attention_backward,                                           // attention.h
  rotary,                                                                          // rotary.h
  long_conv_forward, long_conv_backward,                                           // long_conv.h
  diagonal_ssm_forward, diagonal_ssm_backward,                                     // diagonal_ssm.h
  ssd_forward, ssd_backward, ssd_forward_by_tokens, ssd_watch_by_tokens, ssd_backward_by_tokens,        // ssd.h
  delayed_forward, delayed_backward,                                               // delayed.h
  gla_forward, gla_backward, gla_forward_by_tokens, gla_backward_by_tokens,        // gated_linear_attention.h
  cross_entropy_forward, cross_entropy_backward,                                   // cross_entropy.h
  linear_cross_entropy_forward, linear_cross_entropy_backward,
  sum_of_squares, adamw,                                                           // optimizer.h
  count
};
// clang-format on
std::string_view name_of(Op op);

template <class Args>
using Kernel = void (*)(Device&, const Args&);

// The kernels of one backend for one compute dtype. An entry may be missing.
class KernelTable {
 public:
  template <class Args>
  void set(Kernel<Args> kernel) {
    entries_[index(Args::kOp)] = reinterpret_cast<Erased>(kernel);
  }
  template <class Args>
  Kernel<Args> get() const {
    return reinterpret_cast<Kernel<Args>>(entries_[index(Args::kOp)]);
  }
  bool has(Op op) const { return entries_[index(op)] != nullptr; }
  void fill_missing_from(const KernelTable& other);

 private:
  using Erased = void (*)();
  static constexpr size_t index(Op op) { return static_cast<size_t>(op); }
  std::array<Erased, static_cast<size_t>(Op::count)> entries_{};
};

// What a backend exports. Kernels are launched in order on a stream and may return before they
// have run; only synchronize() waits. Host backends run at once and have null streams.
struct Backend {
  std::string_view name;
  const KernelTable* (*kernels)(DType compute);  // null: does not compute in this dtype
  MemorySource& (*memory)();
  bool host_memory;  // tensors can be read and written by the host
  // Memory that kernels and the host both reach, where work has been waited for: tests look at it.
  MemorySource& (*shared_memory)();
  void* (*create_stream)();
  void (*destroy_stream)(void* stream);
  void (*synchronize)(void* stream);
  void (*upload)(void* stream, void* device, const void* host, int64_t bytes);
  void (*download)(void* stream, void* host, const void* device, int64_t bytes);
  std::string (*describe)();  // e.g. the instruction set chosen on this machine
  // DeviceGraph's (device_graph.h); null where there are none. What is launched after begin_graph
  // does not run, and is what end_graph returns.
  void (*begin_graph)(void* stream) = nullptr;
  void* (*end_graph)(void* stream) = nullptr;
  void (*launch_graph)(void* stream, void* graph) = nullptr;
  void (*destroy_graph)(void* graph) = nullptr;
};

// The backends built into this program, from a list the build generates.
std::span<const Backend* const> backends();
// Why the backend of this name is none of them, as half a sentence; empty where nothing is known.
std::string_view why_left_out(std::string_view name);

// Kernels that were launched, with their arguments (Device::record).
class Recording {
 public:
  // Runs them again, in order, on the same memory.
  void run() const {
    for (const auto& launch : launches_) launch();
  }

 private:
  friend class Device;
  std::vector<std::function<void()>> launches_;
};

// Where a computation runs: a backend, a stream on it, a memory pool and a number of threads.
// Operations take it first. Not for use by two threads at once.
class Device {
 public:
  // `name` is ref, cpu, cuda, ...; threads = 0 takes every processor. Throws Error for an unknown
  // name, saying which are built in. ELAPSE_VERIFY=ref opens ref in place of cpu.
  explicit Device(std::string_view name, int threads = 0);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  std::string_view name() const { return backend_->name; }
  std::string describe() const { return backend_->describe(); }
  bool host_memory() const { return backend_->host_memory; }
  MemorySource& shared_memory() const { return backend_->shared_memory(); }
  int threads() const { return threads_; }
  void* stream() const { return stream_; }
  Pool& pool() { return pool_; }

  Tensor empty(DType dtype, Shape shape) { return Tensor::empty(pool_, dtype, shape); }
  Tensor zeros(DType dtype, Shape shape);
  template <class T>
  Tensor upload(const std::vector<T>& values, Shape shape) {
    return upload_bytes(values.data(), dtype_of<T>(), shape);
  }
  Tensor upload_bytes(const void* host, DType dtype, Shape shape);
  void upload_into(const Tensor& contiguous, const void* host);
  void download_bytes(const Tensor& contiguous, void* host);  // waits for the stream
  void synchronize() { backend_->synchronize(stream_); }

  bool has(DType compute, Op op) const { return table(compute).has(op); }
  bool has_graphs() const { return backend_->launch_graph != nullptr; }

  // Runs the operation's kernel and counts it. Throws Error where there is none.
  template <class Args>
  void launch(DType compute, const Args& args) {
    const Kernel<Args> kernel = table(compute).template get<Args>();
    ELAPSE_CHECK(kernel != nullptr, "{}: no {} kernel on device {}", name_of(Args::kOp),
                 name_of(compute), name());
    const auto run = [this, kernel](const Args& with) {
      ++calls_[static_cast<size_t>(Args::kOp)];
      kernel(*this, with);
    };
    Recording* const recording = std::exchange(recording_, nullptr);  // a kernel's own launches are
    try {                                                             // run again by itself
      run(args);
    } catch (...) {
      recording_ = recording;
      throw;
    }
    recording_ = recording;
    if (recording != nullptr) recording->launches_.push_back([run, args] { run(args); });
  }

  // Runs `pass` and records the kernels it launches, whose tensors stay alive with the recording.
  // What else `pass` does, as to upload numbers, is not done again.
  Recording record(const std::function<void()>& pass);

  // Operations whose kernel for `compute` is not the backend's own but ref's (host backends only).
  std::vector<Op> stand_ins(DType compute) const;
  int64_t calls(Op op) const { return calls_[static_cast<size_t>(op)]; }

 private:
  friend class DeviceGraph;
  const KernelTable& table(DType compute) const;

  const Backend* backend_;
  void* stream_ = nullptr;
  int threads_;
  Pool pool_;
  KernelTable f32_;
  KernelTable f64_;
  KernelTable bf16_;
  KernelTable f16_;
  std::array<int64_t, static_cast<size_t>(Op::count)> calls_{};
  Recording* recording_ = nullptr;
};

}  // namespace elapse
