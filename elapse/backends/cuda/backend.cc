// SPDX-License-Identifier: Apache-2.0
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/runtime.h"

namespace elapse {

const Backend& cuda_backend();

namespace {

// What has kernels in float32 and in bf16: all of a training step of every mixer, but what
// parameters alone are in.
template <class T>
KernelTable make_common_table(DType compute) {
  KernelTable table;
  cuda::add_fill_and_copy(table, compute);
  table.set<Binary>(cuda::binary<T>);
  table.set<UnaryForward>(cuda::unary_forward);
  table.set<UnaryBackward>(cuda::unary_backward);
  table.set<SwigluForward>(cuda::swiglu_forward);
  table.set<SwigluBackward>(cuda::swiglu_backward);
  table.set<SumTo>(cuda::sum_to);
  table.set<LinearForward>(cuda::linear_forward);
  table.set<LinearBackwardInput>(cuda::linear_backward_input);
  table.set<LinearBackwardWeight>(cuda::linear_backward_weight);
  table.set<RmsNormForward>(cuda::rms_norm_forward);
  table.set<RmsNormBackward>(cuda::rms_norm_backward);
  table.set<CausalConvForward>(cuda::causal_conv_forward<T>);
  table.set<CausalConvBackward>(cuda::causal_conv_backward<T>);
  table.set<ScanForward>(cuda::selective_scan_forward);
  table.set<ScanBackward>(cuda::selective_scan_backward);
  table.set<GatedRmsNormForward>(cuda::gated_rms_norm_forward);
  table.set<GatedRmsNormBackward>(cuda::gated_rms_norm_backward);
  table.set<SsdForward>(cuda::ssd_forward);
  table.set<SsdBackward>(cuda::ssd_backward);
  table.set<GlaForward>(cuda::gla_forward);
  table.set<GlaBackward>(cuda::gla_backward);
  table.set<RecurrentForward>(cuda::recurrent_forward);
  table.set<RecurrentBackward>(cuda::recurrent_backward);
  table.set<DiagonalSsmForward>(cuda::diagonal_ssm_forward);
  table.set<DiagonalSsmBackward>(cuda::diagonal_ssm_backward);
  table.set<DelayedForward>(cuda::delayed_forward);
  table.set<DelayedBackward>(cuda::delayed_backward);
  table.set<TapForward>(cuda::tap_forward);
  table.set<TapBackward>(cuda::tap_backward);
  table.set<LayerNormForward>(cuda::layer_norm_forward);
  table.set<LayerNormBackward>(cuda::layer_norm_backward);
  table.set<AttentionForward>(cuda::attention_forward);
  table.set<AttentionBackward>(cuda::attention_backward);
  table.set<Rotary>(cuda::rotary);
  table.set<LongConvForward>(cuda::long_conv_forward);
  table.set<LongConvBackward>(cuda::long_conv_backward);
  table.set<LinearCrossEntropyForward>(cuda::linear_cross_entropy_forward<T>);
  table.set<LinearCrossEntropyBackward>(cuda::linear_cross_entropy_backward<T>);
  return table;
}

KernelTable make_bf16_table() {
  KernelTable table = make_common_table<cuda::bf16>(DType::bf16);
  table.set<MambaStep>(cuda::mamba_step);
  return table;
}

KernelTable make_table() {
  KernelTable table = make_common_table<float>(DType::f32);
  table.set<CausalShift>(cuda::causal_shift);
  table.set<Recurrence>(cuda::recurrence);
  table.set<RecurrenceBackward>(cuda::recurrence_backward);
  table.set<GatherRows>(cuda::gather_rows);
  table.set<ScatterAddRows>(cuda::scatter_add_rows);
  table.set<Likeliest>(cuda::likeliest);
  table.set<Sample>(cuda::sample);
  table.set<CrossEntropyForward>(cuda::cross_entropy_forward);
  table.set<CrossEntropyBackward>(cuda::cross_entropy_backward);
  table.set<SumOfSquares>(cuda::sum_of_squares);
  table.set<AdamW>(cuda::adamw);
  return table;
}

KernelTable make_f16_table() {
  KernelTable table;
  table.set<ScanForward>(cuda::selective_scan_forward);
  table.set<ScanBackward>(cuda::selective_scan_backward);
  return table;
}

// In double there is what statistics of a float32 model need.
KernelTable make_double_table() {
  KernelTable table;
  cuda::add_fill_and_copy(table, DType::f64);
  return table;
}

const KernelTable* kernels(DType compute) {
  static const KernelTable f32 = make_table(), f64 = make_double_table(), bf16 = make_bf16_table(),
                           f16 = make_f16_table();
  switch (compute) {
    case DType::f32:
      return &f32;
    case DType::f64:
      return &f64;
    case DType::bf16:
      return &bf16;
    case DType::f16:
      return &f16;
    default:
      return nullptr;
  }
}

cudaStream_t stream_of(void* context) { return static_cast<cuda::Context*>(context)->stream; }

// Before what is neither a kernel nor recorded.
void check_runs(void* erased) {
  auto* context = static_cast<cuda::Context*>(erased);
  ELAPSE_CHECK(!context->records,
               "device cuda: a graph can neither wait nor copy from the host or to it");
  context->in_chain = false;
}

void synchronize(void* context) {
  check_runs(context);
  cuda::check(cudaStreamSynchronize(stream_of(context)), "waiting for the GPU");
}

void upload(void* context, void* device, const void* host, int64_t bytes) {
  if (bytes == 0) return;
  check_runs(context);
  cuda::check(cudaMemcpyAsync(device, host, static_cast<size_t>(bytes), cudaMemcpyDefault,
                              stream_of(context)),
              "copying to the GPU");
}

void download(void* context, void* host, const void* device, int64_t bytes) {
  if (bytes == 0) return;
  check_runs(context);
  cuda::check(cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDefault,
                              stream_of(context)),
              "copying from the GPU");
}

// Relaxed: memory may be asked for meanwhile.
void begin_graph(void* context) {
  cuda::check(cudaStreamBeginCapture(stream_of(context), cudaStreamCaptureModeRelaxed),
              "beginning a graph");
  static_cast<cuda::Context*>(context)->records = true;
  static_cast<cuda::Context*>(context)->in_chain = false;
}

void* end_graph(void* context) {
  static_cast<cuda::Context*>(context)->records = false;
  static_cast<cuda::Context*>(context)->in_chain = false;
  cudaGraph_t graph = nullptr;
  cuda::check(cudaStreamEndCapture(stream_of(context), &graph), "ending a graph");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  cuda::check(status, "making a graph");
  return executable;
}

void launch_graph(void* context, void* graph) {
  static_cast<cuda::Context*>(context)->in_chain = false;
  cuda::check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream_of(context)),
              "starting a graph");
}

void destroy_graph(void* graph) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); }

}  // namespace

const Backend& cuda_backend() {
  static const Backend backend = {
      .name = "cuda",
      .kernels = kernels,
      .memory = cuda::device_memory,
      .host_memory = false,
      .shared_memory = cuda::pinned_memory,
      .create_stream = cuda::create_context,
      .destroy_stream = cuda::destroy_context,
      .synchronize = synchronize,
      .upload = upload,
      .download = download,
      .describe = cuda::describe,
      .begin_graph = begin_graph,
      .end_graph = end_graph,
      .launch_graph = launch_graph,
      .destroy_graph = destroy_graph,
  };
  return backend;
}

}  // namespace elapse
