// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/device.h"

#include <cstdlib>

#include "elapse/core/parallel.h"
#include "elapse/ops/pointwise.h"

namespace elapse {
namespace {

const Backend* find_backend(std::string_view name) {
  for (const Backend* backend : backends()) {
    if (backend->name == name) return backend;
  }
  return nullptr;
}

const Backend& choose_backend(std::string_view name) {
  const char* verify = std::getenv("ELAPSE_VERIFY");
  const bool ref_for_cpu = verify != nullptr && std::string_view(verify) == "ref" && name == "cpu";
  if (const Backend* backend = find_backend(ref_for_cpu ? "ref" : name)) return *backend;
  std::string known;
  for (const Backend* backend : backends()) {
    known += fmt::format("{}{}", known.empty() ? "" : ", ", backend->name);
  }
  const std::string_view why = why_left_out(name);
  ELAPSE_CHECK(why.empty(), "device {} is not in this program: {}; it is built with {}", name, why,
               known);
  fail("unknown device \"{}\": this program is built with {}", name, known);
}

KernelTable kernels_with_stand_ins(const Backend& backend, DType compute) {
  KernelTable table;
  if (const KernelTable* own = backend.kernels(compute)) table = *own;
  const Backend* ref = backend.host_memory ? find_backend("ref") : nullptr;
  const KernelTable* others = ref != nullptr ? ref->kernels(compute) : nullptr;
  if (others != nullptr) table.fill_missing_from(*others);
  return table;
}

}  // namespace

std::string_view name_of(Op op) {
  static constexpr std::array<std::string_view, static_cast<size_t>(Op::count)> kNames = {
      "fill",
      "copy",
      "unary_forward",
      "unary_backward",
      "binary",
      "sum_to",
      "tap_forward",
      "tap_backward",
      "swiglu_forward",
      "swiglu_backward",
      "gather_rows",
      "scatter_add_rows",
      "likeliest",
      "sample",
      "linear_forward",
      "linear_backward_input",
      "linear_backward_weight",
      "rms_norm_forward",
      "rms_norm_backward",
      "layer_norm_forward",
      "layer_norm_backward",
      "gated_rms_norm_forward",
      "gated_rms_norm_backward",
      "causal_conv_forward",
      "causal_conv_backward",
      "causal_shift",
      "selective_scan_forward",
      "selective_scan_backward",
      "recurrence",
      "recurrence_backward",
      "mamba_step",
      "recurrent_forward",
      "recurrent_backward",
      "attention_forward",
      "attention_backward",
      "rotary",
      "long_conv_forward",
      "long_conv_backward",
      "diagonal_ssm_forward",
      "diagonal_ssm_backward",
      "ssd_forward",
      "ssd_backward",
      "ssd_forward_by_tokens",
      "ssd_watch_by_tokens",
      "ssd_backward_by_tokens",
      "delayed_forward",
      "delayed_backward",
      "gla_forward",
      "gla_backward",
      "gla_forward_by_tokens",
      "gla_backward_by_tokens",
      "cross_entropy_forward",
      "cross_entropy_backward",
      "linear_cross_entropy_forward",
      "linear_cross_entropy_backward",
      "sum_of_squares",
      "adamw"};
  return kNames[static_cast<size_t>(op)];
}

void KernelTable::fill_missing_from(const KernelTable& other) {
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i] == nullptr) entries_[i] = other.entries_[i];
  }
}

Device::Device(std::string_view name, int threads)
    : backend_(&choose_backend(name)),
      threads_(threads > 0 ? threads : hardware_threads()),
      pool_(backend_->memory()),
      f32_(kernels_with_stand_ins(*backend_, DType::f32)),
      f64_(kernels_with_stand_ins(*backend_, DType::f64)),
      bf16_(kernels_with_stand_ins(*backend_, DType::bf16)),
      f16_(kernels_with_stand_ins(*backend_, DType::f16)) {
  stream_ = backend_->create_stream();
}

Device::~Device() { backend_->destroy_stream(stream_); }

const KernelTable& Device::table(DType compute) const {
  switch (compute) {
    case DType::f32:
      return f32_;
    case DType::f64:
      return f64_;
    case DType::bf16:
      return bf16_;
    case DType::f16:
      return f16_;
    default:
      fail("cannot compute in {}", name_of(compute));
  }
}

Recording Device::record(const std::function<void()>& pass) {
  ELAPSE_CHECK(recording_ == nullptr,
               "expected to record one pass at a time, found a recording within a recording");
  Recording recording;
  recording_ = &recording;
  try {
    pass();
  } catch (...) {
    recording_ = nullptr;
    throw;
  }
  recording_ = nullptr;
  return recording;
}

std::vector<Op> Device::stand_ins(DType compute) const {
  const KernelTable* own = backend_->kernels(compute);
  std::vector<Op> ops;
  for (size_t i = 0; i < static_cast<size_t>(Op::count); ++i) {
    const Op op = static_cast<Op>(i);
    if (table(compute).has(op) && (own == nullptr || !own->has(op))) ops.push_back(op);
  }
  return ops;
}

Tensor Device::zeros(DType dtype, Shape shape) {
  Tensor t = empty(dtype, shape);
  fill(*this, {t, 0});
  return t;
}

Tensor Device::upload_bytes(const void* host, DType dtype, Shape shape) {
  Tensor t = empty(dtype, shape);
  upload_into(t, host);
  return t;
}

void Device::upload_into(const Tensor& contiguous, const void* host) {
  ELAPSE_CHECK(contiguous.is_contiguous(), "upload: the tensor is not contiguous");
  backend_->upload(stream_, contiguous.raw(), host, contiguous.bytes());
}

void Device::download_bytes(const Tensor& contiguous, void* host) {
  ELAPSE_CHECK(contiguous.is_contiguous(), "download: the tensor is not contiguous");
  backend_->download(stream_, host, contiguous.raw(), contiguous.bytes());
  synchronize();
}

}  // namespace elapse
