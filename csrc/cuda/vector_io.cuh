// Rows of any alignment, read and written 16 bytes at a time.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "../core/dtypes.h"

namespace segkernel {

template <class T>
constexpr int kPerVector = 16 / sizeof(T);

template <class T>
struct Elements {
  T at[kPerVector<T>];
};

template <class T>
__device__ inline uint4 words_of(const Elements<T>& elements) {
  uint4 words;
  memcpy(&words, &elements, sizeof(words));
  return words;
}

// Element j of a vector, widened.
template <class T>
__device__ inline compute_t<T> widened(const uint4& words, int j) {
  Elements<T> elements;
  memcpy(&elements, &words, sizeof(words));
  return widen(elements.at[j]);
}
// In one instruction, which compilers don't find by way of 16 bits.
template <>
__device__ inline float widened<bfloat16>(const uint4& words, int j) {
  const uint32_t pairs[] = {words.x, words.y, words.z, words.w};
  return float_from_bits(j % 2 == 0 ? pairs[j / 2] << 16 : pairs[j / 2] & 0xffff0000u);
}

// The 16 bytes that begin `bytes` (< 16) into the 32 bytes of `low` and `high`; without indexing, so in registers.
__device__ inline uint4 shifted(uint4 low, uint4 high, int bytes) {
  uint32_t words[] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  if (bytes & 8) {
#pragma unroll
    for (int i = 0; i < 6; ++i) words[i] = words[i + 2];
  }
  if (bytes & 4) {
#pragma unroll
    for (int i = 0; i < 5; ++i) words[i] = words[i + 1];
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint64_t pair = uint64_t{words[i + 1]} << 32 | words[i];
    words[i] = static_cast<uint32_t>(pair >> (8 * (bytes & 3)));
  }
  return {words[0], words[1], words[2], words[3]};
}

// The elements [0, count) of a row in vectors of kPerVector<T> of them, which begin at element `first` and every
// kPerVector<T> from there on. Where 16-byte boundaries do not divide the row in the same way, a vector is put together
// from the two aligned ones that it lies in: so which elements a thread works on need not depend on the alignment.
template <class T>
class RowVectors {
 public:
  __device__ RowVectors(const T* row, int count, int first)
      : before_(misalignment(row, first)), aligned_(row - before_), count_(count) {}

  // Whether all vectors from the one that begins at element `i` to the one that begins at `last` can be loaded without
  // touching memory outside of the row.
  __device__ bool loadable(int i, int last) const {
    return i >= before_ && last - before_ + (before_ == 0 ? 1 : 2) * kPerVector<T> <= count_;
  }

  // The vectors at i, i + stride, ...: all loads are on their way before the first is waited for.
  template <int kCount>
  __device__ void load(int i, int stride, uint4 (&words)[kCount]) const {
    const uint4* from = vector(i);
    const int step = stride / kPerVector<T>;
    if (before_ == 0) {
#pragma unroll
      for (int u = 0; u < kCount; ++u) words[u] = load_aligned(from + u * step);
    } else {
#pragma unroll
      for (int u = 0; u < kCount; ++u) words[u] = load_shifted(from + u * step);
    }
  }

  // The same where some can't be loaded: of those, whatever elements lie in the row, and zeros.
  template <int kCount>
  __device__ void gather(int i, int stride, uint4 (&words)[kCount]) const {
#pragma unroll
    for (int u = 0; u < kCount; ++u) {
      const int at = i + u * stride;
      if (loadable(at, at)) {
        words[u] = before_ == 0 ? load_aligned(vector(at)) : load_shifted(vector(at));
        continue;
      }
      Elements<T> elements{};
#pragma unroll
      for (int j = 0; j < kPerVector<T>; ++j) {
        if (at + j >= 0 && at + j < count_) elements.at[j] = aligned_[before_ + at + j];
      }
      words[u] = words_of(elements);
    }
  }

 private:
  static __device__ int misalignment(const T* row, int first) {
    const auto bytes = reinterpret_cast<uintptr_t>(row) + first * static_cast<intptr_t>(sizeof(T));
    return static_cast<int>(bytes % 16 / sizeof(T));
  }

  __device__ const uint4* vector(int i) const { return reinterpret_cast<const uint4*>(aligned_ + i); }

  // What is read here is read once: it may be the first to leave the cache.
  __device__ uint4 load_aligned(const uint4* from) const { return __ldcs(from); }

  // The second vector is the next thread's first one: so these had better stay in the cache.
  __device__ uint4 load_shifted(const uint4* from) const {
    return shifted(from[0], from[1], before_ * static_cast<int>(sizeof(T)));
  }

  int before_;        // elements between the 16-byte boundary before a vector and the vector
  const T* aligned_;  // the row, that much earlier
  int count_;
};

// Writes the vector that begins at element `i`, of which the row's [0, count) are written. `out + i` is aligned.
template <class T>
__device__ inline void store_vector(T* out, int count, int i, const Elements<T>& elements) {
  if (i >= 0 && i + kPerVector<T> <= count) {
    *reinterpret_cast<uint4*>(out + i) = words_of(elements);
    return;
  }
#pragma unroll
  for (int j = 0; j < kPerVector<T>; ++j) {
    if (i + j >= 0 && i + j < count) out[i + j] = elements.at[j];
  }
}

// The element, not after the first, where a vector begins that lies on a 16-byte boundary of `out`.
template <class T>
__device__ inline int first_vector(const T* out) {
  return -static_cast<int>(reinterpret_cast<uintptr_t>(out) % 16 / sizeof(T));
}

}  // namespace segkernel
