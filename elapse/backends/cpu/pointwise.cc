// SPDX-License-Identifier: Apache-2.0
#include "elapse/backends/cpu/kernels.h"
#include "elapse/backends/cpu/strided_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/pointwise.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/lanes-inl.h"
#include "elapse/backends/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

constexpr int64_t kAhead = 1024;  // floats: two inputs and an output are too much for the hardware

// Loads where elements follow one another; repeats the one where step is 0.
template <class Lanes>
HWY_INLINE V LoadStep(Lanes lanes, const float* row, int64_t step, int64_t i) {
  return step == 1 ? lanes.load(row + i) : hn::Set(D(), *row);
}

// y = f(x)
template <class Function>
void MapOne(const StridedRows<2>& walk, RowBlock block, const Tensor& x, const Tensor& y,
            Function f) {
  for (int64_t r = block.row_begin; r < block.row_end; ++r) {
    const auto at = walk.offsets(r);
    const float* x_row = x.data<float>() + at[0] + block.begin * walk.step(0);
    float* y_row = y.data<float>() + at[1] + block.begin;
    const bool streamed = StreamsTo(D(), y, y_row);
    ForLanes(D(), block.end - block.begin, streamed, [&](int64_t i, auto lanes) HWY_ATTR {
      lanes.put(f(LoadStep(lanes, x_row, walk.step(0), i)), y_row + i);
    });
  }
  hwy::FlushStream();
}

// out = f(a, b)
template <class Function>
void MapTwo(const StridedRows<3>& walk, RowBlock block, const Tensor& a, const Tensor& b,
            const Tensor& out, Function f) {
  for (int64_t r = block.row_begin; r < block.row_end; ++r) {
    const auto at = walk.offsets(r);
    const float* a_row = a.data<float>() + at[0] + block.begin * walk.step(0);
    const float* b_row = b.data<float>() + at[1] + block.begin * walk.step(1);
    float* out_row = out.data<float>() + at[2] + block.begin;
    const bool streamed = StreamsTo(D(), out, out_row);
    ForLanes(D(), block.end - block.begin, streamed, [&](int64_t i, auto lanes) HWY_ATTR {
      PrefetchToL2(a_row + i + kAhead * walk.step(0));
      PrefetchToL2(b_row + i + kAhead * walk.step(1));
      const V va = LoadStep(lanes, a_row, walk.step(0), i);
      const V vb = LoadStep(lanes, b_row, walk.step(1), i);
      lanes.put(f(va, vb), out_row + i);
    });
  }
  hwy::FlushStream();
}

void FillBlock(const Fill& args, const StridedRows<1>& walk, RowBlock block) {
  const V value = hn::Set(D(), static_cast<float>(args.value));
  for (int64_t r = block.row_begin; r < block.row_end; ++r) {
    float* out = args.out.data<float>() + walk.offsets(r)[0] + block.begin;
    ForLanes(D(), block.end - block.begin,
             [&](int64_t i, auto lanes) HWY_ATTR { lanes.store(value, out + i); });
  }
}

void CopyBlock(const Copy& args, const StridedRows<2>& walk, RowBlock block) {
  MapOne(walk, block, args.x, args.out, [](V x) HWY_ATTR { return x; });
}

// sin(x - n pi), or its negative where `negative` is odd, to 1.4e-7 of 1 for |x| up to 1e5, with pi
// in four parts of which the first have few bits; n is the nearest integer or half to x / pi.
HWY_INLINE V SineOfRest(V x, V n, hn::Vec<hn::RebindToUnsigned<D>> negative) {
  constexpr float kPi[] = {3.140625f, 0.00096702575683593750f, 6.2771141529083252e-7f,
                           1.2154189e-10f};
  constexpr float kCoefficients[] = {-0.166666567f, 0.00833301712f, -0.000198066147f,
                                     2.60005481e-06f};
  const D d;
  V r = x;
  for (const float part : kPi) r = hn::NegMulAdd(n, hn::Set(d, part), r);
  const V square = hn::Mul(r, r);
  const V sine = hn::MulAdd(hn::Mul(square, Polynomial(d, square, kCoefficients)), r, r);
  return hn::Xor(sine, hn::BitCast(d, hn::ShiftLeft<31>(negative)));
}

inline constexpr float kInversePi = 0.318309886f;

HWY_INLINE V Sine(V x) {
  const D d;
  const V magic = hn::Set(d, kRoundingMagic);
  const V shifted = hn::MulAdd(x, hn::Set(d, kInversePi), magic);
  return SineOfRest(x, hn::Sub(shifted, magic), hn::BitCast(hn::RebindToUnsigned<D>(), shifted));
}

// With m nearest to x / pi - 1/2: -sin(x - (m + 1/2) pi), or its negative where m is odd.
HWY_INLINE V Cosine(V x) {
  const D d;
  const hn::RebindToUnsigned<D> du;
  const V magic = hn::Set(d, kRoundingMagic), half = hn::Set(d, 0.5f);
  const V shifted = hn::Add(hn::MulAdd(x, hn::Set(d, kInversePi), hn::Neg(half)), magic);
  return SineOfRest(x, hn::Add(hn::Sub(shifted, magic), half),
                    hn::Add(hn::BitCast(du, shifted), hn::Set(du, 1)));
}

void UnaryForwardBlock(const UnaryForward& args, const StridedRows<2>& walk, RowBlock block) {
  const auto map = [&](auto f) HWY_ATTR { MapOne(walk, block, args.x, args.y, f); };
  switch (args.function) {
    case Unary::exp:
      return map([](V x) HWY_ATTR { return Exp(D(), x); });
    case Unary::neg_exp:
      return map([](V x) HWY_ATTR { return hn::Neg(Exp(D(), x)); });
    case Unary::relu:
      return map([](V x) HWY_ATTR { return hn::IfThenZeroElse(hn::Lt(x, hn::Zero(D())), x); });
    case Unary::silu:
      return map([](V x) HWY_ATTR { return Silu(D(), x); });
    case Unary::softplus:
      return map([](V x) HWY_ATTR { return Softplus(D(), x); });
    case Unary::gelu:
      return map([](V x) HWY_ATTR { return Gelu(D(), x); });
    case Unary::sigmoid:
      return map([](V x) HWY_ATTR { return Sigmoid(D(), x); });
    case Unary::gelu_tanh:
      return map([](V x) HWY_ATTR { return GeluTanh(D(), x); });
    case Unary::tanh:
      return map([](V x) HWY_ATTR { return Tanh(D(), x); });
    case Unary::log_sigmoid:
      return map([](V x) HWY_ATTR { return hn::Neg(Softplus(D(), hn::Neg(x))); });
    case Unary::elu_plus_one:
      return map([](V x) HWY_ATTR {
        const V above = hn::Add(x, hn::Set(D(), 1.0f));
        return hn::IfThenElse(hn::Gt(x, hn::Zero(D())), above, Exp(D(), x));
      });
    case Unary::reciprocal:
      return map([](V x) HWY_ATTR { return hn::Div(hn::Set(D(), 1.0f), x); });
    case Unary::sine:
      return map([](V x) HWY_ATTR { return Sine(x); });
  }
}

void UnaryBackwardBlock(const UnaryBackward& args, const StridedRows<3>& walk, RowBlock block) {
  const auto map = [&](auto slope) HWY_ATTR {
    MapTwo(walk, block, args.x, args.dy, args.dx,
           [&](V x, V dy) HWY_ATTR { return hn::Mul(dy, slope(x)); });
  };
  switch (args.function) {
    case Unary::exp:
      return map([](V x) HWY_ATTR { return Exp(D(), x); });
    case Unary::neg_exp:
      return map([](V x) HWY_ATTR { return hn::Neg(Exp(D(), x)); });
    case Unary::relu:
      return map([](V x) HWY_ATTR {
        return hn::IfThenZeroElse(hn::Le(x, hn::Zero(D())), hn::Set(D(), 1.0f));
      });
    case Unary::silu:
      return map([](V x) HWY_ATTR { return SiluDerivative(D(), x, Sigmoid(D(), x)); });
    case Unary::softplus:
      return map([](V x) HWY_ATTR { return SoftplusDerivative(D(), x); });
    case Unary::gelu:
      return map([](V x) HWY_ATTR { return GeluDerivative(D(), x); });
    case Unary::sigmoid:
      return map([](V x) HWY_ATTR { return hn::Mul(Sigmoid(D(), x), Sigmoid(D(), hn::Neg(x))); });
    case Unary::gelu_tanh:
      return map([](V x) HWY_ATTR { return GeluTanhDerivative(D(), x); });
    case Unary::tanh:
      return map([](V x) HWY_ATTR {
        const V one = hn::Set(D(), 1.0f), y = Tanh(D(), x);
        return hn::Mul(hn::Sub(one, y), hn::Add(one, y));
      });
    case Unary::log_sigmoid:
      return map([](V x) HWY_ATTR { return SoftplusDerivative(D(), hn::Neg(x)); });
    case Unary::elu_plus_one:
      return map([](V x) HWY_ATTR {
        return hn::IfThenElse(hn::Gt(x, hn::Zero(D())), hn::Set(D(), 1.0f), Exp(D(), x));
      });
    case Unary::reciprocal:
      return map([](V x) HWY_ATTR { return hn::Div(hn::Set(D(), -1.0f), hn::Mul(x, x)); });
    case Unary::sine:
      return map([](V x) HWY_ATTR { return Cosine(x); });
  }
}

// Of each row of x: its sum, or itself, is added to the row of out, which holds the sums so far.
void AddRows(const SumTo& args, const StridedRows<2>& walk, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const auto at = walk.offsets(r);
    const float* x = args.x.data<float>() + at[0];
    float* out = args.out.data<float>() + at[1];
    const auto value = [&](int64_t i, auto lanes)
                           HWY_ATTR { return lanes.keep(LoadStep(lanes, x, walk.step(0), i)); };
    if (walk.step(1) == 0) {
      *out += SumLanes(WholeLanes<D>{D()}, walk.width(),
                       [&](int64_t i, auto lanes, V sum)
                           HWY_ATTR { return hn::Add(sum, value(i, lanes)); });
      continue;
    }
    ForLanes(D(), walk.width(), [&](int64_t i, auto lanes) HWY_ATTR {
      lanes.store(hn::Add(lanes.load(out + i), value(i, lanes)), out + i);
    });
  }
}

void BinaryBlock(const Binary& args, const StridedRows<3>& walk, RowBlock block) {
  const auto map = [&](auto f) HWY_ATTR { MapTwo(walk, block, args.a, args.b, args.out, f); };
  switch (args.function) {
    case BinaryFunction::add:
      return map([](V a, V b) HWY_ATTR { return hn::Add(a, b); });
    case BinaryFunction::mul:
      return map([](V a, V b) HWY_ATTR { return hn::Mul(a, b); });
  }
}

void SwigluForwardBlock(const SwigluForward& args, const StridedRows<3>& walk, RowBlock block) {
  MapTwo(walk, block, args.a, args.b, args.y,
         [](V a, V b) HWY_ATTR { return hn::Mul(Silu(D(), a), b); });
}

void SwigluBackwardBlock(const SwigluBackward& args, const StridedRows<5>& walk, RowBlock block) {
  const D d;
  for (int64_t r = block.row_begin; r < block.row_end; ++r) {
    const auto at = walk.offsets(r);
    const float* a = args.a.data<float>() + at[0] + block.begin;
    const float* b = args.b.data<float>() + at[1] + block.begin;
    const float* dy = args.dy.data<float>() + at[2] + block.begin;
    float* da = args.da.data<float>() + at[3] + block.begin;
    float* db = args.db.data<float>() + at[4] + block.begin;
    const bool streamed = StreamsTo(d, args.da, da) && StreamsTo(d, args.db, db);
    ForLanes(d, block.end - block.begin, streamed, [&](int64_t i, auto lanes) HWY_ATTR {
      const V x = lanes.load(a + i), g = lanes.load(dy + i), s = Sigmoid(d, x);
      lanes.put(hn::Mul(hn::Mul(g, lanes.load(b + i)), SiluDerivative(d, x, s)), da + i);
      lanes.put(hn::Mul(g, hn::Mul(x, s)), db + i);
    });
  }
  hwy::FlushStream();
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {

HWY_EXPORT(FillBlock);
HWY_EXPORT(CopyBlock);
HWY_EXPORT(UnaryForwardBlock);
HWY_EXPORT(UnaryBackwardBlock);
HWY_EXPORT(BinaryBlock);
HWY_EXPORT(SwigluForwardBlock);
HWY_EXPORT(SwigluBackwardBlock);
HWY_EXPORT(AddRows);

void round_block(const Copy& args, const StridedRows<2>& walk, RowBlock block) {
  for (int64_t r = block.row_begin; r < block.row_end; ++r) {
    const auto at = walk.offsets(r);
    const double* x = args.x.data<double>() + at[0];
    float* out = args.out.data<float>() + at[1];
    for (int64_t i = block.begin; i < block.end; ++i) {
      out[i] = static_cast<float>(x[i * walk.step(0)]);
    }
  }
}

// Runs a kernel over all blocks of the walk.
template <size_t kTensors, class Args>
void run(Device& device, const Args& args, const StridedRows<kTensors>& walk,
         void (*kernel)(const Args&, const StridedRows<kTensors>&, RowBlock)) {
  for_each_row_block(device, walk, [&](RowBlock block) { kernel(args, walk, block); });
}

}  // namespace

void fill(Device& device, const Fill& args) {
  run<1>(device, args, {args.out.shape(), {&args.out}}, HWY_DYNAMIC_DISPATCH(FillBlock));
}

void copy(Device& device, const Copy& args) {
  const bool rounds = args.x.dtype() == DType::f64;
  run<2>(device, args, {args.out.shape(), {&args.x, &args.out}},
         rounds ? round_block : HWY_DYNAMIC_DISPATCH(CopyBlock));
}

void unary_forward(Device& device, const UnaryForward& args) {
  run<2>(device, args, {args.x.shape(), {&args.x, &args.y}},
         HWY_DYNAMIC_DISPATCH(UnaryForwardBlock));
}

void unary_backward(Device& device, const UnaryBackward& args) {
  run<3>(device, args, {args.x.shape(), {&args.x, &args.dy, &args.dx}},
         HWY_DYNAMIC_DISPATCH(UnaryBackwardBlock));
}

void binary(Device& device, const Binary& args) {
  run<3>(device, args, {args.out.shape(), {&args.a, &args.b, &args.out}},
         HWY_DYNAMIC_DISPATCH(BinaryBlock));
}

void swiglu_forward(Device& device, const SwigluForward& args) {
  run<3>(device, args, {args.a.shape(), {&args.a, &args.b, &args.y}},
         HWY_DYNAMIC_DISPATCH(SwigluForwardBlock));
}

void swiglu_backward(Device& device, const SwigluBackward& args) {
  run<5>(device, args, {args.a.shape(), {&args.a, &args.b, &args.dy, &args.da, &args.db}},
         HWY_DYNAMIC_DISPATCH(SwigluBackwardBlock));
}

// Rows that are summed each by itself go to all threads; where rows add to each other, one thread
// takes them in their order.
void sum_to(Device& device, const SumTo& args) {
  cpu::fill(device, {args.out, 0});
  const StridedRows<2> walk(args.x.shape(), {&args.x, &args.out});
  const bool apart = walk.rows() == args.out.numel() && walk.step(1) == 0;
  const int64_t size = apart ? rows_per_block(walk.width()) : walk.rows();
  for_each_block(device, walk.rows(), std::max<int64_t>(1, size), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(AddRows)(args, walk, begin, end);
  });
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE
