// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/backends/cuda/mma.cuh"
#include "elapse/backends/cuda/shared_memory.cuh"

// Products of 64 x 64 tiles in shared memory, on the matrix units, with sums in float32. A number
// goes in as the sum of two short ones, and of the four products of these the three larger are
// added. What stands beside activations in float32 is as exact as float32 then (two of TF32, 22
// bits); what stands beside those in bf16 has two of bf16, 16 bits, and activations are one.
//
// A block is kTileThreads threads, eight warps; a warp has 16 rows and 32 columns of a product.
namespace elapse::cuda {

constexpr int kTile = 64;
constexpr int kTileThreads = 256;
constexpr int kTileElements = kTile * kTile;

// Of float32. Element (row, column) stands where reads of four columns of eight neighbouring rows,
// and of eight columns of four, meet no memory bank twice.
struct FloatTile {
  float* data;

  static constexpr int kBytes = kTileElements * int{sizeof(float)};
  __device__ explicit FloatTile(void* memory) : data(static_cast<float*>(memory)) {}

  __device__ static int place(int row, int column) {
    return row * kTile + (column ^ ((row & 3) << 3 | (row & 4)));
  }
  __device__ float& operator()(int row, int column) const { return data[place(row, column)]; }
  __device__ float get(int row, int column) const { return (*this)(row, column); }
  // Two neighbours, of which the first is even; four, of which it is a multiple of four.
  __device__ float2 get_pair(int row, int column) const { return load_pair(&(*this)(row, column)); }
  __device__ void put_pair(int row, int column, float2 v) const {
    store_pair(&(*this)(row, column), v);
  }
  __device__ float4 get_four(int row, int column) const {
    return *reinterpret_cast<const float4*>(&(*this)(row, column));
  }
  __device__ void put_four(int row, int column, float4 v) const {
    *reinterpret_cast<float4*>(&(*this)(row, column)) = v;
  }
  __device__ void put(int row, int column, float v) const { (*this)(row, column) = v; }
};

// Of bf16. Runs of eight columns of eight neighbouring rows meet no memory bank twice.
struct NarrowTile {
  bf16* data;

  static constexpr int kBytes = kTileElements * int{sizeof(bf16)};
  __device__ explicit NarrowTile(void* memory) : data(static_cast<bf16*>(memory)) {}

  __device__ static int place(int row, int column) {
    return row * kTile + (column ^ (row & 7) << 3);
  }
  __device__ bf16* at(int row, int column) const { return data + place(row, column); }
  __device__ float2 get_pair(int row, int column) const { return load_pair(at(row, column)); }
  __device__ void put_four(int row, int column, float4 v) const {
    store_pair(at(row, column), {v.x, v.y});
    store_pair(at(row, column + 2), {v.z, v.w});
  }
};

// Of numbers as the sums of two of bf16.
struct SplitTile {
  NarrowTile high, low;

  static constexpr int kBytes = 2 * NarrowTile::kBytes;
  __device__ explicit SplitTile(void* memory)
      : high(memory), low(static_cast<bf16*>(memory) + kTileElements) {}

  __device__ float get(int row, int column) const {
    return static_cast<float>(*high.at(row, column)) + static_cast<float>(*low.at(row, column));
  }
  __device__ float2 get_pair(int row, int column) const {
    const float2 a = high.get_pair(row, column), b = low.get_pair(row, column);
    return {a.x + b.x, a.y + b.y};
  }
  __device__ void put_pair(int row, int column, float2 v) const {
    const __nv_bfloat162 of_high = __float22bfloat162_rn(v);
    *reinterpret_cast<__nv_bfloat162*>(high.at(row, column)) = of_high;
    const float2 there = __bfloat1622float2(of_high);
    store_pair(low.at(row, column), {v.x - there.x, v.y - there.y});
  }
  __device__ float4 get_four(int row, int column) const {
    const float2 a = get_pair(row, column), b = get_pair(row, column + 2);
    return {a.x, a.y, b.x, b.y};
  }
  __device__ void put_four(int row, int column, float4 v) const {
    put_pair(row, column, {v.x, v.y});
    put_pair(row, column + 2, {v.z, v.w});
  }
  __device__ void put(int row, int column, float v) const {
    const bf16 of_high = static_cast<bf16>(v);
    *high.at(row, column) = of_high;
    *low.at(row, column) = static_cast<bf16>(v - static_cast<float>(of_high));
  }
};

// What activations of T, and what is computed from them, are in.
template <class T>
using InputTile = std::conditional_t<std::is_same_v<T, bf16>, NarrowTile, FloatTile>;
template <class T>
using ComputedTile = std::conditional_t<std::is_same_v<T, bf16>, SplitTile, FloatTile>;

// This thread's elements of a product.
struct TileSums {
  float of[4][4] = {};

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int warp() { return static_cast<int>(threadIdx.x) / 32; }
  __device__ static int first_row() { return warp() % 4 * 16; }
  __device__ static int first_column() { return warp() / 4 * 32; }

  // Its rows are row(0) and row(1), and of each it has the columns column(i) and the next, i < 4.
  __device__ static int row(int half) { return first_row() + lane() / 4 + 8 * half; }
  __device__ static int column(int i) { return first_column() + i * 8 + lane() % 4 * 2; }

  __device__ void add(const TileSums& other) {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) of[n][i] += other.of[n][i];
    }
  }

  // use(row, column, pair), which may change the pair.
  template <class Use>
  __device__ void each(Use&& use) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float2 v = {of[i][2 * half], of[i][2 * half + 1]};
        use(row(half), column(i), v);
        of[i][2 * half] = v.x;
        of[i][2 * half + 1] = v.y;
      }
    }
  }
  // Adds, to each of two rows' sums, those of this thread's elements times factor(row, column), a
  // pair.
  template <class Factor>
  __device__ void add_rows(float (&sums)[2], Factor&& factor) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 f = factor(row(half), column(i));
        sums[half] = fmaf(of[i][2 * half], f.x, sums[half]);
        sums[half] = fmaf(of[i][2 * half + 1], f.y, sums[half]);
      }
    }
  }
};

// A tile as a factor, whose lines are its rows or its columns: those of the first factor are the
// rows of a product, those of the second its columns.
template <class Tile>
struct InRows {
  Tile tile;
};
template <class Tile>
InRows(Tile) -> InRows<Tile>;
template <class Tile>
struct InColumns {
  Tile tile;
};
template <class Tile>
InColumns(Tile) -> InColumns<Tile>;

namespace tile {

// Number deep + step of line first + 8 i, with deep less than four and step a multiple of it.
__device__ inline float at(const InRows<FloatTile>& f, int first, int i, int deep, int step) {
  return f.tile.data[(FloatTile::place(first, deep) + i * 8 * kTile) ^ step];
}
__device__ inline float at(const InColumns<FloatTile>& f, int first, int i, int deep, int step) {
  return f.tile.data[(step + deep) * kTile + ((first + 8 * i) ^ (deep << 3 | (step & 4)))];
}

// A number as two of TF32.
struct Halves {
  uint32_t high, low;
};
__device__ inline Halves halves(float v) {
  constexpr uint32_t kMask = 0xffffe000;
  const uint32_t high = __float_as_uint(v) & kMask;
  return {high, __float_as_uint(v - __uint_as_float(high)) & kMask};
}

// sums (16, 8) += a (16, 8) b (8, 8), of TF32.
__device__ inline void multiply_floats(float (&sums)[4], const uint32_t (&a)[4],
                                       const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Numbers [step, step + 16) of lines [first, first + 16): matrices of eight lines by eight, of
// which the second has other lines in a first factor, and other numbers in a second.
template <bool kFirst>
__device__ void load_lines(const InRows<NarrowTile>& f, int first, int step, uint32_t (&into)[4]) {
  const int lane = TileSums::lane(), second = lane / 8 % 2 * 8, third = lane / 16 * 8;
  load_matrices<false>(
      f.tile.at(first + lane % 8 + (kFirst ? second : third), step + (kFirst ? third : second)),
      into);
}
template <bool kFirst>
__device__ void load_lines(const InColumns<NarrowTile>& f, int first, int step,
                           uint32_t (&into)[4]) {
  const int lane = TileSums::lane(), second = lane / 8 % 2 * 8, third = lane / 16 * 8;
  load_matrices<true>(
      f.tile.at(step + lane % 8 + (kFirst ? third : second), first + (kFirst ? second : third)),
      into);
}

__device__ inline NarrowTile high_of(NarrowTile t) { return t; }
__device__ inline NarrowTile high_of(SplitTile t) { return t.high; }

template <template <class> class A, class TileA, template <class> class B, class TileB>
__device__ void add_narrow_product(TileSums& sums, int begin, int end, const A<TileA>& a,
                                   const B<TileB>& b) {
  constexpr bool kSplitA = std::is_same_v<TileA, SplitTile>;
  constexpr bool kSplitB = std::is_same_v<TileB, SplitTile>;
  const int row = TileSums::first_row(), column = TileSums::first_column();
#pragma unroll 2
  for (int step = begin; step < end; step += 16) {
    uint32_t a_high[4], a_low[4], b_high[2][4], b_low[2][4];
    load_lines<true>(A<NarrowTile>{high_of(a.tile)}, row, step, a_high);
    if constexpr (kSplitA) load_lines<true>(A<NarrowTile>{a.tile.low}, row, step, a_low);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      load_lines<false>(B<NarrowTile>{high_of(b.tile)}, column + 16 * i, step, b_high[i]);
      if constexpr (kSplitB) {
        load_lines<false>(B<NarrowTile>{b.tile.low}, column + 16 * i, step, b_low[i]);
      }
    }
    const auto multiply = [&](const uint32_t(&of_a)[4], const uint32_t(&of_b)[2][4]) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        multiply_bf16(sums.of[n], of_a, of_b[n / 2][n % 2 * 2], of_b[n / 2][n % 2 * 2 + 1]);
      }
    };
    if constexpr (kSplitA) multiply(a_low, b_high);
    if constexpr (kSplitB) multiply(a_high, b_low);
    multiply(a_high, b_high);
  }
}

template <class A, class B>
__device__ void add_float_product(TileSums& sums, int begin, int end, const A& a, const B& b) {
  const int row = TileSums::first_row() + TileSums::lane() / 4;
  const int column = TileSums::first_column() + TileSums::lane() / 4;
  const int deep = TileSums::lane() % 4;
#pragma unroll 2
  for (int step = begin; step < end; step += 8) {
    uint32_t a_high[4], a_low[4], b_high[4][2], b_low[4][2];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto v = halves(at(a, row, i % 2, deep, step + i / 2 * 4));
      a_high[i] = v.high;
      a_low[i] = v.low;
    }
#pragma unroll
    for (int n = 0; n < 4; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const auto v = halves(at(b, column, n, deep, step + i * 4));
        b_high[n][i] = v.high;
        b_low[n][i] = v.low;
      }
    }
    // Four sums at a time, so that none waits for itself.
#pragma unroll
    for (int n = 0; n < 4; ++n) multiply_floats(sums.of[n], a_low, b_high[n]);
#pragma unroll
    for (int n = 0; n < 4; ++n) multiply_floats(sums.of[n], a_high, b_low[n]);
#pragma unroll
    for (int n = 0; n < 4; ++n) multiply_floats(sums.of[n], a_high, b_high[n]);
  }
}

}  // namespace tile

// sums += A B over the depth [begin, end), of which tiles have zeros where it is no multiple of 16.
template <template <class> class A, class TileA, template <class> class B, class TileB>
__device__ void add_product(TileSums& sums, int begin, int end, const A<TileA>& a,
                            const B<TileB>& b) {
  if constexpr (std::is_same_v<TileA, FloatTile>) tile::add_float_product(sums, begin, end, a, b);
  else tile::add_narrow_product(sums, begin, end, a, b);
}

// Four neighbouring elements.
__device__ inline float4 load_four(const float* at) { return *reinterpret_cast<const float4*>(at); }
__device__ inline float4 load_four(const bf16* at) {
  const float2 a = load_pair(at), b = load_pair(at + 2);
  return {a.x, a.y, b.x, b.y};
}

// The first `columns` elements of `rows` rows, which are `stride` apart, as take(row, column, four
// of them), with zeros beyond them up to 64 x 64. By all threads, each always of the same places.
template <class T, class Take>
__device__ void for_tile(const T* from, int64_t stride, int rows, int columns, Take&& take) {
  const bool in_fours = reinterpret_cast<uintptr_t>(from) % (4 * sizeof(T)) == 0 && stride % 4 == 0;
  const int first = static_cast<int>(threadIdx.x) / 16;
  const int column = static_cast<int>(threadIdx.x) % 16 * 4;
  if (in_fours && rows == kTile && columns == kTile) {
    from += first * stride + column;
    float4 v[kTile / 16];
#pragma unroll
    for (int i = 0; i < kTile / 16; ++i) v[i] = load_four(from + 16 * i * stride);
#pragma unroll
    for (int i = 0; i < kTile / 16; ++i) take(first + 16 * i, column, v[i]);
    return;
  }
  for (int row = first; row < kTile; row += 16) {
    float4 v = {};
    if (row < rows) {
      const T* at = from + row * stride + column;
      if (in_fours && column + 4 <= columns) {
        v = load_four(at);
      } else {
        if (column < columns) v.x = static_cast<float>(at[0]);
        if (column + 1 < columns) v.y = static_cast<float>(at[1]);
        if (column + 2 < columns) v.z = static_cast<float>(at[2]);
        if (column + 3 < columns) v.w = static_cast<float>(at[3]);
      }
    }
    take(row, column, v);
  }
}

template <class Tile, class T>
__device__ void load_tile(Tile tile, const T* from, int64_t stride, int rows, int columns) {
  if constexpr (std::is_same_v<Tile, NarrowTile>) {
    const bool in_runs = reinterpret_cast<uintptr_t>(from) % sizeof(uint4) == 0 && stride % 8 == 0;
    if (in_runs && rows == kTile && columns == kTile) {
      const int row = static_cast<int>(threadIdx.x) / 8;
      const int column = static_cast<int>(threadIdx.x) % 8 * 8;
      from += row * stride + column;
      const uint4 first = *reinterpret_cast<const uint4*>(from);
      const uint4 second = *reinterpret_cast<const uint4*>(from + kTile / 2 * stride);
      *reinterpret_cast<uint4*>(tile.at(row, column)) = first;
      *reinterpret_cast<uint4*>(tile.at(row + kTile / 2, column)) = second;
      return;
    }
  }
  for_tile(from, stride, rows, columns,
           [&](int row, int column, float4 v) { tile.put_four(row, column, v); });
}

// The first `columns` sums of `rows` rows, put or added to rows of `to`, which are `stride` apart.
template <class T>
__device__ void store_sums(TileSums& sums, T* to, int64_t stride, int rows, int columns,
                           bool adds = false) {
  const bool in_pairs = reinterpret_cast<uintptr_t>(to) % (2 * sizeof(T)) == 0 && stride % 2 == 0;
  sums.each([&](int row, int column, float2 v) {
    if (row >= rows || column >= columns) return;
    T* at = to + row * stride + column;
    if (in_pairs && column + 1 < columns) {
      const float2 there = adds ? load_pair(at) : float2{};
      return store_pair(at, {v.x + there.x, v.y + there.y});
    }
    at[0] = static_cast<T>(v.x + (adds ? static_cast<float>(at[0]) : 0.0f));
    if (column + 1 < columns) {
      at[1] = static_cast<T>(v.y + (adds ? static_cast<float>(at[1]) : 0.0f));
    }
  });
}

}  // namespace elapse::cuda
