// Kernels with one kind of undefined behavior each, and some correct ones. Every function runs a kernel and returns the
// error message of the launch, "" without an error.
#include <cuda_runtime.h>

#include <exception>
#include <string>

#include "cuda/launch.h"
#include "cuda/lookback.cuh"
#include "cuda/warp.cuh"

namespace {

using namespace segkernel;

constexpr int kThreads = 64;

template <class... Parameters, class... Arguments>
const char* run(int64_t blocks, int threads, void (*kernel)(Parameters...), Arguments... arguments) {
  static std::string message;
  message.clear();
  try {
    launch("test", kernel, blocks, threads, nullptr, arguments...);
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}

__global__ void rotate(const float* in, float* out, int by, bool with_barrier) {
  __shared__ float shared[kThreads];
  shared[threadIdx.x] = in[threadIdx.x];
  if (with_barrier) __syncthreads();
  out[blockIdx.x * kThreads + threadIdx.x] = shared[(threadIdx.x + by) % kThreads];
}

__global__ void two_rounds(float* out, bool with_barrier) {
  __shared__ float shared[kThreads];
  for (int round = 0; round < 2; ++round) {
    shared[threadIdx.x] = static_cast<float>(round);
    __syncthreads();
    out[round * kThreads + threadIdx.x] = shared[(threadIdx.x + kWarp) % kThreads];
    if (with_barrier) __syncthreads();
  }
}

__global__ void unwritten(float* out) {
  __shared__ float shared[kThreads];
  if (blockIdx.x == 0) shared[threadIdx.x] = 1;
  __syncthreads();
  out[blockIdx.x * kThreads + threadIdx.x] = shared[threadIdx.x];
}

// Every block adds its index to the value that another block publishes, the previous one or the next one.
__global__ void relay(uint64_t* words, int64_t* out, int to, bool waits) {
  __shared__ int64_t number[kThreads];
  number[threadIdx.x] = blockIdx.x;
  __syncthreads();
  const TileAggregates<int64_t> sums(words);
  const int64_t other = static_cast<int64_t>(blockIdx.x) + to;
  int64_t sum = 0;
  if (other >= 0 && other < gridDim.x) {
    int64_t found[1] = {static_cast<uint32_t>(words[2 * other])};
    if (waits) sums.wait_for(found, other, other + 1, int64_t{0});
    sum = found[0];
  }
  sum += number[(threadIdx.x + 1) % kThreads];
  if (threadIdx.x == 0) sums.publish(blockIdx.x, sum);
  out[blockIdx.x * kThreads + threadIdx.x] = sum;
}

__global__ void leave_before_barrier() {
  if (threadIdx.x == 40) return;
  __syncthreads();
}

__global__ void two_barriers() {
  if (threadIdx.x < 40) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void leave_before_shuffle(float* out) {
  if (threadIdx.x == 40) return;
  out[threadIdx.x] = __shfl_xor_sync(kAllLanes, 1.0f, 1);
}

__global__ void shuffle_in_a_branch(float* out) {
  if (threadIdx.x % 2 == 0) out[threadIdx.x] = __shfl_sync(kAllLanes, 1.0f, 0);
  __syncthreads();
}

__global__ void read_from_outside(float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 20);
}

__global__ void call_from_outside(unsigned* out) { out[threadIdx.x] = __ballot_sync(0xffffu, 1); }

__global__ void two_masks(unsigned* out) {
  out[threadIdx.x] = threadIdx.x == 5 ? __ballot_sync(0xffffu, 1) : __ballot_sync(kAllLanes, 1);
}

__global__ void read_vector(const float* in, float* out) {
  out[threadIdx.x] = reinterpret_cast<const float4*>(in)[threadIdx.x].x;
}

__global__ void read_vector_once(const float* in, float* out) {
  out[threadIdx.x] = __ldcs(reinterpret_cast<const float4*>(in) + threadIdx.x).x;
}

__global__ void overrun_shared(float* out) {
  __shared__ float shared[kThreads];
  shared[threadIdx.x + 1] = 1;
  __syncthreads();
  out[threadIdx.x] = shared[threadIdx.x];
}

__global__ void narrow_offset(int row, int width, int64_t* out) { *out = row * width; }

__global__ void copy(const float* in, float* out, int n) {
  if (static_cast<int>(threadIdx.x) < n) out[threadIdx.x] = in[threadIdx.x];
}

// x -> a x + b modulo 2^32. The composition is not commutative.
struct Affine {
  uint32_t a, b;
};

__device__ Affine then(const Affine& first, const Affine& second) {
  return {first.a * second.a, first.b * second.a + second.b};
}

__global__ void scan(const Affine* in, Affine* before, Affine* all) {
  const auto scanned = block_scan<128>(in[threadIdx.x], Affine{1, 0}, then);
  before[threadIdx.x] = scanned.prefix;
  all[threadIdx.x] = scanned.total;
}

__global__ void sum(const int64_t* in, int64_t* out) {
  out[threadIdx.x] = block_reduce<128>(in[threadIdx.x], int64_t{0}, [](int64_t a, int64_t b) { return a + b; });
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default"))) const char*

EXPORT run_rotate(int64_t blocks, int threads, const float* in, float* out, int by, bool with_barrier) {
  return run(blocks, threads, rotate, in, out, by, with_barrier);
}
EXPORT run_two_rounds(float* out, bool with_barrier) { return run(1, kThreads, two_rounds, out, with_barrier); }
EXPORT run_unwritten(float* out) { return run(2, kThreads, unwritten, out); }
EXPORT run_relay(int64_t blocks, uint64_t* words, int64_t* out, int to, bool waits) {
  return run(blocks, kThreads, relay, words, out, to, waits);
}
EXPORT run_leave_before_barrier() { return run(1, kThreads, leave_before_barrier); }
EXPORT run_two_barriers() { return run(1, kThreads, two_barriers); }
EXPORT run_leave_before_shuffle(float* out) { return run(1, kThreads, leave_before_shuffle, out); }
EXPORT run_shuffle_in_a_branch(float* out) { return run(1, kThreads, shuffle_in_a_branch, out); }
EXPORT run_read_from_outside(float* out) { return run(1, kWarp, read_from_outside, out); }
EXPORT run_call_from_outside(unsigned* out) { return run(1, kWarp, call_from_outside, out); }
EXPORT run_two_masks(unsigned* out) { return run(1, kWarp, two_masks, out); }
EXPORT run_half_a_warp(unsigned* out) { return run(1, 16, two_masks, out); }
EXPORT run_read_vector(const float* in, float* out) { return run(1, 8, read_vector, in, out); }
EXPORT run_read_vector_once(const float* in, float* out) { return run(1, 8, read_vector_once, in, out); }
EXPORT run_overrun_shared(float* out) { return run(1, kThreads, overrun_shared, out); }
EXPORT run_narrow_offset(int row, int width, int64_t* out) { return run(1, 1, narrow_offset, row, width, out); }
EXPORT run_copy(const float* in, float* out, int n) { return run(1, kThreads, copy, in, out, n); }
EXPORT run_scan(const Affine* in, Affine* before, Affine* all) { return run(1, 128, scan, in, before, all); }
EXPORT run_sum(const int64_t* in, int64_t* out) { return run(1, 128, sum, in, out); }
