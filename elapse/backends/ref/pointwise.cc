// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/pointwise.h"

#include "elapse/backends/ref/kernels.h"
#include "elapse/backends/ref/math.h"

namespace elapse::ref {
namespace {

// Walks every place of `shape`, giving `visit` each tensor's element offset there. Sizes of 1 stay
// put, which is what broadcasting and summing need.
template <size_t kCount, class Visit>
void for_each_place(const Shape& shape, const std::array<const Tensor*, kCount>& tensors,
                    Visit&& visit) {
  for (int64_t place = 0; place < shape.numel(); ++place) {
    std::array<int64_t, kCount> offsets{};
    int64_t rest = place;
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      const int64_t i = rest % shape[axis];
      rest /= shape[axis];
      for (size_t k = 0; k < kCount; ++k) {
        if (tensors[k]->dim(axis) != 1) offsets[k] += i * tensors[k]->stride(axis);
      }
    }
    visit(offsets);
  }
}

template <class T>
void fill(Device&, const Fill& a) {
  T* out = a.out.data<T>();
  for_each_place<1>(a.out.shape(), {&a.out},
                    [&](auto at) { out[at[0]] = static_cast<T>(a.value); });
}

template <class From, class T>
void copy_from(const Copy& a) {
  const From* x = a.x.data<From>();
  T* out = a.out.data<T>();
  for_each_place<2>(a.out.shape(), {&a.x, &a.out},
                    [&](auto at) { out[at[1]] = static_cast<T>(x[at[0]]); });
}

template <class T>
void copy(Device&, const Copy& a) {
  a.x.dtype() == DType::f64 ? copy_from<double, T>(a) : copy_from<float, T>(a);
}

template <class T>
T value_of(Unary function, T x) {
  switch (function) {
    case Unary::exp:
      return std::exp(x);
    case Unary::neg_exp:
      return -std::exp(x);
    case Unary::silu:
      return silu(x);
    case Unary::softplus:
      return softplus(x);
  }
  return x;
}

template <class T>
T slope_of(Unary function, T x) {
  switch (function) {
    case Unary::silu:
      return silu_slope(x);
    case Unary::softplus:
      return softplus_slope(x);
    default:
      return value_of(function, x);
  }
}

template <class T>
void unary_forward(Device&, const UnaryForward& a) {
  const T* x = a.x.data<T>();
  T* y = a.y.data<T>();
  for_each_place<2>(a.x.shape(), {&a.x, &a.y},
                    [&](auto at) { y[at[1]] = value_of(a.function, x[at[0]]); });
}

template <class T>
void unary_backward(Device&, const UnaryBackward& a) {
  const T* x = a.x.data<T>();
  const T* dy = a.dy.data<T>();
  T* dx = a.dx.data<T>();
  for_each_place<3>(a.x.shape(), {&a.x, &a.dy, &a.dx},
                    [&](auto at) { dx[at[2]] = dy[at[1]] * slope_of(a.function, x[at[0]]); });
}

template <class T>
void binary(Device&, const Binary& a) {
  const T* lhs = a.a.data<T>();
  const T* rhs = a.b.data<T>();
  T* out = a.out.data<T>();
  for_each_place<3>(a.out.shape(), {&a.a, &a.b, &a.out}, [&](auto at) {
    const T x = lhs[at[0]], y = rhs[at[1]];
    out[at[2]] = a.function == BinaryFunction::add ? x + y : x * y;
  });
}

template <class T>
void sum_to(Device& device, const SumTo& a) {
  const T* x = a.x.data<T>();
  T* out = a.out.data<T>();
  fill<T>(device, {a.out, 0});
  for_each_place<2>(a.x.shape(), {&a.x, &a.out}, [&](auto at) { out[at[1]] += x[at[0]]; });
}

// Offset of the source's element for the one at `offset`.
int64_t source_offset(const Tensor& source, int64_t offset) {
  return source.numel() == 1 ? 0 : offset;
}

template <class T>
void edit(Device&, const EditForward& a) {
  const T* x = a.x.data<T>();
  const T* source = a.source.data<T>();
  T* out = a.out.data<T>();
  const Tensor& shaped = a.source.numel() == 1 ? a.x : a.source;
  for_each_place<3>(a.x.shape(), {&a.x, &shaped, &a.out}, [&](auto at) {
    out[at[2]] = edited(a.edit, x[at[0]], source[source_offset(a.source, at[1])]);
  });
}

template <class T>
void edit_backward(Device&, const EditBackward& a) {
  const T* dout = a.dout.data<T>();
  const T* source = a.source.data<T>();
  T* dx = a.dx.data<T>();
  const Tensor& shaped = a.source.numel() == 1 ? a.dout : a.source;
  for_each_place<3>(a.dout.shape(), {&a.dout, &shaped, &a.dx}, [&](auto at) {
    dx[at[2]] = dout[at[0]] * edit_slope(a.edit, source[source_offset(a.source, at[1])]);
  });
}

}  // namespace

template <class T>
void add_pointwise(KernelTable& table) {
  table.set<Fill>(fill<T>);
  table.set<Copy>(copy<T>);
  table.set<UnaryForward>(unary_forward<T>);
  table.set<UnaryBackward>(unary_backward<T>);
  table.set<Binary>(binary<T>);
  table.set<SumTo>(sum_to<T>);
  table.set<EditForward>(edit<T>);
  table.set<EditBackward>(edit_backward<T>);
}
template void add_pointwise<float>(KernelTable&);
template void add_pointwise<double>(KernelTable&);

}  // namespace elapse::ref
