// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/backends/cuda/chunks.cuh"
#include "elapse/ops/device.h"

// Mamba-2's recurrence (ops/ssd.h) by chunks of up to 64 tokens (Dao and Gu, 2024, section 6), as
// products of tiles. With a_i the sum of dt A over a chunk's tokens up to i, e the chunk's last,
// h the states before it, H those after it:
//   L_ij = exp(a_i - a_j) for j <= i, else 0
//   H    = exp(a_e) h + sum_j exp(a_e - a_j) dt_j x_j B_j^T
//   y_i  = sum_j (C_i . B_j) L_ij dt_j x_j + exp(a_i) h C_i
namespace elapse::cuda {

template <class T>
struct SsdChunks {
  ChunkSizes sizes;
  Rows<const T> x, B, C;
  const float* dt;  // (tokens, n_heads)
  const float* A;   // (n_heads)
  const float* D;   // (n_heads) or (d_inner)
  bool D_by_channel;
  int64_t heads_of_group;

  __host__ __device__ int64_t groups() const { return sizes.n_heads / heads_of_group; }
};

// Whether this device has the shared memory for it.
template <class T>
bool can_run_chunks();

// C_i . B_j of each chunk's tokens: (rows, groups, kTile, kTile).
template <class T>
Tensor ssd_scores(Device& device, const SsdChunks<T>& in);

template <class T>
struct SsdChunksForward {
  SsdChunks<T> in;
  const float* start;  // the pool, (slots, d_inner, d_state), or null
  float* end;          // likewise
  float* states;       // (rows, d_inner, d_state), assigned: before each chunk
  Rows<T> out;
};

template <class T>
struct SsdChunksBackward {
  SsdChunks<T> in;
  Rows<const T> dout;
  const float* states;  // as forward left them
  const float* dend;    // (n_seqs, d_inner, d_state), or null
  float* dstart;        // likewise, or null
  Rows<T> dx, dB, dC;
  // Sums over a tile of a head's channels, (blocks, tokens): what reaches dt as a factor of x, and
  // dt A.
  float* ddt;
  float* dexponent;
  // (rows, d_inner) where D is a channel's; else (rows tiles, n_heads). Zeros before.
  float* dD;
};

template <class T>
void ssd_chunks_forward(Device& device, const SsdChunksForward<T>& args);
template <class T>
void ssd_chunks_backward(Device& device, const SsdChunksBackward<T>& args);

// What both directions' kernels share.
namespace ssd_chunks {

// Of one head; rows beyond the chunk have dt 0.
struct Decays {
  double exponent[kTile];  // a: differences stay exact where sums are large
  float dt[kTile];
  float since_start[kTile];  // exp(a_i)
  float until_end[kTile];    // exp(a_e - a_i)

  __device__ float total() const { return since_start[kTile - 1]; }
  __device__ float between(int i, int j) const {
    return expf(static_cast<float>(exponent[i] - exponent[j]));
  }

  // By all threads; ends with a barrier.
  template <class T>
  __device__ void make(const SsdChunks<T>& in, const Chunk& chunk, int64_t head) {
    const int lane = static_cast<int>(threadIdx.x);
    if (lane < 32) {
      const double A = in.A[head];
      double own[2];
      for (int i = 0; i < 2; ++i) {
        const int at = 2 * lane + i;
        dt[at] = at < chunk.len ? in.dt[(chunk.token + at) * in.sizes.n_heads + head] : 0.0f;
        own[i] = A * dt[at];
      }
      double sum = own[0] + own[1];
      for (int step = 1; step < 32; step *= 2) {
        const double before = __shfl_up_sync(~0u, sum, step);
        if (lane >= step) sum += before;
      }
      double before = __shfl_up_sync(~0u, sum, 1);
      if (lane == 0) before = 0;
      exponent[2 * lane] = before + own[0];
      exponent[2 * lane + 1] = before + own[0] + own[1];
    }
    __syncthreads();
    if (lane < kTile) {
      since_start[lane] = expf(static_cast<float>(exponent[lane]));
      until_end[lane] = between(kTile - 1, lane);
    }
    __syncthreads();
  }
};

// The states before each chunk from what `values` and `keys` of each add to them; or, back, the
// gradients of those after it.
template <class T>
struct Contributions {
  SsdChunks<T> in;
  Rows<const T> values, keys;  // x and B; dout and C
  float* states;               // (rows, d_inner, d_state), assigned
  float* decays;               // (rows, n_heads): memory
};
template <class T>
void add_up_chunks(Device& device, const Contributions<T>& args, const float* start, float* end,
                   bool back);

}  // namespace ssd_chunks
}  // namespace elapse::cuda
