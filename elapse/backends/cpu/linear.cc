// SPDX-License-Identifier: Apache-2.0
// Matrix products by oneDNN, each on one thread: the tiles are ours, fixed by shapes alone, so that
// results do not depend on the number of threads. A few rows, as in decoding, go to dots.h.
//
// Weights of bf16 are multiplied as they are where the processor does that, and x is rounded to
// bf16 for it, few rows too: results do not depend on how many there are but in the order of sums.
// Elsewhere, and those of f16, they are widened a tile at a time.
#include <dnnl.h>
#include <hwy/targets.h>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/backends/cpu/column_sums.h"
#include "elapse/backends/cpu/dots.h"
#include "elapse/backends/cpu/kernels.h"
#include "elapse/backends/cpu/product.h"

namespace elapse::cpu {
namespace {

struct Tile {
  int64_t row_begin, row_end;
  int64_t begin, end;  // columns

  int64_t rows() const { return row_end - row_begin; }
  int64_t columns() const { return end - begin; }
};

// A matrix cut into tiles by its shape alone. oneDNN lays out a tile's share of both factors anew:
// tiles are as large as they can be with work for several threads.
class Tiles {
 public:
  Tiles(int64_t rows, int64_t columns) : rows_(rows), columns_(columns) {
    constexpr int64_t kLargest = 512, kLeast = 128, kWanted = 8;
    tile_rows_ = part_of(rows, divide_up(rows, kLargest));
    tile_columns_ = part_of(columns, divide_up(columns, kLargest));
    while (count() < kWanted && std::max(tile_rows_, tile_columns_) >= 2 * kLeast) {
      int64_t& larger = tile_rows_ >= tile_columns_ ? tile_rows_ : tile_columns_;
      larger = part_of(larger, 2);
    }
  }

  int64_t count() const { return divide_up(rows_, tile_rows_) * across(); }
  int64_t most_columns() const { return tile_columns_; }

  Tile operator[](int64_t i) const {
    const int64_t r = i / across() * tile_rows_, c = i % across() * tile_columns_;
    return {r, std::min(rows_, r + tile_rows_), c, std::min(columns_, c + tile_columns_)};
  }

 private:
  // One of `parts` equal parts of n, in whole vectors.
  static int64_t part_of(int64_t n, int64_t parts) {
    constexpr int64_t kVector = 16;
    return divide_up(std::max<int64_t>(1, n), std::max<int64_t>(1, parts) * kVector) * kVector;
  }
  int64_t across() const { return divide_up(columns_, tile_columns_); }

  int64_t rows_, columns_;
  int64_t tile_rows_, tile_columns_;
};

// One thread for a product too small to share.
int threads_for(const Device& device, int64_t m, int64_t n, int64_t k) {
  constexpr int64_t kLeastShared = 1 << 18;  // multiplications: some microseconds
  return m * n * k < kLeastShared ? 1 : device.threads();
}

// How many parts the sum over the rows is cut into, so that a small result makes enough work.
int64_t reduction_parts(int64_t rows, int64_t out, int64_t in) {
  constexpr int64_t kWantedTasks = 8, kLeastRows = 256;
  return std::clamp<int64_t>(
      std::min(kWantedTasks / std::max<int64_t>(1, Tiles(out, in).count()), rows / kLeastRows), 1,
      kWantedTasks);
}

// A tile of c = or += a^T b over rows [begin, end) of a and b.
void multiply_rows(const Tensor& a, const Tensor& b, const Tile& tile, int64_t begin, int64_t end,
                   float* c, bool accumulates) {
  const int64_t c_row = b.dim(1);
  const Product product = {.m = tile.rows(),
                           .n = tile.columns(),
                           .k = end - begin,
                           .a = {1, a.stride(0)},
                           .b = {b.stride(0), 1},
                           .c_row = c_row,
                           .accumulates = accumulates};
  multiply(product, row(a, begin) + tile.row_begin, row(b, begin) + tile.begin,
           c + tile.row_begin * c_row + tile.begin);
}

// c (m, n) += a^T b, where a is (rows, m) and b (rows, n). Where the sum over the rows is cut, its
// parts are added in order.
void add_transposed_product(Device& device, const Tensor& a, const Tensor& b, float* c) {
  const int64_t rows = a.dim(0), m = a.dim(1), n = b.dim(1);
  const Tiles tiles(m, n);
  const int64_t parts = reduction_parts(rows, m, n);
  const int threads = threads_for(device, m, n, rows);
  if (parts == 1) {
    return parallel_for(tiles.count(), threads,
                        [&](int64_t i) { multiply_rows(a, b, tiles[i], 0, rows, c, true); });
  }
  const Tensor partial = device.empty(DType::f32, {parts, m * n});
  parallel_for(tiles.count() * parts, threads, [&](int64_t i) {
    const int64_t part = i / tiles.count();
    multiply_rows(a, b, tiles[i % tiles.count()], rows * part / parts, rows * (part + 1) / parts,
                  row(partial, part), false);
  });
  add_column_sums(device, partial, c);
}

// The matrix with its rows one after the other: oneDNN's last bits depend on the distance between
// rows, and a value must give the same result wherever it stands.
Tensor packed(Device& device, const Tensor& matrix) {
  if (matrix.is_contiguous()) return matrix;
  const Tensor out = device.empty(DType::f32, matrix.shape());
  for (int64_t r = 0; r < matrix.dim(0); ++r) {
    std::copy_n(row(matrix, r), matrix.dim(1), row(out, r));
  }
  return out;
}

// x, its rows one after the other, in bf16.
Tensor rounded_to_bf16(Device& device, const Tensor& x) {
  const Tensor out = device.empty(DType::bf16, x.shape());
  const int64_t width = x.dim(1);
  for_each_block(device, x.dim(0), rows_per_block(width), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      round_to_bf16(row(x, r), width, static_cast<uint16_t*>(out.raw()) + r * width);
    }
  });
  return out;
}

const std::byte* row_bytes(const Tensor& matrix, int64_t r) {
  return static_cast<const std::byte*>(matrix.raw()) +
         r * matrix.stride(0) * size_of(matrix.dtype());
}

}  // namespace

void linear_forward(Device& device, const LinearForward& args) {
  const int64_t rows = args.x.dim(0), in = args.x.dim(1), out = args.weight.dim(0);
  const float* bias = args.bias ? args.bias.data<float>() : nullptr;
  const bool bf16 = args.weight.dtype() == DType::bf16 && multiplies_bf16();
  const Tensor x = bf16 ? rounded_to_bf16(device, args.x) : packed(device, args.x);
  if (rows <= kFewRows) {
    return dots_of_few_rows(device, {.few = x,
                                     .many = args.weight,
                                     .bias = bias,
                                     .out = args.y.data<float>(),
                                     .out_few = args.y.stride(0),
                                     .out_many = 1});
  }
  const bool widens = !bf16 && args.weight.dtype() != DType::f32;
  const Tiles tiles(rows, out);
  const int threads = threads_for(device, rows, out, in);
  const Tensor scratch =
      device.empty(DType::f32, {widens ? threads * tiles.most_columns() : 0, in});
  parallel_for(tiles.count(), threads, [&](int64_t i, int worker) {
    const Tile tile = tiles[i];
    Tensor weight = args.weight.rows(tile.begin, tile.end);
    if (widens) {
      const int64_t first = worker * tiles.most_columns();
      const Tensor wide = scratch.rows(first, first + tile.columns());
      widen_rows(weight, wide);
      weight = wide;
    }
    for (int64_t r = tile.row_begin; bias != nullptr && r < tile.row_end; ++r) {
      std::copy(bias + tile.begin, bias + tile.end, row(args.y, r) + tile.begin);
    }
    const Product product = {.m = tile.rows(),
                             .n = tile.columns(),
                             .k = in,
                             .a = {in, 1},
                             .b = {1, in},
                             .c_row = args.y.stride(0),
                             .accumulates = bias != nullptr,
                             .bf16 = bf16};
    multiply(product, row_bytes(x, tile.row_begin), row_bytes(weight, 0),
             row(args.y, tile.row_begin) + tile.begin);
  });
}

void linear_backward_input(Device& device, const LinearBackwardInput& args) {
  const Tensor weight = widened(device, args.weight);
  const int64_t rows = args.dy.dim(0), in = args.weight.dim(1), out = args.weight.dim(0);
  if (in <= kFewRows) {
    const Tensor columns = transposed(device, weight);
    const Tensor dx = args.adds ? device.empty(DType::f32, {rows, in}) : args.dx;
    dots_of_few_rows(device, {.few = columns,
                              .many = args.dy,
                              .bias = nullptr,
                              .out = dx.data<float>(),
                              .out_few = 1,
                              .out_many = dx.stride(0)});
    if (args.adds) cpu::binary(device, {BinaryFunction::add, args.dx, dx, args.dx});
    return;
  }
  const Tiles tiles(rows, in);
  parallel_for(tiles.count(), threads_for(device, rows, in, out), [&](int64_t i) {
    const Tile tile = tiles[i];
    const Product product = {.m = tile.rows(),
                             .n = tile.columns(),
                             .k = out,
                             .a = {args.dy.stride(0), 1},
                             .b = {in, 1},
                             .c_row = args.dx.stride(0),
                             .accumulates = args.adds};
    multiply(product, row(args.dy, tile.row_begin), weight.data<float>() + tile.begin,
             row(args.dx, tile.row_begin) + tile.begin);
  });
}

void linear_backward_weight(Device& device, const LinearBackwardWeight& args) {
  constexpr int64_t kNarrow = 16;  // a result with fewer columns leaves vectors half empty
  const int64_t in = args.x.dim(1), out = args.dy.dim(1);
  float* dweight = args.dweight.data<float>();
  if (args.dbias) add_column_sums(device, args.dy, args.dbias.data<float>());
  if (in >= kNarrow) return add_transposed_product(device, args.dy, args.x, dweight);
  const Tensor columns = device.zeros(DType::f32, {in, out});
  add_transposed_product(device, args.x, args.dy, columns.data<float>());
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t i = 0; i < in; ++i) dweight[o * in + i] += row(columns, i)[o];
  }
}

std::string describe() {
  const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  const dnnl_version_t* v = dnnl_version();
  return fmt::format("{}, oneDNN {}.{}.{}", hwy::TargetName(targets & -targets), v->major, v->minor,
                     v->patch);
}

}  // namespace elapse::cpu
