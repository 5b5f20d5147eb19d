// A block works through a row in tiles; of each, every thread has a few consecutive tokens.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "warp.cuh"

namespace segkernel {

// Fixed, so that the order in which a row is added up is the row's own: it depends on nothing but where its tokens are.
constexpr int kThreads = 256;
constexpr int kItems = 4;
constexpr int kTile = kThreads * kItems;

// As many bytes as one access moves of `kBytes`.
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

// The thread's tokens, from `first` of the row on: in whole vectors where the address allows. What lies past the row is
// value-initialised, and not stored.
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

// Which of them hold a token. `mask` is the whole batch's, or null: all valid.
__device__ inline Items<bool> load_valid(const bool* mask, int64_t row_begin, int64_t first, int64_t length) {
  if (mask != nullptr) return load_items(mask + row_begin, first, length);
  Items<bool> valid;
#pragma unroll
  for (int i = 0; i < kItems; ++i) valid.of[i] = first + i < length;
  return valid;
}

// The value at the last valid token of some tokens, if there is one: what the next valid token sees as the previous.
template <class C>
struct Latest {
  C value;
  bool any;
};

template <class C>
__device__ inline Latest<C> latest(const Latest<C>& earlier, const Latest<C>& later) {
  return later.any ? later : earlier;
}

}  // namespace segkernel
