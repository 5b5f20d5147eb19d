// Reductions and scans over the lanes of a warp and the threads of a block, for any trivially copyable type and any
// associative operation. They associate in one fixed way: the same values give the same bits.
//
// Everything here is called by all lanes of the warp, or all threads of a one-dimensional block.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace segkernel {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x % kWarp); }
__device__ inline int warp_index() { return static_cast<int>(threadIdx.x / kWarp); }

// A value moved between lanes by `move`, 32 bits at a time.
template <class T, class Move>
__device__ inline T moved(T value, const Move& move) {
  static_assert(std::is_trivially_copyable_v<T>);
  constexpr int kWords = (sizeof(T) + 3) / 4;
  uint32_t words[kWords] = {};
  memcpy(words, &value, sizeof(T));
#pragma unroll
  for (int word = 0; word < kWords; ++word) words[word] = move(words[word]);
  T result;
  memcpy(&result, words, sizeof(T));
  return result;
}

template <class T>
__device__ inline T from_lane(T value, int lane) {
  return moved(value, [=](uint32_t word) { return __shfl_sync(kAllLanes, word, lane); });
}
// From `delta` lanes before; the first `delta` lanes get their own.
template <class T>
__device__ inline T from_lane_before(T value, int delta) {
  return moved(value, [=](uint32_t word) { return __shfl_up_sync(kAllLanes, word, delta); });
}
template <class T>
__device__ inline T from_lane_xor(T value, int mask) {
  return moved(value, [=](uint32_t word) { return __shfl_xor_sync(kAllLanes, word, mask); });
}

// All lanes get the result. `op` is commutative, too.
template <class T, class Op>
__device__ inline T warp_reduce(T value, const Op& op) {
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value = op(value, from_lane_xor(value, mask));
  return value;
}

// The lanes before this one, or before `lane`; and those up to this one.
__device__ inline unsigned lanes_before(int lane) { return (1u << lane) - 1; }
__device__ inline unsigned lanes_before() { return lanes_before(lane_index()); }
__device__ inline unsigned lanes_through() { return 2u * lanes_before() + 1; }
// -1 of none.
__device__ inline int last_lane(unsigned lanes) { return kWarp - 1 - __clz(static_cast<int>(lanes)); }

// Lane i gets op(value of lane 0, ..., value of lane i); `op(earlier, later)` need not commute. Of the first `kLanes`
// lanes alone, when the others' results do not matter.
template <int kLanes = kWarp, class T, class Op>
__device__ inline T warp_inclusive_scan(T value, const Op& op) {
#pragma unroll
  for (int delta = 1; delta < kLanes; delta *= 2) {
    const T before = from_lane_before(value, delta);
    if (lane_index() >= delta) value = op(before, value);
  }
  return value;
}

template <int kThreads>
constexpr int kWarpsOf = kThreads / kWarp;

// All threads get the result. `op` is commutative, too.
template <int kThreads, class T, class Op>
__device__ inline T block_reduce(T value, T identity, const Op& op) {
  static_assert(kThreads % kWarp == 0 && kWarpsOf<kThreads> <= kWarp);
  __shared__ T of_warp[kWarpsOf<kThreads>];
  value = warp_reduce(value, op);
  __syncthreads();  // whoever called before may still be reading
  if (lane_index() == 0) of_warp[warp_index()] = value;
  __syncthreads();
  return warp_reduce(lane_index() < kWarpsOf<kThreads> ? of_warp[lane_index()] : identity, op);
}

template <class T>
struct Scanned {
  T before;  // op over the values of all earlier threads; the identity for the first
  T all;     // op over the values of all threads
};

__device__ inline int warps_of_block() { return static_cast<int>(blockDim.x / kWarp); }

// Of the warps' values, in shared memory; the block may have fewer threads than `kThreads`.
template <int kThreads, class T, class Op>
__device__ inline Scanned<T> scan_warps(const T* of_warp, T identity, const Op& op) {
  static_assert(kThreads % kWarp == 0 && kWarpsOf<kThreads> <= kWarp);
  constexpr int kWarps = kWarpsOf<kThreads>;
  const T totals = warp_inclusive_scan<kWarps>(lane_index() < warps_of_block() ? of_warp[lane_index()] : identity, op);
  const T before = from_lane(totals, warp_index() == 0 ? 0 : warp_index() - 1);
  return {warp_index() == 0 ? identity : before, from_lane(totals, kWarps - 1)};
}

// `op(earlier, later)` need not commute.
template <int kThreads, class T, class Op>
__device__ inline Scanned<T> block_scan(T value, T identity, const Op& op) {
  __shared__ T of_warp[kWarpsOf<kThreads>];
  const T inclusive = warp_inclusive_scan(value, op);
  const T of_lane_before = from_lane_before(inclusive, 1);
  __syncthreads();  // whoever called before may still be reading
  if (lane_index() == kWarp - 1) of_warp[warp_index()] = inclusive;
  __syncthreads();
  const Scanned<T> warps = scan_warps<kThreads>(of_warp, identity, op);
  T before = lane_index() == 0 ? identity : of_lane_before;
  if (warp_index() > 0) before = lane_index() == 0 ? warps.before : op(warps.before, before);
  return {before, warps.all};
}

}  // namespace segkernel
