// Reductions and exclusive scans over the lanes of a warp and the threads of a block, for any trivially copyable type
// and any associative operation. The order of operations is fixed: the same values give the same bits.
//
// All lanes of the warp, or all threads of a one-dimensional block, call these functions.
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

// Applies `move`, a 32-bit shuffle, to a value of any size.
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
// The value of the lane `delta` lower. The lowest `delta` lanes get their own.
template <class T>
__device__ inline T from_lane_before(T value, int delta) {
  return moved(value, [=](uint32_t word) { return __shfl_up_sync(kAllLanes, word, delta); });
}
template <class T>
__device__ inline T from_lane_xor(T value, int mask) {
  return moved(value, [=](uint32_t word) { return __shfl_xor_sync(kAllLanes, word, mask); });
}

// The reduction, in all lanes. `op` must be commutative.
template <class T, class Op>
__device__ inline T warp_reduce(T value, const Op& op) {
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value = op(value, from_lane_xor(value, mask));
  return value;
}

// Lane masks: the lanes below `lane`, below this lane, and up to and including this lane.
__device__ inline unsigned lanes_before(int lane) { return (1u << lane) - 1; }
__device__ inline unsigned lanes_before() { return lanes_before(lane_index()); }
__device__ inline unsigned lanes_through() { return 2u * lanes_before() + 1; }
// The highest lane of a mask, -1 if it is empty.
__device__ inline int last_lane(unsigned lanes) { return kWarp - 1 - __clz(static_cast<int>(lanes)); }

// Inclusive scan: lane i gets op(value of lane 0, ..., value of lane i). `op(earlier, later)` need not be commutative.
// Only the results of the first `kLanes` lanes are defined.
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

// The reduction, in all threads. `op` must be commutative.
template <int kThreads, class T, class Op>
__device__ inline T block_reduce(T value, T identity, const Op& op) {
  static_assert(kThreads % kWarp == 0 && kWarpsOf<kThreads> <= kWarp);
  __shared__ T of_warp[kWarpsOf<kThreads>];
  value = warp_reduce(value, op);
  __syncthreads();  // WAR hazard: threads may still read it for a previous call
  if (lane_index() == 0) of_warp[warp_index()] = value;
  __syncthreads();
  return warp_reduce(lane_index() < kWarpsOf<kThreads> ? of_warp[lane_index()] : identity, op);
}

template <class T>
struct ExclusiveScan {
  T prefix;  // op over the values of all earlier threads; the identity for the first
  T total;   // op over the values of all threads
};

__device__ inline int warps_of_block() { return static_cast<int>(blockDim.x / kWarp); }

// Exclusive scan over one value per warp, in shared memory. The block has at most `kThreads` threads.
template <int kThreads, class T, class Op>
__device__ inline ExclusiveScan<T> scan_warps(const T* of_warp, T identity, const Op& op) {
  static_assert(kThreads % kWarp == 0 && kWarpsOf<kThreads> <= kWarp);
  constexpr int kWarps = kWarpsOf<kThreads>;
  const T inclusive =
      warp_inclusive_scan<kWarps>(lane_index() < warps_of_block() ? of_warp[lane_index()] : identity, op);
  const T before = from_lane(inclusive, warp_index() == 0 ? 0 : warp_index() - 1);
  return {warp_index() == 0 ? identity : before, from_lane(inclusive, kWarps - 1)};
}

// Exclusive scan that counts the threads with `counts`. A block calls it once.
template <int kThreads>
__device__ inline ExclusiveScan<int> block_count(bool counts) {
  static_assert(kThreads % kWarp == 0 && kWarpsOf<kThreads> <= kWarp);
  __shared__ int of_warp[kWarpsOf<kThreads>];
  const unsigned lanes = __ballot_sync(kAllLanes, counts);
  if (lane_index() == 0) of_warp[warp_index()] = __popc(lanes);
  __syncthreads();
  const int of_lane = lane_index() < kWarpsOf<kThreads> ? of_warp[lane_index()] : 0;
  const int earlier = __reduce_add_sync(kAllLanes, lane_index() < warp_index() ? of_lane : 0);
  return {earlier + __popc(lanes & lanes_before()), __reduce_add_sync(kAllLanes, of_lane)};
}

// Exclusive scan over the threads. `op(earlier, later)` need not be commutative.
template <int kThreads, class T, class Op>
__device__ inline ExclusiveScan<T> block_scan(T value, T identity, const Op& op) {
  __shared__ T of_warp[kWarpsOf<kThreads>];
  const T inclusive = warp_inclusive_scan(value, op);
  const T of_lane_before = from_lane_before(inclusive, 1);
  __syncthreads();  // WAR hazard: threads may still read it for a previous call
  if (lane_index() == kWarp - 1) of_warp[warp_index()] = inclusive;
  __syncthreads();
  const ExclusiveScan<T> warps = scan_warps<kThreads>(of_warp, identity, op);
  T prefix = lane_index() == 0 ? identity : of_lane_before;
  if (warp_index() > 0) prefix = lane_index() == 0 ? warps.prefix : op(warps.prefix, prefix);
  return {prefix, warps.total};
}

}  // namespace segkernel
