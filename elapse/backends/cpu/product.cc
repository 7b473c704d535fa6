// SPDX-License-Identifier: Apache-2.0
#include "elapse/backends/cpu/product.h"

#include <omp.h>

#include <algorithm>
#include <dnnl.hpp>
#include <map>

namespace elapse::cpu {
namespace {

// While it lives, oneDNN starts no threads from this one.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

using DnnlType = dnnl::memory::data_type;

dnnl::memory::desc describe_matrix(int64_t rows, int64_t columns, DnnlType type, Strides strides) {
  return {{rows, columns}, type, {strides.row, strides.column}};
}

dnnl::matmul::primitive_desc describe_product(const Product& p, const dnnl::engine& engine) {
  const DnnlType factors = p.bf16 ? DnnlType::bf16 : DnnlType::f32;
  const auto a = describe_matrix(p.m, p.k, factors, p.a);
  const auto b = describe_matrix(p.k, p.n, factors, p.b);
  const auto c = describe_matrix(p.m, p.n, DnnlType::f32, {p.c_row, 1});
  dnnl::primitive_attr attributes;
  if (p.accumulates) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
#if DNNL_VERSION_MAJOR < 3
  return {dnnl::matmul::desc(a, b, c), attributes, engine};
#else
  return {engine, a, b, c, attributes};
#endif
}

// The compiled products of one thread: a primitive's working memory belongs to the thread that
// made it.
class CompiledProducts {
 public:
  void run(const Product& p, const void* a, const void* b, float* c) {
    Compiled& compiled = find(p);
    compiled.a.set_data_handle(const_cast<void*>(a));
    compiled.b.set_data_handle(const_cast<void*>(b));
    compiled.c.set_data_handle(c);
    compiled.matmul.execute(
        stream_,
        {{DNNL_ARG_SRC, compiled.a}, {DNNL_ARG_WEIGHTS, compiled.b}, {DNNL_ARG_DST, compiled.c}});
  }

 private:
  static constexpr size_t kMostKept = 256;

  struct Compiled {
    dnnl::matmul matmul;
    dnnl::memory a, b, c;
  };

  Compiled& find(const Product& p) {
    const auto found = kept_.find(p);
    if (found != kept_.end()) return found->second;
    if (kept_.size() == kMostKept) kept_.clear();
    const auto description = describe_product(p, engine_);
    Compiled compiled = {dnnl::matmul(description),
                         dnnl::memory(description.src_desc(), engine_, nullptr),
                         dnnl::memory(description.weights_desc(), engine_, nullptr),
                         dnnl::memory(description.dst_desc(), engine_, nullptr)};
    return kept_.emplace(p, std::move(compiled)).first->second;
  }

  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::map<Product, Compiled> kept_;
};

}  // namespace

void multiply(const Product& p, const void* a, const void* b, float* c) {
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) {
    for (int64_t r = 0; r < p.m && !p.accumulates; ++r) std::fill_n(c + r * p.c_row, p.n, 0.0f);
    return;
  }
  const OneThread one_thread;
  static thread_local CompiledProducts products;
  products.run(p, a, b, c);
}

}  // namespace elapse::cpu
