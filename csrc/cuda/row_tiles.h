// A block works through a row in tiles; of each, every thread has a few consecutive tokens.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "warp.h"

namespace segkernel {

// Fixed, so that the order in which a row is added up is the row's own: it depends on nothing but where its tokens are.
constexpr int kThreads = 256;
constexpr int kItems = 4;
constexpr int kTile = kThreads * kItems;

template <class T>
struct alignas(kItems * sizeof(T)) Items {
  T of[kItems];
};

template <class T>
__device__ inline bool whole_and_aligned(const T* row, int64_t first, int64_t length) {
  return first + kItems <= length && reinterpret_cast<uintptr_t>(row + first) % alignof(Items<T>) == 0;
}

// The thread's tokens, [first, first + kItems) of the row: in one access where the address allows. What lies past the
// row is value-initialised, and not stored.
template <class T>
__device__ inline Items<T> load_items(const T* row, int64_t first, int64_t length) {
  if (whole_and_aligned(row, first, length)) return *reinterpret_cast<const Items<T>*>(row + first);
  Items<T> items{};
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (first + i < length) items.of[i] = row[first + i];
  }
  return items;
}

template <class T>
__device__ inline void store_items(T* row, int64_t first, int64_t length, const Items<T>& items) {
  if (whole_and_aligned(row, first, length)) {
    *reinterpret_cast<Items<T>*>(row + first) = items;
    return;
  }
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
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
