// SPDX-License-Identifier: Apache-2.0
// Operations on single elements, and sums over axes. Bound: memory; 4 bytes an element and operand.
#include "elapse/backends/cuda/kernels.h"
#include "elapse/backends/cuda/launch.cuh"

namespace elapse::cuda {
namespace {

constexpr int kThreads = 256;

// The places of a shape, and where in each of kCount tensors they are. Axes that all tensors walk
// without a gap are one, so that contiguous tensors need no division.
template <int kCount>
struct Places {
  int rank = 0;
  int64_t count = 1;
  int64_t sizes[Shape::kMaxRank];
  int64_t strides[kCount][Shape::kMaxRank];

  Places(const Shape& shape, const std::array<const Tensor*, kCount>& tensors) {
    for (int axis = 0; axis < shape.rank(); ++axis) add(shape, tensors, axis);
  }

  void add(const Shape& shape, const std::array<const Tensor*, kCount>& tensors, int axis) {
    count *= shape[axis];
    if (shape[axis] == 1) return;
    std::array<int64_t, kCount> step;
    bool joins = rank > 0;
    for (int k = 0; k < kCount; ++k) {
      step[k] = tensors[k]->dim(axis) == 1 ? 0 : tensors[k]->stride(axis);
      joins = joins && strides[k][rank - 1] == step[k] * shape[axis];
    }
    if (!joins) sizes[rank++] = 1;
    sizes[rank - 1] *= shape[axis];
    for (int k = 0; k < kCount; ++k) strides[k][rank - 1] = step[k];
  }

  __device__ void at(int64_t place, int64_t (&offsets)[kCount]) const {
    for (int k = 0; k < kCount; ++k) offsets[k] = 0;
    for (int axis = rank - 1; axis >= 0; --axis) {
      const int64_t i = axis > 0 ? place % sizes[axis] : place;
      if (axis > 0) place /= sizes[axis];
      for (int k = 0; k < kCount; ++k) offsets[k] += i * strides[k][axis];
    }
  }
};

template <int kCount, class Visit>
__global__ void visit_kernel(Places<kCount> places, Visit visit) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < places.count; i += step) {
    int64_t offsets[kCount];
    places.at(i, offsets);
    visit(offsets);
  }
}

template <int kCount, class Visit>
void for_each_place(Device& device, Op op, const Shape& shape,
                    const std::array<const Tensor*, kCount>& tensors, Visit visit) {
  const Places<kCount> places(shape, tensors);
  launch(device, name_of(op), visit_kernel<kCount, Visit>, grid_for(places.count, kThreads),
         kThreads, 0, places, visit);
}

template <class T>
struct Filler {
  T* out;
  T value;
  __device__ void operator()(const int64_t (&at)[1]) const { out[at[0]] = value; }
};

template <class T>
T* data_of(const Tensor& t) {
  return static_cast<T*>(t.raw());
}

// Calls run(null pointer of the type) that the tensor's numbers have, float or bf16.
template <class Run>
void in_dtype_of(const Tensor& t, Run&& run) {
  if (t.dtype() == DType::bf16) run(static_cast<bf16*>(nullptr));
  else run(static_cast<float*>(nullptr));
}

template <class T>
void fill(Device& device, const Fill& a) {
  for_each_place<1>(device, a.kOp, a.out.shape(), {&a.out},
                    Filler<T>{data_of<T>(a.out), static_cast<T>(a.value)});
}

void copy_bytes(Device& device, const Tensor& from, const Tensor& to) {
  Context& context = context_of(device);
  context.in_chain = false;
  check(cudaMemcpyAsync(to.raw(), from.raw(), static_cast<size_t>(from.bytes()), cudaMemcpyDefault,
                        context.stream),
        name_of(Copy::kOp));
}

template <class From, class T>
struct Copier {
  const From* x;
  T* out;
  __device__ void operator()(const int64_t (&at)[2]) const {
    out[at[1]] = static_cast<T>(x[at[0]]);
  }
};

template <class From, class T>
void copy_from(Device& device, const Copy& a) {
  if (std::is_same_v<From, T> && a.x.is_contiguous() && a.out.is_contiguous()) {
    return copy_bytes(device, a.x, a.out);
  }
  for_each_place<2>(device, a.kOp, a.out.shape(), {&a.x, &a.out},
                    Copier<From, T>{data_of<From>(a.x), data_of<T>(a.out)});
}

template <class T>
void copy(Device& device, const Copy& a) {
  switch (a.x.dtype()) {
    case DType::f64:
      return copy_from<double, T>(device, a);
    case DType::bf16:
      return copy_from<bf16, T>(device, a);
    default:
      return copy_from<float, T>(device, a);
  }
}

// Without gaps, of the other's shape, and aligned for pairs.
template <class T>
bool is_flat_of(const Tensor& t, const Tensor& other) {
  return t.shape() == other.shape() && t.is_contiguous() &&
         reinterpret_cast<uintptr_t>(t.raw()) % (2 * sizeof(T)) == 0;
}

constexpr float kInverseRootTwoPi = 0.398942280401432678f;
constexpr float kGeluTanh = 0.797884560802865356f, kGeluCubed = 0.044715f;

__device__ float gelu_share(float x) { return 0.5f * erfcf(-0.707106781186547524f * x); }
__device__ float gelu_tanh_inside(float x) { return kGeluTanh * (x + kGeluCubed * x * x * x); }

__device__ float value_of(Unary function, float x) {
  switch (function) {
    case Unary::exp:
      return expf(x);
    case Unary::neg_exp:
      return -expf(x);
    case Unary::relu:
      return x < 0 ? 0 : x;
    case Unary::silu:
      return silu(x);
    case Unary::softplus:
      return softplus(x);
    case Unary::gelu:
      return x * gelu_share(x);
    case Unary::gelu_tanh:
      return 0.5f * x * (1.0f + tanhf(gelu_tanh_inside(x)));
    case Unary::sigmoid:
      return sigmoid(x);
    case Unary::tanh:
      return tanhf(x);
    case Unary::log_sigmoid:
      return fminf(x, 0.0f) - log1pf(expf(-fabsf(x)));
    case Unary::elu_plus_one:
      return x > 0 ? x + 1.0f : expf(x);
    case Unary::reciprocal:
      return 1.0f / x;
    case Unary::sine:
      return sinf(x);
  }
  return x;
}

__device__ float slope_of(Unary function, float x) {
  switch (function) {
    case Unary::relu:
      return x <= 0 ? 0 : 1;
    case Unary::silu:
      return silu_slope(x);
    case Unary::softplus:
      return softplus_slope(x);
    case Unary::gelu:
      return gelu_share(x) + x * kInverseRootTwoPi * expf(-0.5f * x * x);
    case Unary::gelu_tanh: {
      const float t = tanhf(gelu_tanh_inside(x));
      const float inside_slope = kGeluTanh * (1.0f + 3.0f * kGeluCubed * x * x);
      return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t) * (1.0f + t) * inside_slope;
    }
    case Unary::sigmoid:
      return sigmoid(x) * sigmoid(-x);
    case Unary::tanh:
      return (1.0f - tanhf(x)) * (1.0f + tanhf(x));
    case Unary::log_sigmoid:
      return sigmoid(-x);
    case Unary::elu_plus_one:
      return x > 0 ? 1.0f : expf(x);
    case Unary::reciprocal:
      return -1.0f / (x * x);
    case Unary::sine:
      return cosf(x);
    default:
      return value_of(function, x);
  }
}

template <class T>
struct UnaryValue {
  Unary function;
  const T* x;
  T* y;
  __device__ void operator()(const int64_t (&at)[2]) const {
    y[at[1]] = static_cast<T>(value_of(function, static_cast<float>(x[at[0]])));
  }
};

template <class T>
struct UnaryGradient {
  Unary function;
  const T* x;
  const T* dy;
  T* dx;
  __device__ void operator()(const int64_t (&at)[3]) const {
    const float slope = slope_of(function, static_cast<float>(x[at[0]]));
    dx[at[2]] = static_cast<T>(static_cast<float>(dy[at[1]]) * slope);
  }
};

__device__ float value_of(BinaryFunction function, float x, float y) {
  return function == BinaryFunction::add ? x + y : x * y;
}

template <class T>
struct BinaryValue {
  BinaryFunction function;
  const T* a;
  const T* b;
  T* out;
  __device__ void operator()(const int64_t (&at)[3]) const {
    const float x = static_cast<float>(a[at[0]]), y = static_cast<float>(b[at[1]]);
    out[at[2]] = static_cast<T>(value_of(function, x, y));
  }
};

// Of tensors without gaps: pairs, of which a thread reads some before it writes any.
constexpr int kPairsOfThread = 4;
template <class T>
__global__ void flat_binary_kernel(BinaryValue<T> args, int64_t pairs) {
  const int64_t first = blockIdx.x * int64_t{kThreads * kPairsOfThread} + threadIdx.x;
  float2 x[kPairsOfThread], y[kPairsOfThread];
#pragma unroll
  for (int k = 0; k < kPairsOfThread; ++k) {
    const int64_t pair = first + k * kThreads;
    if (pair >= pairs) continue;
    x[k] = load_pair(args.a + 2 * pair);
    y[k] = load_pair(args.b + 2 * pair);
  }
#pragma unroll
  for (int k = 0; k < kPairsOfThread; ++k) {
    const int64_t pair = first + k * kThreads;
    if (pair >= pairs) continue;
    store_pair(args.out + 2 * pair,
               {value_of(args.function, x[k].x, y[k].x), value_of(args.function, x[k].y, y[k].y)});
  }
}

template <class T>
struct SwigluValue {
  const T* a;
  const T* b;
  T* y;
  __device__ void operator()(const int64_t (&at)[3]) const {
    y[at[2]] = static_cast<T>(silu(static_cast<float>(a[at[0]])) * static_cast<float>(b[at[1]]));
  }
};

template <class T>
struct SwigluGradient {
  const T* a;
  const T* b;
  const T* dy;
  T* da;
  T* db;
  __device__ void operator()(const int64_t (&at)[5]) const {
    const float x = static_cast<float>(a[at[0]]), g = static_cast<float>(dy[at[2]]);
    da[at[3]] = static_cast<T>(g * static_cast<float>(b[at[1]]) * silu_slope(x));
    db[at[4]] = static_cast<T>(g * silu(x));
  }
};

// A block an element of the sum: `kept` are out's places, `summed` those that fall onto one.
template <class T>
__global__ void sum_kernel(Places<2> kept, Places<1> summed, const T* x, T* out) {
  for (int64_t i = blockIdx.x; i < kept.count; i += gridDim.x) {
    int64_t at[2], within[1];
    kept.at(i, at);
    double sum = 0;
    for (int64_t k = threadIdx.x; k < summed.count; k += blockDim.x) {
      summed.at(k, within);
      sum += static_cast<float>(x[at[0] + within[0]]);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[at[1]] = static_cast<T>(static_cast<float>(sum));
  }
}

}  // namespace

void add_fill_and_copy(KernelTable& table, DType compute) {
  switch (compute) {
    case DType::f64:
      table.set<Fill>(fill<double>);
      return table.set<Copy>(copy<double>);
    case DType::bf16:
      table.set<Fill>(fill<bf16>);
      return table.set<Copy>(copy<bf16>);
    default:
      table.set<Fill>(fill<float>);
      return table.set<Copy>(copy<float>);
  }
}

void unary_forward(Device& device, const UnaryForward& a) {
  in_dtype_of(a.x, [&]<class T>(T*) {
    for_each_place<2>(device, a.kOp, a.x.shape(), {&a.x, &a.y},
                      UnaryValue<T>{a.function, data_of<T>(a.x), data_of<T>(a.y)});
  });
}

void unary_backward(Device& device, const UnaryBackward& a) {
  in_dtype_of(a.x, [&]<class T>(T*) {
    for_each_place<3>(
        device, a.kOp, a.x.shape(), {&a.x, &a.dy, &a.dx},
        UnaryGradient<T>{a.function, data_of<T>(a.x), data_of<T>(a.dy), data_of<T>(a.dx)});
  });
}

template <class T>
void binary(Device& device, const Binary& a) {
  const BinaryValue<T> value = {a.function, data_of<T>(a.a), data_of<T>(a.b), data_of<T>(a.out)};
  const bool is_flat = a.out.numel() % 2 == 0 && is_flat_of<T>(a.a, a.out) &&
                       is_flat_of<T>(a.b, a.out) && is_flat_of<T>(a.out, a.out);
  if (!is_flat) {
    return for_each_place<3>(device, a.kOp, a.out.shape(), {&a.a, &a.b, &a.out}, value);
  }
  const int64_t pairs = a.out.numel() / 2;
  launch(device, name_of(a.kOp), flat_binary_kernel<T>,
         grid_of(divide_up(pairs, kThreads * kPairsOfThread)), kThreads, 0, value, pairs);
}

template void binary<float>(Device&, const Binary&);
template void binary<bf16>(Device&, const Binary&);

void swiglu_forward(Device& device, const SwigluForward& a) {
  in_dtype_of(a.a, [&]<class T>(T*) {
    for_each_place<3>(device, a.kOp, a.a.shape(), {&a.a, &a.b, &a.y},
                      SwigluValue<T>{data_of<T>(a.a), data_of<T>(a.b), data_of<T>(a.y)});
  });
}

void swiglu_backward(Device& device, const SwigluBackward& a) {
  in_dtype_of(a.a, [&]<class T>(T*) {
    for_each_place<5>(device, a.kOp, a.a.shape(), {&a.a, &a.b, &a.dy, &a.da, &a.db},
                      SwigluGradient<T>{data_of<T>(a.a), data_of<T>(a.b), data_of<T>(a.dy),
                                        data_of<T>(a.da), data_of<T>(a.db)});
  });
}

void sum_to(Device& device, const SumTo& a) {
  Shape summed = a.x.shape();
  for (int axis = 0; axis < summed.rank(); ++axis) {
    if (a.out.dim(axis) != 1) summed.set(axis, 1);
  }
  const Places<2> out(a.out.shape(), {&a.x, &a.out});
  const Places<1> within(summed, {&a.x});
  in_dtype_of(a.x, [&]<class T>(T*) {
    launch(device, name_of(a.kOp), sum_kernel<T>, grid_of(std::min<int64_t>(out.count, 1 << 20)),
           within.count <= 32 ? 32 : kThreads, 0, out, within, data_of<const T>(a.x),
           data_of<T>(a.out));
  });
}

}  // namespace elapse::cuda
