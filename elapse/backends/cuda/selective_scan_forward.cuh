// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/backends/cuda/selective_scan.cuh"

// What the scan's forward kernels are given.
namespace elapse::cuda::scan {

template <class T>
struct Forward {
  Inputs<T> in;
  const float* carries;  // what chunks start from; or null: a chunk is a sequence
  float* pool;
  float* checkpoints;
  Rows<T> out;
  Taps taps;
};

// Of up to 16 states, without taps; selective_scan_wide.cuh says how. False, and nothing done, on a
// GPU whose shared memory does not hold a block.
template <class T>
bool forward_wide(Device& device, const ScanInputs& in, const Forward<T>& a);

}  // namespace elapse::cuda::scan
