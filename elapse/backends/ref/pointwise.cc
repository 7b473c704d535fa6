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
    case Unary::relu:
      return x < 0 ? 0 : x;
    case Unary::silu:
      return silu(x);
    case Unary::softplus:
      return softplus(x);
    case Unary::gelu:
      return gelu(x);
    case Unary::sigmoid:
      return sigmoid(x);
    case Unary::gelu_tanh:
      return gelu_tanh(x);
    case Unary::tanh:
      return std::tanh(x);
    case Unary::log_sigmoid:
      return std::min(x, T(0)) - std::log1p(std::exp(-std::abs(x)));
    case Unary::elu_plus_one:
      return x > 0 ? x + 1 : std::exp(x);
    case Unary::reciprocal:
      return 1 / x;
    case Unary::sine:
      return std::sin(x);
  }
  return x;
}

template <class T>
T slope_of(Unary function, T x) {
  switch (function) {
    case Unary::relu:
      return x <= 0 ? 0 : 1;
    case Unary::silu:
      return silu_slope(x);
    case Unary::softplus:
      return softplus_slope(x);
    case Unary::gelu:
      return gelu_slope(x);
    case Unary::sigmoid:
      return sigmoid(x) * sigmoid(-x);
    case Unary::gelu_tanh:
      return gelu_tanh_slope(x);
    case Unary::tanh:
      return (1 - std::tanh(x)) * (1 + std::tanh(x));
    case Unary::log_sigmoid:
      return sigmoid(-x);
    case Unary::elu_plus_one:
      return x > 0 ? 1 : std::exp(x);
    case Unary::reciprocal:
      return -1 / (x * x);
    case Unary::sine:
      return std::cos(x);
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
void swiglu_forward(Device&, const SwigluForward& args) {
  const T *a = args.a.data<T>(), *b = args.b.data<T>();
  T* y = args.y.data<T>();
  for_each_place<3>(args.a.shape(), {&args.a, &args.b, &args.y},
                    [&](auto at) { y[at[2]] = silu(a[at[0]]) * b[at[1]]; });
}

template <class T>
void swiglu_backward(Device&, const SwigluBackward& args) {
  const T *a = args.a.data<T>(), *b = args.b.data<T>(), *dy = args.dy.data<T>();
  T *da = args.da.data<T>(), *db = args.db.data<T>();
  for_each_place<5>(args.a.shape(), {&args.a, &args.b, &args.dy, &args.da, &args.db}, [&](auto at) {
    const T x = a[at[0]], g = dy[at[2]];
    da[at[3]] = g * b[at[1]] * silu_slope(x);
    db[at[4]] = g * silu(x);
  });
}

template <class T>
void sum_to(Device& device, const SumTo& a) {
  const T* x = a.x.data<T>();
  T* out = a.out.data<T>();
  fill<T>(device, {a.out, 0});
  for_each_place<2>(a.x.shape(), {&a.x, &a.out}, [&](auto at) { out[at[1]] += x[at[0]]; });
}

// v - (v.u / u.u) u for row r's channels in the part; so too its gradient, as the projection is its
// own transpose.
template <class T>
void project_out(const TapEdit& edit, int64_t r, T* row, int64_t channels) {
  const TapPart& part = edit.part;
  const int64_t count = part.is_whole() ? channels : part.channel_count;
  if (part.part_row(r) < 0) return;
  T* v = row + part.first_channel;
  const T* u = edit.source.data<T>() + part.part_row(r) * count;
  double along = 0, squares = 0;
  for (int64_t i = 0; i < count; ++i) {
    along += double(v[i]) * u[i];
    squares += double(u[i]) * u[i];
  }
  if (squares == 0) return;
  for (int64_t i = 0; i < count; ++i) v[i] -= static_cast<T>(along / squares * u[i]);
}

int64_t width_of(const Tensor& t) { return t.numel() / std::max<int64_t>(1, t.dim(0)); }

template <class T>
void tap_forward(Device& device, const TapForward& a) {
  const int64_t width = width_of(a.x);
  if (a.out) copy<T>(device, {a.x, a.out});
  const Matrix<T> values(a.out ? a.out : a.x);
  for (const TapEdit& edit : a.tap.edits) {
    const Tap one = {.edits = {edit}};
    const TapAt<T> change(one);
    for (int64_t r = 0; r < a.x.dim(0); ++r) {
      if (edit.op == EditOp::project_out) project_out(edit, r, values.row(r), width);
      for (int64_t i = 0; i < width; ++i) values(r, i) = change(values(r, i), r * width + i);
    }
  }
  const Tap watch = {.watch = a.tap.watch, .watched = a.tap.watched};
  const TapAt<T> keep(watch);
  for (int64_t r = 0; r < a.x.dim(0); ++r) {
    for (int64_t i = 0; i < width; ++i) keep(values(r, i), r * width + i);
  }
}

template <class T>
void tap_backward(Device& device, const TapBackward& a) {
  const int64_t width = width_of(a.dx);
  copy<T>(device, {a.dout, a.dx});
  const Matrix<T> dx(a.dx);
  const Tap gradient = {.gradient = a.tap.gradient, .graded = a.tap.graded};
  const TapAt<T> keep(gradient);
  for (int64_t r = 0; r < a.dx.dim(0); ++r) {
    for (int64_t i = 0; i < width; ++i) keep.back(dx(r, i), r * width + i);
  }
  for (auto edit = a.tap.edits.rbegin(); edit != a.tap.edits.rend(); ++edit) {
    const bool projects = edit->op == EditOp::project_out;
    const Tap one = {.edits = {*edit}};
    const TapAt<T> change(one);
    for (int64_t r = 0; r < a.dx.dim(0); ++r) {
      if (projects) project_out(*edit, r, dx.row(r), width);
      for (int64_t i = 0; i < width && !projects; ++i) {
        dx(r, i) = change.back(dx(r, i), r * width + i);
      }
    }
  }
}

}  // namespace

template <class T>
void add_pointwise(KernelTable& table) {
  table.set<Fill>(fill<T>);
  table.set<Copy>(copy<T>);
  table.set<UnaryForward>(unary_forward<T>);
  table.set<UnaryBackward>(unary_backward<T>);
  table.set<Binary>(binary<T>);
  table.set<SwigluForward>(swiglu_forward<T>);
  table.set<SwigluBackward>(swiglu_backward<T>);
  table.set<SumTo>(sum_to<T>);
  table.set<TapForward>(tap_forward<T>);
  table.set<TapBackward>(tap_backward<T>);
}
template void add_pointwise<float>(KernelTable&);
template void add_pointwise<double>(KernelTable&);

}  // namespace elapse::ref
