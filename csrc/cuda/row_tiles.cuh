// Tiles of a row: a thread block processes a row tile by tile, each thread a few consecutive tokens of a tile.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "warp.cuh"

namespace segkernel {

// Constants for all GPUs and shapes, so that the order of a row's sums depends only on its tokens' positions.
constexpr int kThreads = 256;
constexpr int kItems = 4;
constexpr int kTile = kThreads * kItems;

// The type of one memory access: of `kBytes` bytes, at most 16.
template <size_t kBytes>
using VectorOf = std::conditional_t<kBytes >= 16, uint4, std::conditional_t<kBytes == 8, uint2, unsigned>>;

// Consecutive tokens.
template <class T, int kCount = kItems>
struct alignas(VectorOf<kCount * sizeof(T)>) Items {
  using Vector = VectorOf<kCount * sizeof(T)>;
  static_assert(kCount * sizeof(T) % sizeof(Vector) == 0);

  T of[kCount];
};

template <int kCount, class T, class Index>
__device__ inline bool whole_and_aligned(const T* row, Index first, Index length) {
  return first + kCount <= length && reinterpret_cast<uintptr_t>(row + first) % alignof(Items<T, kCount>) == 0;
}

// The thread's items, from index `first` of the row: vector accesses if aligned. Items past the row's end are
// value-initialized by loads and skipped by stores.
template <int kCount = kItems, class T, class Index>
__device__ inline Items<T, kCount> load_items(const T* row, Index first, Index length) {
  if (whole_and_aligned<kCount>(row, first, length)) return *reinterpret_cast<const Items<T, kCount>*>(row + first);
  Items<T, kCount> items{};
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (first + i < length) items.of[i] = row[first + i];
  }
  return items;
}

template <int kCount, class T, class Index>
__device__ inline void store_items(T* row, Index first, Index length, const Items<T, kCount>& items) {
  if (whole_and_aligned<kCount>(row, first, length)) {
    using Vector = typename Items<T, kCount>::Vector;
    Vector vectors[sizeof(items) / sizeof(Vector)];
    memcpy(vectors, &items, sizeof(items));
#pragma unroll
    for (size_t i = 0; i < sizeof(items) / sizeof(Vector); ++i) {
      __stwb(reinterpret_cast<Vector*>(row + first) + i, vectors[i]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (first + i < length) row[first + i] = items.of[i];
  }
}

// Clears the elements [first, last) of a row by all threads of the block: single stores up to an aligned address, then
// vector stores.
template <class T, class Index>
__device__ inline void clear_items(T* row, Index first, Index last) {
  const auto address = reinterpret_cast<uintptr_t>(row + first);
  const int past_aligned = static_cast<int>(address / sizeof(T) % kItems);
  const Index aligned = first + (kItems - past_aligned) % kItems;
  const Index single = first + threadIdx.x;
  if (single < aligned && single < last) row[single] = 0;
#pragma unroll 1
  for (Index i = aligned + threadIdx.x * kItems; i < last; i += blockDim.x * kItems) {
    store_items(row, i, last, Items<T>{});
  }
}

// Whether each of the thread's items is a valid token. `mask` is the whole batch's, or null: all tokens are valid.
template <int kCount = kItems>
__device__ inline Items<bool, kCount> load_valid(const bool* mask, int64_t row_begin, int64_t first, int64_t length) {
  if (mask != nullptr) return load_items<kCount>(mask + row_begin, first, length);
  Items<bool, kCount> valid;
#pragma unroll
  for (int i = 0; i < kCount; ++i) valid.of[i] = first + i < length;
  return valid;
}

// Scan state: the value at the last valid token of a run of tokens, if the run has one.
template <class C>
struct LastValid {
  C value;
  bool any;
};

template <class C>
__device__ inline LastValid<C> combine_last_valid(const LastValid<C>& earlier, const LastValid<C>& later) {
  return later.any ? later : earlier;
}

}  // namespace segkernel
