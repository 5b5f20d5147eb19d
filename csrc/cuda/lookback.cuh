// Tile aggregates for decoupled look-back between the thread blocks of one kernel (Merrill & Garland 2016, "Single-pass
// Parallel Prefix Scan with Decoupled Look-back").
//
// Unlike in the paper, tiles publish aggregates but no inclusive prefixes: a tile combines the aggregates of all
// earlier tiles in an order fixed by their positions, so that floating-point sums are reproducible. CUB's ScanTileState
// is not used because the host emulation compiles the same sources with an ordinary C++ compiler, which cannot compile
// CUB.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "warp.cuh"

namespace segkernel {

// One T per block, in global memory. Each 32-bit part is stored with a ready flag in one 64-bit word. Aligned 64-bit
// accesses are atomic, so a set flag implies valid bits, and no fence is needed.
//
// Assumption: blocks start in the order of blockIdx. A block waits only for blocks with a lower index, which have then
// started and run to their end without waiting for later ones. CUDA does not guarantee this order, but all GPUs exhibit
// it.
template <class T>
class TileAggregates {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % 4 == 0);

 public:
  static constexpr int kWords = sizeof(T) / 4;

  TileAggregates() = default;
  // `words`: kWords per block, initially 0; or null if every row is a single tile.
  explicit TileAggregates(uint64_t* words) : words_(words) {}

  // Called by all threads with the same value.
  __device__ void publish(int64_t block, const T& value) const {
    if (words_ == nullptr || threadIdx.x > 0) return;
    uint32_t bits[kWords];
    memcpy(bits, &value, sizeof(T));
    volatile uint64_t* to = words_ + block * kWords;
#pragma unroll
    for (int word = 0; word < kWords; ++word) to[word] = kReady | bits[word];
  }

  // Waits for the values of `kCount` blocks from `first` on. All loads are issued before the first is tested. Blocks
  // from `end` on are not waited for; their value is `otherwise`.
  template <int kCount>
  __device__ void wait_for(T (&values)[kCount], int64_t first, int64_t end, const T& otherwise) const {
    uint64_t words[kCount][kWords];
#pragma unroll
    for (int i = 0; i < kCount; ++i) load(first + i, end, words[i]);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      while (!is_ready(words[i])) {
        __nanosleep(20);
        load(first + i, end, words[i]);
      }
      values[i] = first + i < end ? value_of(words[i]) : otherwise;
    }
  }

 private:
  static constexpr uint64_t kReady = uint64_t{1} << 32;

  __device__ void load(int64_t block, int64_t end, uint64_t (&words)[kWords]) const {
    const volatile uint64_t* from = words_ + block * kWords;
#pragma unroll
    for (int word = 0; word < kWords; ++word) words[word] = block < end ? from[word] : kReady;
  }

  static __device__ bool is_ready(const uint64_t (&words)[kWords]) {
    bool all = true;
#pragma unroll
    for (int word = 0; word < kWords; ++word) all &= words[word] >= kReady;
    return all;
  }

  static __device__ T value_of(const uint64_t (&words)[kWords]) {
    uint32_t bits[kWords];
#pragma unroll
    for (int word = 0; word < kWords; ++word) bits[word] = static_cast<uint32_t>(words[word]);
    T value;
    memcpy(&value, bits, sizeof(T));
    return value;
  }

  uint64_t* words_;
};

// Look-back: combines the aggregates of the blocks [first, end) in their order, which `op(earlier, later)` need not be
// commutative for. Each of the kThreads threads combines equally many consecutive blocks, and a scan the threads.
template <int kThreads, class T, class Op>
__device__ inline T look_back(const TileAggregates<T>& aggregates, int64_t first, int64_t end, const T& identity,
                              const Op& op) {
  constexpr int kLoads = 2;
  const int64_t blocks = (end - first + kThreads - 1) / kThreads;  // per thread
  int64_t block = first + threadIdx.x * blocks;
  const int64_t last = block + blocks < end ? block + blocks : end;
  T mine = identity;
#pragma unroll 1
  for (; block < last; block += kLoads) {
    T values[kLoads];
    aggregates.wait_for(values, block, last, identity);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) mine = op(mine, values[i]);
  }
  return block_scan<kThreads>(mine, identity, op).total;
}

// Look-back in which the order of operations depends only on the distance to the earlier blocks. Identity elements at
// the far end, such as tiles of padding at the end of a row that is processed backward, leave the bits as they are.
template <int kThreads, class T, class Op>
__device__ inline T look_back_by_distance(const TileAggregates<T>& aggregates, int64_t first, int64_t end,
                                          const T& identity, const Op& op) {
  const auto nearer_first = [&](const T& nearer, const T& farther) { return op(farther, nearer); };
  T all = identity;
#pragma unroll 1
  for (int64_t last = end; last > first; last -= kThreads) {
    const int64_t block = last - 1 - threadIdx.x;
    T mine[1] = {identity};
    if (block >= first) aggregates.wait_for(mine, block, end, identity);
    all = nearer_first(all, block_scan<kThreads>(mine[0], identity, nearer_first).total);
  }
  return all;
}

}  // namespace segkernel
